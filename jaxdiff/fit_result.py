"""What comes out of a fit: the result of a solver, with what the data say of its parameters."""

from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jaxdiff._pytree import pytree_dataclass
from jaxdiff._types import PyTree
from jaxdiff.result import OptimizeResult


@pytree_dataclass
class FitResult(OptimizeResult):
    """What least squares found. For a batch every field has a leading axis of problems.

    ``fun`` is the cost, half the sum of the losses of the residuals, and ``jac`` its gradient; ``optimality`` leaves out the parameters
    that a bound holds. The covariance is ``s^2 (J'J)^{-1}`` of the flattened parameters, ``s^2 = 2 fun / dof``; where J has not full rank
    it is infinite, since the data do not determine the parameters.

    Attributes:
        residuals: the residuals at x, flat, ``[m]``.
        dof: degrees of freedom: residuals less the parameters that no bound holds.
        rank: rank of the Jacobian of these parameters; where ``covariance`` is asked for.
        is_full_rank: whether it is full; where ``covariance`` is asked for.
        standard_errors: roots of the diagonal of the covariance, like x; 0 for a fixed parameter, NaN for one held at a bound.
        correlation: the covariance with its diagonal scaled to one, ``[n, n]``.
    """

    residuals: Any = None
    dof: Any = None
    rank: Any = None
    is_full_rank: Any = None
    standard_errors: PyTree = None
    correlation: Any = None

    def __str__(self) -> str:
        if isinstance(self.status, Tracer):
            return object.__repr__(self)
        text = OptimizeResult.__str__(self)
        if np.ndim(self.status) != 0:
            return text
        return "\n".join([text, *self._sentences()])

    __repr__ = __str__

    def _sentences(self) -> list[str]:
        """The parameters with their standard errors, bounds that hold, and a rank that is not full, in words. One problem only."""
        lines = []
        places = {-1: "on its lower bound", 1: "on its upper bound", 2: "fixed"}
        errors = jax.tree.leaves(self.standard_errors) if self.standard_errors is not None else None
        leaves = jax.tree_util.tree_leaves_with_path(self.x)
        for number, (path, leaf) in enumerate(leaves):
            flags = np.ravel(np.asarray(jax.tree.leaves(self.at_bound)[number]))
            values = np.ravel(np.asarray(leaf))
            for index in np.ndindex(np.shape(leaf)):
                flat = int(np.ravel_multi_index(index, np.shape(leaf))) if index else 0
                name = f"x{jax.tree_util.keystr(path)}{list(index) if index else ''}"
                note = f", {places[int(flags[flat])]}" if int(flags[flat]) in places else ""
                if errors is not None:
                    lines.append(f"{name} = {values[flat]:.8g} +- {np.ravel(np.asarray(errors[number]))[flat]:.3g}{note}")
                elif note:
                    lines.append(f"{name} = {values[flat]:.8g}{note}")
        if self.is_full_rank is not None and not bool(self.is_full_rank):
            lines.append(
                f"The Jacobian has rank {int(self.rank)} only: the data do not determine all parameters; their errors are infinite."
            )
        return lines
