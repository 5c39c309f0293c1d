"""The kinds of experiment, by the name that a configuration calls them. A new kind is one class and one line here."""

from jaxdiff.experiments.base import Experiment
from jaxdiff.experiments.kinds.accuracy import Accuracy

KINDS: dict[str, type[Experiment]] = {
    "accuracy": Accuracy,
}
