"""The questions that a check of derivatives asks of one function at one point, and what follows from the answers.

A trial is one direction in one mode: autodiff's slopes with their measured rounding beside finite differences with their bars, for every
output of f or every cotangent. `check` tells what is compared and why; here is how.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import machine_epsilon
from jaxdiff.derivatives.culprit import find_culprit
from jaxdiff.derivatives.probes import SCALINGS, Flattened, Probe, Span
from jaxdiff.derivatives.report import LeafVerdict, Verdict
from jaxdiff.derivatives.slopes import Slopes, slopes_from_values, taylor_slope

MODES = ("forward", "reverse")
# A pass means that an error this large, relative to the slope, would have been seen.
_RESOLVED = 0.05
# Work (coordinates x evaluations x numbers per evaluation) up to which a leaf is tried coordinate by coordinate.
_EXHAUSTIVE_SIZE, _EXHAUSTIVE_WORK = 256, 2**24
# At the edge of a domain f may bend within the smallest step, as sqrt does: there an accusation takes a distance of this many allowances.
_ONE_SIDED = 10.0
# Parameters from which on every other step of the ladder is tried first: evaluating f is then what a check consists of.
_LARGE = 2**16
# Outputs up to which each has a cotangent of its own.
_OWN_COTANGENTS, _RANDOM_COTANGENTS = 8, 4
# Codes of a comparison, the worst last.
_PASS, _UNRESOLVED, _KINK, _NON_FINITE, _FAIL = range(5)
_VERDICTS = (Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.KINK, Verdict.NON_FINITE, Verdict.FAIL)


@dataclasses.dataclass
class _Trial:
    """Comparisons along one direction in one mode: of every output, or of every cotangent. Arrays of S.

    Attributes:
        span: the direction.
        mode: "forward" or "reverse".
        scaling: of the direction, by comparison.
        autodiff: slopes by autodiff.
        rounding: their measured rounding errors.
        slopes: by finite differences.
        codes: what became of them.
        taylor: power of the Taylor remainder.
    """

    span: Span
    mode: str
    scaling: np.ndarray
    autodiff: np.ndarray
    rounding: np.ndarray
    slopes: Slopes
    codes: np.ndarray
    taylor: float

    @property
    def allowance(self) -> np.ndarray:
        return self.slopes.bar + self.rounding

    @property
    def unnoticed(self) -> np.ndarray:
        """The largest error of autodiff's slope that would have led to the same verdict."""
        return _unnoticed(self.autodiff, self.rounding, self.slopes)

    @property
    def excess(self) -> np.ndarray:
        """Distance of the two slopes in units of the allowance."""
        distance = np.abs(self.autodiff - self.slopes.value)
        with np.errstate(all="ignore"):
            ratio = np.where(distance == 0, 0.0, distance / self.allowance)
        return np.where(np.isfinite(ratio), ratio, 0.0)


