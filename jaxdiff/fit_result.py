"""What comes out of a fit: the result of a solver, with what the data say of its parameters."""

import html
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
        if np.ndim(self.status) != 0:
            return OptimizeResult.__str__(self)
        table = self._table()
        widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:4], widths[1:4]), *row[4:]]).rstrip() for row in table]
        return "\n".join([self.message, self._summary(), "", *lines, *([""] if self._remarks() else []), *self._remarks()])

    __repr__ = __str__

    def __rich__(self) -> Any:
        if np.ndim(self.status) != 0:
            return OptimizeResult.__rich__(self)
        from rich.table import Table

        head, *rows = self._table()
        table = Table(*head, title=self.message, title_justify="left", caption="\n".join([self._summary(), *self._remarks()]))
        for row in rows:
            table.add_row(*row)
        return table

    def _repr_html_(self) -> str:
        if isinstance(self.status, Tracer) or np.ndim(self.status) != 0:
            return OptimizeResult._repr_html_(self)
        text = lambda words: html.escape(str(words))  # noqa: E731
        head, *rows = self._table()
        cells = "".join(f"<th style='text-align:left'>{text(word)}</th>" for word in head)
        body = "".join(
            f"<tr><th style='text-align:left'>{text(row[0])}</th>{''.join(f'<td>{text(c)}</td>' for c in row[1:])}</tr>" for row in rows
        )
        notes = "".join(f"<p>{text(line)}</p>" for line in self._remarks())
        return f"<p><b>{text(self.message)}</b><br>{text(self._summary())}</p><table><tr>{cells}</tr>{body}</table>{notes}"

    def _summary(self) -> str:
        """Status, effort and misfit in one line."""
        parts = [self.status_name, f"{int(self.nit)} steps", f"{int(self.nfev)} evaluations", f"cost {float(self.fun):.8g}"]
        dof = int(self.dof)
        parts.append(f"{dof} degrees of freedom")
        if dof > 0:
            parts.append(f"residual standard deviation {np.sqrt(2 * float(self.fun) / dof):.4g}")
        return ", ".join(parts)

    def _names(self) -> list[str]:
        """What each number of x is called: ``x[0]``, ``x['rate']``."""
        names = []
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.x):
            stem = f"x{jax.tree_util.keystr(path)}"
            names += [f"{stem}[{', '.join(map(str, index))}]" if index else stem for index in np.ndindex(np.shape(leaf))]
        return names

    def _table(self) -> list[list[str]]:
        """A head, and a row per parameter: name, value to the digits that its error leaves, standard error, relative error, place."""
        flat = lambda tree: np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])  # noqa: E731
        values, flags = flat(self.x), flat(self.at_bound).astype(int)
        has_errors = self.standard_errors is not None
        errors = flat(self.standard_errors) if has_errors else np.full(values.shape, np.nan)
        rows = [["parameter", "value", *(["standard error", "relative"] if has_errors else ["", ""]), ""]]
        for name, value, error, flag in zip(self._names(), values, errors, flags, strict=True):
            known = np.isfinite(error) and error > 0
            shown = [f"{error:.3g}" if has_errors else "", f"{error / abs(value):.1%}" if known and value != 0 else ""]
            rows.append([name, _digits(value, error if known else 0.0), *shown, _PLACES.get(flag, "")])
        return rows

    def _remarks(self) -> list[str]:
        """A rank that is not full, and parameters that the data hardly tell apart, in words."""
        lines = []
        if self.is_full_rank is not None and not bool(self.is_full_rank):
            lines.append(
                f"The Jacobian has rank {int(self.rank)} only: the data do not determine all parameters; their errors are infinite."
            )
        if self.correlation is not None:
            matrix, names = np.asarray(self.correlation), self._names()
            pairs = [(abs(matrix[i, j]), i, j) for i in range(len(names)) for j in range(i) if abs(matrix[i, j]) > 0.9]
            for _, i, j in sorted(pairs, reverse=True)[:5]:
                lines.append(f"{names[j]} and {names[i]} have correlation {matrix[i, j]:+.4f}.")
            if len(pairs) > 5:
                lines.append(f"{len(pairs) - 5} more pairs have correlations beyond 0.9.")
        return lines


_PLACES = {-1: "at its lower bound", 1: "at its upper bound", 2: "fixed"}


def _digits(value: float, error: float) -> str:
    """A value with as many digits as its error leaves, two of them in doubt; eight where there is none.

    Example:
        >>> _digits(1288.13968, 4.66), _digits(0.25, 0.0)
        ('1288.1', '0.25')
    """
    if error <= 0 or not np.isfinite(value) or value == 0:
        return f"{value:.8g}"
    places = int(np.floor(np.log10(abs(value)))) - int(np.floor(np.log10(error))) + 2
    return f"{value:#.{min(max(places, 1), 15)}g}".rstrip(".")
