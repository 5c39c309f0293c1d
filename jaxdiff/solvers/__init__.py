"""Solvers: one file each, one contract, none importing another.

``SOLVERS`` lists those that minimize by the name that configs and messages use, ``ROOT_SOLVERS`` those that find roots.
"""

from typing import Any

from jaxdiff.solvers.base import Solver as Solver
from jaxdiff.solvers.base import State as State
from jaxdiff.solvers.bfgs import BFGS as BFGS
from jaxdiff.solvers.bracketing import Bisection as Bisection
from jaxdiff.solvers.bracketing import Chandrupatla as Chandrupatla
from jaxdiff.solvers.broyden import Broyden as Broyden
from jaxdiff.solvers.dogleg import Dogleg as Dogleg
from jaxdiff.solvers.first_order import FromOptax as FromOptax
from jaxdiff.solvers.gauss_newton import GaussNewton as GaussNewton
from jaxdiff.solvers.gradient_descent import GradientDescent as GradientDescent
from jaxdiff.solvers.lbfgs import LBFGS as LBFGS
from jaxdiff.solvers.levenberg_marquardt import LevenbergMarquardt as LevenbergMarquardt
from jaxdiff.solvers.levenberg_marquardt_cholesky import LevenbergMarquardtCholesky as LevenbergMarquardtCholesky
from jaxdiff.solvers.newton import Newton as Newton
from jaxdiff.solvers.newton_root import NewtonRoot as NewtonRoot
from jaxdiff.solvers.nonlinear_cg import NonlinearCG as NonlinearCG
from jaxdiff.solvers.to_optax import as_optax as as_optax
from jaxdiff.solvers.trust_region_newton import TrustRegionNewton as TrustRegionNewton
from jaxdiff.solvers.trust_region_newton_cg import TrustRegionNewtonCG as TrustRegionNewtonCG

SOLVERS: dict[str, type[Any]] = {
    solver.name: solver
    for solver in (
        BFGS,
        LBFGS,
        Dogleg,
        GaussNewton,
        GradientDescent,
        LevenbergMarquardt,
        LevenbergMarquardtCholesky,
        Newton,
        NonlinearCG,
        TrustRegionNewton,
        TrustRegionNewtonCG,
        FromOptax,
    )
}

ROOT_SOLVERS: dict[str, type[Any]] = {solver.name: solver for solver in (NewtonRoot, Broyden, Chandrupatla, Bisection)}
