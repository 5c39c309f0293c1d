"""Derivatives: one call form over automatic differentiation, finite differences and the user's own formulas."""

from jaxdiff.derivatives.api import derivative as derivative
from jaxdiff.derivatives.api import directional_derivative as directional_derivative
from jaxdiff.derivatives.api import gradient as gradient
from jaxdiff.derivatives.api import hessian as hessian
from jaxdiff.derivatives.api import hvp as hvp
from jaxdiff.derivatives.api import jacobian as jacobian
from jaxdiff.derivatives.api import partial as partial
from jaxdiff.derivatives.api import value_and_gradient as value_and_gradient
from jaxdiff.derivatives.autodiff import Autodiff as Autodiff
from jaxdiff.derivatives.finite import FiniteDifference as FiniteDifference
from jaxdiff.derivatives.protocol import Method as Method
from jaxdiff.derivatives.stencils import Stencil as Stencil
from jaxdiff.derivatives.stencils import exact_weights as exact_weights
from jaxdiff.derivatives.stencils import stencil_for as stencil_for
from jaxdiff.derivatives.stencils import stencil_table as stencil_table
from jaxdiff.derivatives.steps import default_step as default_step
from jaxdiff.derivatives.supplied import Supplied as Supplied
