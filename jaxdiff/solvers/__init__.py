"""Solvers: one file each, one contract, none importing another.

``SOLVERS`` lists those that minimize by the name that configs and messages use, ``ROOT_SOLVERS`` those that find roots.
"""

from typing import Any

from jaxdiff.solvers.base import Solver as Solver
from jaxdiff.solvers.base import State as State
from jaxdiff.solvers.bfgs import BFGS as BFGS
from jaxdiff.solvers.dogleg import Dogleg as Dogleg
from jaxdiff.solvers.first_order import FromOptax as FromOptax
from jaxdiff.solvers.gauss_newton import GaussNewton as GaussNewton
from jaxdiff.solvers.gradient_descent import GradientDescent as GradientDescent
from jaxdiff.solvers.lbfgs import LBFGS as LBFGS
from jaxdiff.solvers.levenberg_marquardt import LevenbergMarquardt as LevenbergMarquardt
from jaxdiff.solvers.newton import Newton as Newton
from jaxdiff.solvers.newton_root import NewtonRoot as NewtonRoot

SOLVERS: dict[str, type[Any]] = {
    solver.name: solver for solver in (BFGS, LBFGS, Dogleg, GaussNewton, GradientDescent, LevenbergMarquardt, Newton, FromOptax)
}

ROOT_SOLVERS: dict[str, type[Any]] = {solver.name: solver for solver in (NewtonRoot,)}