class Inquiry:
    """One function at one point: ladders, cotangents, trials, verdicts."""

    def __init__(
        self,
        flattened: Flattened,
        rule: Callable[..., Any],
        reference: Callable[..., Any],
        modes: tuple[str, ...],
        directions: int,
        seed: int,
        order: int,
    ) -> None:
        self.flattened, self.modes, self.order = flattened, modes, order
        self.rule = flattened.vector(rule)
        self.probe = Probe(flattened, flattened.vector(reference), self.rule, directions, seed)
        self.directions = directions
        self.random = np.random.default_rng(seed + 1)
        self.cotangents = np.zeros((0, flattened.num_outputs))
        self.pulled: list[list[list[np.ndarray]]] = []
        self.consistency = float("nan")

    def run(self, only: Collection[int] | None = None) -> tuple[list[LeafVerdict], float]:
        """Verdicts on all leaves, blank ones on those that are not looked at, and the largest relative difference between the modes."""
        numbers = range(len(self.probe.leaves))
        whole = {number: [Span(number, d, 0, self.probe.sizes[number]) for d in range(self._count(number))] for number in numbers}
        if "reverse" in self.modes:
            self._take_cotangents([span for spans in whole.values() for span in spans[:2]])
        verdicts = []
        for number in numbers:
            if only is not None and number not in only:
                verdicts.append(_blank(self.flattened.names[number], self.order, "not looked at"))
                continue
            spans = list(whole[number])
            spans += [Span(number, 0, k, k + 1) for k in self._single_coordinates(number)]
            trials = [trial for span in spans for trial in self._trials(span)]
            self._settle_small(trials)
            disagreement = self._disagreement(trials) if len(self.modes) == 2 else ""
            verdicts.append(self._verdict(number, trials, disagreement))
        return verdicts, self.consistency

    def _count(self, number: int) -> int:
        """Directions that a leaf is worth."""
        return min(self.directions, max(self.probe.sizes[number], 0)) if self.probe.sizes[number] < 2 else self.directions

    def _single_coordinates(self, number: int) -> list[int]:
        """All coordinates of a small leaf; of a large one the coordinate with the largest share of the gradient."""
        size = self.probe.sizes[number]
        if size < 2:
            return []
        work = size * 2 * self.probe.steps(number).size * (sum(self.probe.sizes) + self.flattened.num_outputs)
        if size <= _EXHAUSTIVE_SIZE and work <= _EXHAUSTIVE_WORK:
            return list(range(size))
        if self.pulled:
            gradient = np.abs(self.pulled[0][0][number]) * self.probe.magnitudes(number)
            return [int(np.nanargmax(gradient))] if np.any(np.isfinite(gradient)) else []
        return [int(self.random.integers(size))]

    # Cotangents: one for each of a few outputs; of many, random signs over their slopes, so that no output drowns in another.

    def _take_cotangents(self, spans: list[Span]) -> None:
        count = self.flattened.num_outputs
        if count <= _OWN_COTANGENTS:
            self.cotangents = np.eye(count)
        else:
            size = np.zeros(count)
            for span in spans:
                left, middle, right, h, rounding = self._ladder(span, "leaf", 1.0)
                slopes = slopes_from_values(h, left, middle, right, rounding)
                is_resolved = slopes.bar <= _RESOLVED * np.abs(slopes.value)
                size = np.fmax(size, np.where(is_resolved, np.abs(slopes.value), 0.0))
            # An output without a slope of its own counts as the largest do; weighed up it would be nothing but noise.
            size = np.where(size > 0, size, np.max(size, initial=0.0) or 1.0)
            weights = 2.0 ** np.clip(-np.round(np.log2(size)), -60, 60)
            self.cotangents = weights * self.random.choice([-1.0, -0.5, 0.5, 1.0], (_RANDOM_COTANGENTS, count))
        self.pulled = [[self.probe.pull(cotangent, jitter) for jitter in self.probe.jitter] for cotangent in self.cotangents]

    # Ladders and trials.

    def _ladder(
        self, span: Span, scaling: str, factor: float, stride: int = 1
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Values at -h, 0, h; the steps h; and the rounding of a value by its size."""
        h = self.probe.steps(span.leaf)[::stride] * factor
        left, middle, right = self.probe.values(span, scaling, h)
        near = np.concatenate([left[h.size // 2 :], middle[None], right[h.size // 2 :]])
        size = np.max(np.where(np.isfinite(near), np.abs(near), 0.0), axis=0)
        # A correctly rounded multiple of x inside f moves f by its slope times the rounding of x, at every step alike; a low quantile of
        # the quotients, for beside a jump most of them are too steep.
        with np.errstate(all="ignore"):
            quotients = np.abs(right - left) / (2 * h[:, None])
        slope = np.quantile(np.where(np.isfinite(quotients), quotients, np.inf), 0.25, axis=0, method="lower")
        slope = np.where(np.isfinite(slope), slope, 0.0)
        epsilon = machine_epsilon(self.probe.leaves[span.leaf].dtype)
        return left, middle, right, h, self.flattened.output_epsilon * size + epsilon * slope

    def _trials(self, span: Span) -> list[_Trial]:
        """The trials of a direction; what its own scaling leaves open is tried with others, what fails is tried again with other steps."""
        if sum(self.probe.sizes) >= _LARGE:
            trials = self._attempt(span, "leaf", 1.0, stride=2)
            # A pass says by its bar what it rests on, with however many steps.
            if all(np.all(trial.codes == _PASS) for trial in trials):
                return trials
        trials = self._attempt(span, "leaf", 1.0)
        for scaling in SCALINGS[1:]:
            is_open = any(np.any((trial.codes != _PASS) & (trial.codes != _FAIL)) for trial in trials)
            if is_open and self.probe.has_scaling(span.leaf, scaling):
                trials = [_merged(a, b, _is_settled_by) for a, b in zip(trials, self._attempt(span, scaling, 1.0), strict=True)]
        for scaling in SCALINGS:
            if any(np.any((trial.codes == _FAIL) & (trial.scaling == scaling)) for trial in trials):
                again = self._attempt(span, scaling, 0.75)
                trials = [_merged(a, b, functools.partial(_is_withdrawn, scaling)) for a, b in zip(trials, again, strict=True)]
        return trials

    def _attempt(self, span: Span, scaling: str, factor: float, stride: int = 1) -> list[_Trial]:
        # Under way beside the ladder, on another core.
        pushed = self.probe.slopes(span, scaling) if "forward" in self.modes else None
        left, middle, right, h, rounding = self._ladder(span, scaling, factor, stride)
        trials = []
        for mode in self.modes:
            if pushed is not None and mode == "forward":
                autodiff, error = self._forward(span, pushed)
                parts = left, middle, right, rounding
            else:
                autodiff, error = self._reverse(span, scaling)
                # Differences from the middle are what is weighted: a sum of outputs that do not move does not move either, bit by bit.
                # Independent roundings add up as squares; three times that is generous.
                weighted = 3 * np.sqrt((self.cotangents**2) @ (rounding**2))
                with np.errstate(invalid="ignore"):
                    before, centre, after = (_weighted(values - middle, self.cotangents) for values in (left, middle, right))
                parts = before, centre, after, weighted
            slopes = slopes_from_values(h, *parts)
            taylor = taylor_slope(h, *parts[:3], autodiff, slopes.noise)
            scalings = np.full(autodiff.shape, scaling, object)
            trials.append(_Trial(span, mode, scalings, autodiff, error, slopes, _codes(autodiff, error, slopes), taylor))
        return trials

    def _forward(self, span: Span, pushed: jax.Array) -> tuple[np.ndarray, np.ndarray]:
        found = np.asarray(pushed, np.float64)
        epsilon = np.maximum(machine_epsilon(self.probe.leaves[span.leaf].dtype), self.flattened.output_epsilon)
        return found[0], 2 * scatter(found) + 16 * epsilon * np.abs(found[0])

    def _reverse(self, span: Span, scaling: str) -> tuple[np.ndarray, np.ndarray]:
        v = self.probe.direction(span, scaling)
        found = np.array([[gradient[span.leaf][span.start : span.stop] @ v for gradient in gradients] for gradients in self.pulled]).T
        terms = np.array([np.abs(gradients[0][span.leaf][span.start : span.stop]) @ np.abs(v) for gradients in self.pulled])
        epsilon = machine_epsilon(self.probe.leaves[span.leaf].dtype)
        return found[0], 2 * scatter(found) + 8 * epsilon * terms

    # Verdicts.

    def _settle_small(self, trials: list[_Trial]) -> None:
        """A slope too small to be resolved by itself passes where its allowance is small beside the leaf's largest slope."""
        for mode in self.modes:
            mine = [trial for trial in trials if trial.mode == mode]
            for trial in mine:
                unit = _unit(self.probe, trial)
                known = [np.max(np.abs(t.slopes.value[t.codes == _PASS]), initial=0.0) / _unit(self.probe, t) for t in mine]
                largest = max(known, default=0.0) * unit
                is_small = (trial.codes == _UNRESOLVED) & (trial.unnoticed <= _RESOLVED * largest)
                trial.codes = np.where(is_small, _PASS, trial.codes)

    def _disagreement(self, trials: list[_Trial]) -> str:
        """Whether <u, J v> by the two modes differs by more than their rounding; in words, or empty."""
        by_mode = {mode: [t for t in trials if t.mode == mode] for mode in MODES}
        found = ""
        for forward, reverse in zip(by_mode["forward"], by_mode["reverse"], strict=True):
            # A comparison that another scaling settled is of another length in the two modes.
            if np.any(forward.scaling != "leaf") or np.any(reverse.scaling != "leaf") or not np.all(np.isfinite(forward.autodiff)):
                continue
            pushed = self.cotangents @ forward.autodiff
            terms = np.abs(self.cotangents) @ np.abs(forward.autodiff)
            bar = 8 * (np.abs(self.cotangents) @ forward.rounding + reverse.rounding)
            apart = np.abs(pushed - reverse.autodiff)
            if not np.all(np.isfinite(apart)):
                continue
            relative = np.max(np.where(terms > 0, apart / np.where(terms > 0, terms, 1.0), np.where(apart > 0, 1.0, 0.0)))
            self.consistency = float(np.fmax(self.consistency, relative))
            epsilon = float(np.max(self.flattened.output_epsilon))
            if np.any((apart > bar) & (apart > epsilon ** (2 / 3) * terms)):
                found = f"forward and reverse mode differ by {relative:.1e} of the terms they sum"
        return found

    def _verdict(self, number: int, trials: list[_Trial], disagreement: str) -> LeafVerdict:
        name = self.flattened.names[number]
        if not trials:
            return _blank(name, self.order, "the leaf is empty")
        worst = max(int(np.max(trial.codes)) for trial in trials)
        located = None
        if worst in (_FAIL, _KINK) and not any(_is_single(t.span) and np.any(t.codes == worst) for t in trials):
            located = self._locate(trials, worst)
        trial, place, detail = self._worst(trials, worst, located)
        verdict = _VERDICTS[worst]
        if worst == _NON_FINITE:
            detail = self._explain_non_finite(number, trial, place)
        elif worst == _KINK:
            detail = _convention(*self._numbers(trial, place)[:1], *self._numbers(trial, place)[4:6]) + detail
        if disagreement and verdict is not Verdict.FAIL and verdict is not Verdict.NON_FINITE:
            verdict, detail = Verdict.FAIL, disagreement
        autodiff, difference, bar, rounding, left, right = self._numbers(trial, place)
        slope = max(abs(difference), abs(autodiff))
        index = None
        if _is_single(trial.span):
            index = self._coordinate(number, trial.span.start)
        if worst == _NON_FINITE:
            index = self._first_non_finite(number, trial)
        is_kink = worst == _KINK
        return LeafVerdict(
            name=name,
            order=self.order,
            verdict=verdict,
            mode=trial.mode,
            index=index,
            output=self._output_name(trial, place),
            autodiff=autodiff,
            finite_difference=difference,
            bar=bar,
            rounding=rounding,
            left_slope=left if is_kink else math.nan,
            right_slope=right if is_kink else math.nan,
            taylor_slope=self._taylor(trials, trial),
            resolution=_relative(trial, place) if slope > 0 and math.isfinite(slope) else math.nan,
            num_comparisons=sum(t.codes.size for t in trials),
            num_unresolved=sum(int(np.sum(t.codes == _UNRESOLVED)) for t in trials),
            precision_loss=math.nan,
            detail=detail,
        )

    def _worst(self, trials: list[_Trial], code: int, located: _Trial | None) -> tuple[_Trial, int, str]:
        """The comparison to show: of a single coordinate where there is one, of failures the largest error, else the largest excess."""
        if located is not None and np.any(located.codes == code):
            candidates, detail = [located], ""
        else:
            candidates = [t for t in trials if np.any(t.codes == code)]
            singles = [t for t in candidates if _is_single(t.span)]
            candidates, detail = singles or candidates, ""
            if located is not None:
                detail = f"spread over coordinates; the largest share found is at {self._index(located.span)}"
        if code == _UNRESOLVED:
            count, total = (sum(int(np.sum(test(t.codes))) for t in trials) for test in (lambda c: c == _UNRESOLVED, lambda c: c >= 0))
            detail = f"{count} of {total} slopes are hidden by noise or rounding of f"
            if any(np.any(t.slopes.is_jump & (t.codes == _UNRESOLVED)) for t in trials):
                detail = "f jumps there, and has no slope to compare with"

        def rank(pair: tuple[_Trial, int]) -> float:
            trial, place = pair
            if code == _FAIL:
                autodiff, difference = self._numbers(trial, place)[:2]
                return abs(autodiff - difference)
            return _relative(trial, place) if code == _UNRESOLVED else float(trial.excess[place])

        trial, place = max(((t, int(k)) for t in candidates for k in np.flatnonzero(t.codes == code)), key=rank)
        return trial, place, detail

    def _locate(self, trials: list[_Trial], code: int) -> _Trial | None:
        """The single coordinate that a failing direction (or a kink) is due to, by bisection; None where values do not lead to one."""
        trial, place, _ = self._worst(trials, code, None)
        scaling = str(trial.scaling[place])

        def share(t: _Trial) -> float:
            gap = t.slopes.right - t.slopes.left if code == _KINK else t.autodiff - t.slopes.value
            return float(gap[place])

        span, total = trial.span, share(trial)
        while span.stop - span.start > 1:
            half = dataclasses.replace(span, stop=(span.start + span.stop) // 2)
            part = share(next(t for t in self._attempt(half, scaling, 1.0) if t.mode == trial.mode))
            if not (math.isfinite(part) and math.isfinite(total)):
                return None
            # Slopes are linear in the direction: what the first half does not account for, the second does.
            span, total = (half, part) if abs(part) >= abs(total - part) else (dataclasses.replace(span, start=half.stop), total - part)
        return next(t for t in self._trials(span) if t.mode == trial.mode)

    def _numbers(self, trial: _Trial, place: int) -> tuple[float, float, float, float, float, float]:
        """Autodiff, finite difference, bar, rounding, left and right slope: per unit of the coordinate where it is a single one."""
        scale = 1.0
        if _is_single(trial.span):
            scale = float(self.probe.direction(trial.span, str(trial.scaling[place]))[0])
        s = trial.slopes
        left, right = (s.left[place], s.right[place]) if scale > 0 else (s.right[place], s.left[place])
        bar, rounding = s.bar[place] / abs(scale), trial.rounding[place] / abs(scale)
        # f does not move at small steps: that is what was seen, whatever larger steps make of it.
        is_still = s.is_flat[place] and (trial.autodiff[place] == 0 or s.is_staircase[place])
        return (
            float(trial.autodiff[place] / scale) + 0.0,
            0.0 if is_still else float(s.value[place] / scale) + 0.0,
            float(bar),
            float(rounding),
            float(left / scale),
            float(right / scale),
        )

    def _taylor(self, trials: list[_Trial], trial: _Trial) -> float:
        if not math.isnan(trial.taylor):
            return trial.taylor
        return next((t.taylor for t in trials if not math.isnan(t.taylor)), math.nan)

    def _output_name(self, trial: _Trial, place: int) -> str:
        if trial.mode == "forward" or self.flattened.num_outputs <= _OWN_COTANGENTS:
            name = self.flattened.output_name(place)
            # Of a first derivative the outputs are named by what it is a derivative of.
            return re.sub(r"^output\['(d/d .*)'\]", r"\1", name) if self.order == 2 else name
        return f"outputs weighted by cotangent {place}"

    def _index(self, span: Span) -> str:
        return "[" + ", ".join(map(str, self._coordinate(span.leaf, span.start))) + "]"

    def _coordinate(self, number: int, place: int) -> tuple[int, ...]:
        return tuple(int(k) for k in np.unravel_index(place, self.probe.leaves[number].shape))

    def _first_non_finite(self, number: int, trial: _Trial) -> tuple[int, ...] | None:
        """The first coordinate that is not finite itself, else the first of a gradient that is not, else the trial's own."""
        for values in (np.asarray(self.probe.leaves[number], np.float64), *(gradients[0][number] for gradients in self.pulled)):
            bad = np.flatnonzero(~np.isfinite(values))
            if bad.size:
                return self._coordinate(number, int(bad[0]))
        return self._coordinate(number, trial.span.start) if _is_single(trial.span) else None

    def _explain_non_finite(self, number: int, trial: _Trial, place: int) -> str:
        leaves = self.probe.leaves
        if not all(np.all(np.isfinite(np.asarray(leaf, np.float64))) for leaf in leaves):
            return "the arguments hold values that are not finite"
        if not np.all(trial.slopes.is_finite):
            culprit = find_culprit(self.rule, leaves)
            return "f itself is not finite there" + (f"; it arises in {culprit}" if culprit else "")
        if trial.mode == "reverse":
            cotangent = jnp.asarray(self.cotangents[place], jnp.float32)

            def derivative(x: Any) -> Any:
                value, pullback = jax.vjp(self.rule, x)
                return pullback(cotangent.astype(value.dtype))[0][number]

            bad = int(np.sum(~np.isfinite(self.pulled[place][0][number])))
            found = f"autodiff is not finite at {bad:,} of {self.probe.sizes[number]:,} coordinates, f is"
        else:
            tangent = tuple(jnp.ones_like(leaf) if k == number else jnp.zeros_like(leaf) for k, leaf in enumerate(leaves))

            def derivative(x: Any) -> Any:
                return jax.jvp(self.rule, (x,), (tangent,))[1]

            found = "autodiff is not finite, f is"
        culprit = find_culprit(derivative, leaves)
        return found + (f"; it arises in {culprit}" if culprit else "")


def _codes(autodiff: np.ndarray, rounding: np.ndarray, slopes: Slopes) -> np.ndarray:
    """What to think of each comparison."""
    with np.errstate(all="ignore"):
        allowance = slopes.bar + rounding
        is_known = np.isfinite(slopes.bar)
        is_outside = (autodiff < slopes.lower - rounding) | (autodiff > slopes.upper + rounding)
        is_apart = np.abs(autodiff - slopes.value) > allowance * _patience(slopes)
        largest = np.max(np.where(is_known, np.abs(slopes.value), 0.0), initial=0.0)
        size = np.maximum(np.maximum(np.abs(autodiff), np.abs(slopes.value)), largest)
        is_resolved = is_known & (np.where(is_apart, _unnoticed(autodiff, rounding, slopes), allowance) <= _RESOLVED * size)
        # f does not move and autodiff says so: whatever the noise of larger steps is, the two agree.
        is_resolved |= slopes.is_flat & (autodiff == 0)
        # Where f is smooth between leaps of its rounding, autodiff and small steps follow the pieces, each others: that accuses nobody.
        is_wrong = is_known & is_apart & is_outside & ~(np.abs(autodiff - slopes.value) <= allowance + 2 * slopes.roughness)
    codes = np.where(is_resolved & ~(is_apart & is_outside), _PASS, _UNRESOLVED)
    codes = np.where(is_wrong, _FAIL, codes)
    # Between its stairs the slope of a staircase is zero, whatever a straight-through rule says.
    codes = np.where(slopes.is_staircase & (autodiff != 0) & np.isfinite(autodiff), _FAIL, codes)
    codes = np.where(slopes.is_kink & (codes != _FAIL), _KINK, codes)
    # An infinite slope may be right, at a vertical tangent; it is no number all the same.
    return np.where(np.isfinite(autodiff) & slopes.is_finite, codes, _NON_FINITE)


def _unnoticed(autodiff: np.ndarray, rounding: np.ndarray, slopes: Slopes) -> np.ndarray:
    """How far from the finite difference autodiff's slope can be with the same verdict, see `_codes`.

    One within the allowance would not pass further away; one beyond it that one-sided quotients still allow is accused beyond these.
    """
    with np.errstate(all="ignore"):
        allowance = slopes.bar + rounding
        apart = allowance * _patience(slopes)
        sides = np.maximum(slopes.upper - slopes.value, slopes.value - slopes.lower) + rounding
        accused = np.fmax(np.maximum(apart, allowance + 2 * slopes.roughness), sides)
        return np.where(np.abs(autodiff - slopes.value) > apart, accused, apart)


def _patience(slopes: Slopes) -> np.ndarray:
    return np.where(slopes.is_one_sided, _ONE_SIDED, 1.0)


def _merged(first: _Trial, second: _Trial, takes_second: Callable[[_Trial, _Trial], np.ndarray]) -> _Trial:
    """Comparison by comparison the first trial, or the second where it is said to be better."""
    taken = takes_second(first, second)

    def pick(name: str) -> np.ndarray:
        return np.where(taken, getattr(second, name), getattr(first, name))

    slopes = {f.name: np.where(taken, getattr(second.slopes, f.name), getattr(first.slopes, f.name)) for f in dataclasses.fields(Slopes)}
    taylor = second.taylor if math.isnan(first.taylor) else first.taylor
    scaling, autodiff, rounding = pick("scaling"), pick("autodiff"), pick("rounding")
    return _Trial(first.span, first.mode, scaling, autodiff, rounding, Slopes(**slopes), pick("codes"), taylor)


def _is_settled_by(first: _Trial, second: _Trial) -> np.ndarray:
    is_open = (first.codes != _PASS) & (first.codes != _FAIL) & np.isfinite(first.autodiff)
    return is_open & ((second.codes == _PASS) | (second.codes == _FAIL))


def _is_withdrawn(scaling: str, first: _Trial, second: _Trial) -> np.ndarray:
    """Where an accusation is not borne out by other steps."""
    return (first.codes == _FAIL) & (first.scaling == scaling) & (second.codes != _FAIL)


def scatter(found: np.ndarray) -> np.ndarray:
    """Largest distance from the first row, [S]; rows that are not finite are left out."""
    with np.errstate(all="ignore"):
        apart = np.abs(found[1:] - found[0])
    return np.max(np.where(np.isfinite(apart), apart, 0.0), axis=0)


def _weighted(values: np.ndarray, cotangents: np.ndarray) -> np.ndarray:
    """Outputs weighted by each cotangent; one that has no weight does not count, be it finite or not."""
    if np.all(np.isfinite(values)):
        return values @ cotangents.T
    with np.errstate(all="ignore"):
        weighted = [np.sum(np.where(cotangent == 0, 0.0, values * cotangent), axis=-1) for cotangent in cotangents]
    return np.stack(weighted, axis=-1)


def _relative(trial: _Trial, place: int) -> float:
    slope = max(abs(trial.autodiff[place]), abs(trial.slopes.value[place]))
    return float(trial.unnoticed[place] / slope) if slope > 0 else 0.0


def _unit(probe: Probe, trial: _Trial) -> float:
    return float(np.sqrt(np.sum(probe.direction(trial.span, "leaf") ** 2)))


def _is_single(span: Span) -> bool:
    return span.stop - span.start == 1


def _convention(autodiff: float, left: float, right: float) -> str:
    """What autodiff takes at a kink."""
    gap = abs(right - left)
    conventions = (("the left slope", left), ("the right slope", right), ("the mean of both slopes", (left + right) / 2), ("zero", 0.0))
    named = [text for text, value in conventions if abs(autodiff - value) <= 0.01 * gap]
    taken = " = ".join(named[:2]) if named else f"{autodiff:.6g}, between them"
    return f"f has a kink, slopes {left:.6g} and {right:.6g}; autodiff takes {taken}"


def _blank(name: str, order: int, detail: str) -> LeafVerdict:
    nan = math.nan
    return LeafVerdict(name, order, Verdict.PASS, "", (), "", nan, nan, nan, nan, nan, nan, nan, nan, 0, 0, nan, detail)
