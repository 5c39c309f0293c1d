"""The kinds of experiment, by the name that a configuration calls them. A new kind is one class and one line here."""

from jaxdiff.experiments.base import Experiment
from jaxdiff.experiments.kinds.accuracy import Accuracy
from jaxdiff.experiments.kinds.batch import Batch
from jaxdiff.experiments.kinds.classification import Classification
from jaxdiff.experiments.kinds.documented_derivatives import DocumentedDerivatives
from jaxdiff.experiments.kinds.gradient_flow import GradientFlow
from jaxdiff.experiments.kinds.nist import Nist
from jaxdiff.experiments.kinds.optimizers import Optimizers

KINDS: dict[str, type[Experiment]] = {
    "accuracy": Accuracy,
    "documented_derivatives": DocumentedDerivatives,
    "gradient_flow": GradientFlow,
    "optimizers": Optimizers,
    "nist": Nist,
    "classification": Classification,
    "batch": Batch,
}
