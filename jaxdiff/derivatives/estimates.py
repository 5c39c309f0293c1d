"""What an estimate of a derivative says, and the verdict on values of f along a line: which windows to believe, or why none.

The derivative itself comes from windows on both sides of x (`ladder`); windows on one side stand in where f is not finite, or may not be
evaluated, on the other, and tell a kink: they see the slope from the left and the slope from the right, each with a bar of its own, and if
those do not meet there is no derivative to estimate.
"""

import dataclasses
import enum
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._compile import jit_quickly
from jaxdiff._numerics import machine_epsilon
from jaxdiff._pytree import pytree_dataclass
from jaxdiff._validation import is_traced
from jaxdiff.derivatives.ladder import Judged, Ladder, Samples, count_below, judge

# One side is taken instead of both where its bar is smaller by this factor: x is close to the edge of where f may be evaluated.
_CLEARLY_BETTER = 3.0
# Slopes of both sides differ when they are this many times the sum of their bars apart.
_CLEARLY_APART = 3.0
# Those of higher derivatives from one side are less certain.
_CLEARLY_APART_HIGHER = 10.0
# Noise above so many times the rounding of f is not rounding.
_NOISY = 1e3
# A jump is so many times what f changes by between neighbouring steps. f is off at all of the nearest thirteen steps (four octaves), and
# quiet over thirty: the plateaus of a value rounded within f end before.
_JUMP = 100.0
_NEAREST = 13
_NEAR = 30
# A power of h between one and two in f shows as one ratio of so many neighbouring quotients at the smallest steps, alike to a twentieth:
# a half would be that of any smooth f, one that of a slope without limit. The bar reaches to the limit, and half as far beyond it.
_LAWFUL = 8
_RATIOS = (0.53, 0.97)
_ALIKE = 0.05
_BEYOND_LIMIT = 1.5


class EstimateStatus(enum.IntEnum):
    """Whether there is a derivative, and how far its estimate is to be believed."""

    OK = 0
    """The error bar is to be believed."""
    NOISY = 1
    """So it is, and f carries noise far above rounding, which the bar and the step take into account."""
    KINK = 2
    """f or one of its lower derivatives has different derivatives to the left and to the right: there is none at x. The value is NaN."""
    JUMP = 3
    """f itself is not continuous at x. The value is NaN."""
    NON_FINITE = 4
    """f is not finite at x. The value is NaN."""
    INCONCLUSIVE = 5
    """f's values allow no useful estimate. The value is the best guess, or NaN; the bar is infinite."""


@pytree_dataclass
class Estimate:
    """A derivative with an error bar; arrays of one shape, or pytrees of them.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> estimate = jd.estimate(jnp.abs, jnp.array([0.0, 1.0]))
        >>> [jd.EstimateStatus(int(status)).name for status in estimate.status]
        ['KINK', 'OK']
    """

    value: Any
    """The derivative; NaN where there is none."""
    error: Any
    """The error bar, absolute: the true derivative lies within it. Infinite where nothing is known."""
    step: Any
    """The largest step of the window that was taken, in units of x."""
    noise: Any
    """Root mean square error of one value of f there, measured; at least half a unit in its last place."""
    status: Any
    """`EstimateStatus` as integers."""
    left: Any
    """Slope (first derivative) from the left at a kink; NaN elsewhere."""
    right: Any
    """Slope from the right at a kink; NaN elsewhere."""
    num_evals: Any
    """Evaluations of f that the number rests on, or of its gradient, in a Hessian from gradients. All outputs of f share those along one
    coordinate."""

    def __repr__(self) -> str:
        shape = np.shape(self.value) if isinstance(self.value, (jax.Array, np.ndarray)) else None
        if shape != () or is_traced(self.value):
            fields = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self))
            return f"Estimate({fields})"
        word = EstimateStatus(int(self.status)).name.lower().replace("_", "-")
        sides = f", slopes {float(self.left):.6g} and {float(self.right):.6g}" if self.status == EstimateStatus.KINK else ""
        return f"Estimate({float(self.value)!r} +- {float(self.error):.1e}, {word}{sides}, {int(self.num_evals)} evaluations)"


