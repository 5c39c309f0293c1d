"""Values and documented derivatives: activations, losses, rules of differentiation, a small network, and standard test problems."""

from jaxdiff.functions.mgh import MghBounds as MghBounds
from jaxdiff.functions.mgh import MghProblem as MghProblem
from jaxdiff.functions.mgh import load_mgh as load_mgh
from jaxdiff.functions.nist import NistDataset as NistDataset
from jaxdiff.functions.nist import load_nist as load_nist
from jaxdiff.functions.nist import log_relative_error as log_relative_error
from jaxdiff.functions.problems import PROBLEMS as PROBLEMS
from jaxdiff.functions.problems import StandardProblem as StandardProblem
from jaxdiff.functions.problems import get_problem as get_problem
from jaxdiff.functions.problems import quadratic as quadratic
