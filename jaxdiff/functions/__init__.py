"""Values and documented derivatives: activations, losses, rules of differentiation, a small network, and standard test problems."""

from jaxdiff.functions.nist import NistDataset as NistDataset
from jaxdiff.functions.nist import load_nist as load_nist
from jaxdiff.functions.nist import log_relative_error as log_relative_error