def conclude(samples: Samples, ladder: Ladder, n: int) -> Estimate:
    """The n-th derivative at every one of L points from f's values around them; every field is [L].

    Several programs outside of a trace: what is asked of one side is then compiled once for all orders.
    """
    both = _both(samples, ladder, n)
    # One side knows polynomials only.
    ladder = dataclasses.replace(ladder, extrapolation="polynomial")
    sides = [_sides(samples, ladder, order) for order in range(1, n + 1)]
    return _decide(samples, ladder, n, both, sides)


_compiled = functools.partial(jit_quickly, num_lanes=lambda samples, *_: samples.x.size, static_argnums=(1, 2))


@_compiled
def _both(samples: Samples, ladder: Ladder, n: int) -> Judged:
    return judge(samples, ladder, "odd" if n % 2 else "even", n)


@_compiled
def _sides(samples: Samples, ladder: Ladder, order: int) -> tuple[Judged, Judged]:
    """A derivative from the left, and from the right: both at once, the left as the right of the mirror image, to compile it once."""
    mirrored = samples._replace(x=-samples.x, right=samples.left, left=samples.right)
    both = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=-1), mirrored, samples)
    found, size = judge(both, ladder, "side", order), samples.x.size
    left, right = (jax.tree.map(lambda leaf, part=part: leaf[part], found) for part in (slice(size), slice(size, None)))
    return left._replace(value=(-1) ** order * left.value), right


@_compiled
def _decide(samples: Samples, ladder: Ladder, n: int, both: Judged, sides: list[tuple[Judged, Judged]]) -> Estimate:
    f0 = samples.centre
    epsilon = machine_epsilon(f0.dtype)
    limits = _limit(samples, samples.left, -1), _limit(samples, samples.right, 1)
    sides = [(_up_to_limit(sides[0][0], limits[0]), _up_to_limit(sides[0][1], limits[1])), *sides[1:]]
    if n == 1:
        both = functools.reduce(_up_to_limit, limits, both)
    is_kink = functools.reduce(jnp.logical_or, [_are_apart(left, right, i) for i, (left, right) in enumerate(sides, start=1)])
    is_jump = _is_jump(samples)

    taken = both
    for near, beyond in zip(sides[-1], (samples.right, samples.left), strict=True):
        is_edge = jnp.any(samples.steps.is_usable & ~jnp.isfinite(beyond), axis=(0, 1))
        is_better = is_edge & (_CLEARLY_BETTER * near.bar < taken.bar)
        taken = jax.tree.map(lambda a, b, is_better=is_better: jnp.where(is_better, a, b), near, taken)

    largest = jnp.maximum(jnp.abs(f0), taken.span)
    is_vague = (taken.bar > jnp.abs(taken.value) / 2) & (taken.bar * taken.step**n > jnp.sqrt(epsilon) * largest)
    status = jnp.where(taken.noise > _NOISY * epsilon * largest, EstimateStatus.NOISY, EstimateStatus.OK)
    status = jnp.where(is_vague | ~jnp.isfinite(taken.bar), EstimateStatus.INCONCLUSIVE, status)
    status = jnp.where(is_kink, EstimateStatus.KINK, status)
    status = jnp.where(is_jump, EstimateStatus.JUMP, status)
    status = jnp.where(jnp.isfinite(f0), status, EstimateStatus.NON_FINITE)
    has_value = (status != EstimateStatus.KINK) & (status != EstimateStatus.JUMP) & (status != EstimateStatus.NON_FINITE)
    return Estimate(
        value=jnp.where(has_value, taken.value, jnp.nan),
        error=jnp.where(has_value & (status != EstimateStatus.INCONCLUSIVE), taken.bar, jnp.inf),
        step=taken.step,
        noise=taken.noise,
        status=status.astype(jnp.int32),
        left=jnp.where(status == EstimateStatus.KINK, sides[0][0].value, jnp.nan),
        right=jnp.where(status == EstimateStatus.KINK, sides[0][1].value, jnp.nan),
        num_evals=jnp.full(f0.shape, ladder.num_evaluations, jnp.int32),
    )


