"""Derivatives you can trust, a million small optimizations at once, experiments you can rerun; on JAX.

Importing this package starts no JAX backend and sets no JAX flag. Names are loaded at their first use (PEP 562), so that the command line
can answer ``--help`` without importing JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxdiff._version import __version__ as __version__

if TYPE_CHECKING:
    from jaxdiff import derivatives as derivatives
    from jaxdiff import diagnostics as diagnostics
    from jaxdiff import functions as functions
    from jaxdiff._api import minimize as minimize
    from jaxdiff._api import minimize_batch as minimize_batch
    from jaxdiff._fit import curve_fit as curve_fit
    from jaxdiff._fit import curve_fit_batch as curve_fit_batch
    from jaxdiff._fit import least_squares as least_squares
    from jaxdiff._fit import least_squares_batch as least_squares_batch
    from jaxdiff._multistart import MultistartResult as MultistartResult
    from jaxdiff._multistart import multistart as multistart
    from jaxdiff._progress import Progress as Progress
    from jaxdiff._root import root as root
    from jaxdiff._root import root_batch as root_batch
    from jaxdiff._root import root_scalar as root_scalar
    from jaxdiff._root import root_scalar_batch as root_scalar_batch
    from jaxdiff._validation import PrecisionWarning as PrecisionWarning
    from jaxdiff.batch import BatchOptions as BatchOptions
    from jaxdiff.batch_report import BatchReport as BatchReport
    from jaxdiff.batch_report import WorstProblem as WorstProblem
    from jaxdiff.derivatives import Adaptive as Adaptive
    from jaxdiff.derivatives import Autodiff as Autodiff
    from jaxdiff.derivatives import ComplexStep as ComplexStep
    from jaxdiff.derivatives import DerivativeReport as DerivativeReport
    from jaxdiff.derivatives import Estimate as Estimate
    from jaxdiff.derivatives import EstimateStatus as EstimateStatus
    from jaxdiff.derivatives import FiniteDifference as FiniteDifference
    from jaxdiff.derivatives import Supplied as Supplied
    from jaxdiff.derivatives import check_derivatives as check_derivatives
    from jaxdiff.derivatives import check_rule as check_rule
    from jaxdiff.derivatives import derivative as derivative
    from jaxdiff.derivatives import directional_derivative as directional_derivative
    from jaxdiff.derivatives import estimate as estimate
    from jaxdiff.derivatives import gradient as gradient
    from jaxdiff.derivatives import hessian as hessian
    from jaxdiff.derivatives import hvp as hvp
    from jaxdiff.derivatives import jacobian as jacobian
    from jaxdiff.derivatives import partial as partial
    from jaxdiff.derivatives import value_and_gradient as value_and_gradient
    from jaxdiff.diagnostics import GradientFlow as GradientFlow
    from jaxdiff.diagnostics import StepSweep as StepSweep
    from jaxdiff.diagnostics import gradient_flow as gradient_flow
    from jaxdiff.diagnostics import mlp_gradient_flow as mlp_gradient_flow
    from jaxdiff.diagnostics import step_sweep as step_sweep
    from jaxdiff.experiments.accuracy_benchmark import AccuracyTable as AccuracyTable
    from jaxdiff.experiments.accuracy_benchmark import accuracy_benchmark as accuracy_benchmark
    from jaxdiff.fit_result import FitResult as FitResult
    from jaxdiff.result import History as History
    from jaxdiff.result import OptimizationError as OptimizationError
    from jaxdiff.result import OptimizeResult as OptimizeResult
    from jaxdiff.result import Status as Status
    from jaxdiff.root_result import RootResult as RootResult
    from jaxdiff.solvers import BFGS as BFGS
    from jaxdiff.solvers import LBFGS as LBFGS
    from jaxdiff.solvers import ROOT_SOLVERS as ROOT_SOLVERS
    from jaxdiff.solvers import SOLVERS as SOLVERS
    from jaxdiff.solvers import Bisection as Bisection
    from jaxdiff.solvers import Broyden as Broyden
    from jaxdiff.solvers import Chandrupatla as Chandrupatla
    from jaxdiff.solvers import Dogleg as Dogleg
    from jaxdiff.solvers import FromOptax as FromOptax
    from jaxdiff.solvers import GaussNewton as GaussNewton
    from jaxdiff.solvers import GradientDescent as GradientDescent
    from jaxdiff.solvers import LevenbergMarquardt as LevenbergMarquardt
    from jaxdiff.solvers import LevenbergMarquardtCholesky as LevenbergMarquardtCholesky
    from jaxdiff.solvers import Newton as Newton
    from jaxdiff.solvers import NewtonRoot as NewtonRoot
    from jaxdiff.solvers import NonlinearCG as NonlinearCG
    from jaxdiff.solvers import TrustRegionNewton as TrustRegionNewton
    from jaxdiff.solvers import TrustRegionNewtonCG as TrustRegionNewtonCG
    from jaxdiff.solvers import as_optax as as_optax

_SUBPACKAGES = ("derivatives", "diagnostics", "functions")

_PUBLIC = {
    "jaxdiff._api": ("minimize", "minimize_batch"),
    "jaxdiff._multistart": ("MultistartResult", "multistart"),
    "jaxdiff._progress": ("Progress",),
    "jaxdiff._fit": ("curve_fit", "curve_fit_batch", "least_squares", "least_squares_batch"),
    "jaxdiff._root": ("root", "root_batch", "root_scalar", "root_scalar_batch"),
    "jaxdiff._validation": ("PrecisionWarning",),
    "jaxdiff.batch": ("BatchOptions",),
    "jaxdiff.batch_report": ("BatchReport", "WorstProblem"),
    "jaxdiff.derivatives": (
        "Adaptive",
        "Autodiff",
        "DerivativeReport",
        "Estimate",
        "EstimateStatus",
        "ComplexStep",
        "FiniteDifference",
        "Supplied",
        "check_derivatives",
        "check_rule",
        "derivative",
        "directional_derivative",
        "estimate",
        "gradient",
        "hessian",
        "hvp",
        "jacobian",
        "partial",
        "value_and_gradient",
    ),
    "jaxdiff.fit_result": ("FitResult",),
    "jaxdiff.diagnostics": ("GradientFlow", "StepSweep", "gradient_flow", "mlp_gradient_flow", "step_sweep"),
    "jaxdiff.experiments.accuracy_benchmark": ("AccuracyTable", "accuracy_benchmark"),
    "jaxdiff.result": ("History", "OptimizationError", "OptimizeResult", "Status"),
    "jaxdiff.root_result": ("RootResult",),
    "jaxdiff.solvers": (
        "BFGS",
        "LBFGS",
        "ROOT_SOLVERS",
        "SOLVERS",
        "Bisection",
        "Broyden",
        "Chandrupatla",
        "Dogleg",
        "FromOptax",
        "GaussNewton",
        "GradientDescent",
        "LevenbergMarquardt",
        "LevenbergMarquardtCholesky",
        "Newton",
        "NewtonRoot",
        "NonlinearCG",
        "TrustRegionNewton",
        "TrustRegionNewtonCG",
        "as_optax",
    ),
}
"""Where each public name lives; the same names as above, which type checkers and editors read."""

_HOME = {name: module for module, names in _PUBLIC.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"jaxdiff.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'jaxdiff' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    own = {name for name in globals() if name.startswith("__")}
    return sorted({*own, *_SUBPACKAGES, *_HOME})