def _are_apart(left: Judged, right: Judged, order: int) -> jax.Array:
    apart = jnp.abs(right.value - left.value)  # NaN, and so not apart, where one side has nothing to say
    return apart > (_CLEARLY_APART if order == 1 else _CLEARLY_APART_HIGHER) * (left.bar + right.bar)


def _limit(samples: Samples, values: jax.Array, sign: int) -> jax.Array:
    """The slope of one side that quotients tend to by a power of the step; NaN where they follow none, or one that windows know, [L]."""
    h, usable = samples.steps.h[:, 0], samples.steps.is_usable[:, 0] & jnp.isfinite(values[:, 0])
    quotient = sign * (values[:, 0] - samples.centre) / h
    step = quotient[:-1] - quotient[1:]
    is_ok = usable[:-2] & usable[1:-1] & usable[2:] & (step[:-1] != 0)
    ratio = step[1:] / jnp.where(is_ok, step[:-1], 1)
    rank = jnp.cumsum(is_ok[::-1], axis=0)[::-1]
    is_last = is_ok & (rank <= _LAWFUL)
    low, high = jnp.min(jnp.where(is_last, ratio, jnp.inf), axis=0), jnp.max(jnp.where(is_last, ratio, -jnp.inf), axis=0)
    is_lawful = (jnp.sum(is_last, axis=0) == _LAWFUL) & (low > _RATIOS[0]) & (high < _RATIOS[1]) & (high - low < _ALIKE)
    # Without the gap that the steps beside a tiny x have.
    is_lawful &= samples.steps.is_contiguous
    last = is_ok & (rank == 1)
    at, change, ratio = (jnp.sum(jnp.where(last, leaf, 0), axis=0) for leaf in (quotient[2:], step[1:], ratio))
    return jnp.where(is_lawful, at - change * ratio / (1 - jnp.where(is_lawful, ratio, 0)), jnp.nan)


def _up_to_limit(found: Judged, limit: jax.Array) -> Judged:
    """With a bar that reaches the limit, where there is one."""
    return found._replace(bar=jnp.fmax(found.bar, _BEYOND_LIMIT * jnp.abs(found.value - limit)))


def _is_jump(samples: Samples) -> jax.Array:
    """Whether f next to x, at the smallest usable steps, is far from f(x), measured by its changes on that side."""
    f0, usable = samples.centre, samples.steps.is_usable
    gaps, changes = [], []
    for values in (samples.left, samples.right):
        flat, is_ok = values.reshape(-1, values.shape[-1]), (usable & jnp.isfinite(values)).reshape(-1, values.shape[-1])
        rank = count_below(is_ok)
        nearest, near = is_ok & (rank <= _NEAREST), is_ok & (rank <= _NEAR)
        gap = jnp.min(jnp.where(nearest, jnp.abs(flat - f0), jnp.inf), axis=0)
        change = jnp.abs(jnp.diff(flat, axis=0))
        change = jnp.max(jnp.where(near[1:] & near[:-1], change, 0), axis=0)
        rounding = machine_epsilon(f0.dtype) * jnp.max(jnp.where(nearest, jnp.abs(flat), 0), axis=0)
        gaps.append(jnp.where(jnp.sum(nearest, axis=0) == _NEAREST, gap, 0))
        changes.append(jnp.maximum(change, rounding))
    gap = jnp.maximum(*gaps)
    return jnp.isfinite(gap) & (gap > _JUMP * jnp.maximum(*changes))
