"""The error map: every smooth activation and loss, its value and its gradient, in units in the last place, beside jax.nn's and optax's.

    python benchmarks/accuracy.py            # tables, picture and JSON; exits 1 where one of ours is beyond 4 ulp
    python benchmarks/accuracy.py --speed    # also how much a training step pays for it, against jax.nn
    python benchmarks/accuracy.py --second   # second derivatives (grad of grad) instead; exits 1 where one of ours is beyond 8 ulp

References are mpmath's, from the definition and its derivative by hand, in 60 and in 120 digits: what the two do not give alike to 1e-30
stops the script. Points cover the whole range: a third spread over all magnitudes, a third over those where exponentials live, a third
around zero. An error below the smallest normal number counts as none, since XLA flushes what is smaller to zero. Where a result is the
difference of two terms that have been rounded (a loss's slope beside its root), the unit is the larger term's.
"""

import argparse
import itertools
import json
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import optax

from jaxdiff.functions import activations, losses

ROOT = pathlib.Path(__file__).parents[1]
BOUND = 4.0
DTYPES = ("float32", "float64")


SECOND_BOUND = 8.0


class Subject(NamedTuple):
    """One function of one number, with its derivative, in mpmath, and what is measured.

    Attributes:
        value: the definition in mpmath.
        slope: its derivative, written so that nothing cancels in 60 digits.
        ours: in jaxdiff.
        peer: in jax.nn or optax; None where there is none.
        terms: the largest term of the slope where that is a difference of rounded terms.
        value_terms: the same of the value.
        domain: where x lies.
    """

    value: Callable[[Any], Any]
    slope: Callable[[Any], Any]
    ours: Callable[[Any], Any]
    peer: Callable[[Any], Any] | None
    terms: Callable[[Any], Any] | None = None
    value_terms: Callable[[Any], Any] | None = None
    domain: tuple[float, float] = (-np.inf, np.inf)


def s(x: Any) -> Any:
    return 1 / (1 + mp.exp(-x)) if abs(x) < 1e5 else mp.mpf(int(x > 0))


def cdf(x: Any) -> Any:
    return mp.erfc(-x / mp.sqrt(2)) / 2 if abs(x) < 1e3 else mp.mpf(int(x > 0))


def pdf(x: Any) -> Any:
    return mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi) if abs(x) < 1e3 else mp.mpf(0)


def sech2(x: Any) -> Any:
    return mp.sech(x) ** 2 if abs(x) < 1e4 else mp.mpf(0)


def softplus(x: Any) -> Any:
    return mp.log1p(mp.exp(x)) if abs(x) < 1e4 else max(x, mp.mpf(0))


def z(x: Any) -> Any:
    return 2 * mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3)


def z_slope(x: Any) -> Any:
    return 2 * mp.sqrt(2 / mp.pi) * (1 + 3 * mp.mpf("0.044715") * x**2)


def exp(x: Any) -> Any:
    return mp.exp(x) if x < 1e5 else mp.inf


def tanh(x: Any) -> Any:
    return mp.tanh(x) if abs(x) < 1e5 else mp.sign(x)


def log_cosh(d: Any) -> Any:
    # log(cosh(d)) = d^2/2 near zero: 1 + d^2/2 would need digits that nobody asked for.
    if abs(d) < mp.mpf(10) ** -20:
        return d * d / 2 - d**4 / 12
    return mp.log(mp.cosh(d)) if abs(d) < 1e4 else abs(d) - mp.log(2)


def of_prediction(loss: Callable[..., Any], target: float) -> Callable[[Any], Any]:
    return lambda x: loss(x, jnp.full_like(x, target), reduction="none")


def against(loss: Callable[..., Any], target: float) -> Callable[[Any], Any]:
    return lambda x: loss(x, jnp.full_like(x, target))


T = 0.25
SUBJECTS = {
    "sigmoid": Subject(s, lambda x: s(x) * s(-x), activations.sigmoid, jax.nn.sigmoid),
    "tanh": Subject(tanh, sech2, activations.tanh, jnp.tanh),
    "elu": Subject(lambda x: x if x > 0 else mp.expm1(max(x, -(10**5))), lambda x: 1 if x > 0 else mp.exp(x), activations.elu, jax.nn.elu),
    "gelu": Subject(lambda x: x * cdf(x), lambda x: cdf(x) + x * pdf(x), activations.gelu, lambda x: jax.nn.gelu(x, approximate=False)),
    "gelu_tanh": Subject(
        lambda x: x * s(z(x)), lambda x: s(z(x)) + x * s(z(x)) * s(-z(x)) * z_slope(x), activations.gelu_tanh, jax.nn.gelu
    ),
    "silu": Subject(lambda x: x * s(x), lambda x: s(x) * (1 + x * s(-x)), activations.silu, jax.nn.silu),
    "softplus": Subject(softplus, s, activations.softplus, jax.nn.softplus),
    "log_sigmoid": Subject(lambda x: -softplus(-x), lambda x: s(-x), activations.log_sigmoid, jax.nn.log_sigmoid),
    "mish": Subject(
        lambda x: x * tanh(softplus(x)),
        lambda x: tanh(softplus(x)) + x * sech2(softplus(x)) * s(x),
        activations.mish,
        jax.nn.mish,
    ),
    "softsign": Subject(lambda x: x / (1 + abs(x)), lambda x: 1 / (1 + abs(x)) ** 2, activations.softsign, jax.nn.soft_sign),
    "mse": Subject(
        lambda p: (p - T) ** 2, lambda p: 2 * (p - T), of_prediction(losses.mse, T), against(lambda p, t: 2 * optax.l2_loss(p, t), T)
    ),
    "huber": Subject(
        lambda p: (p - T) ** 2 / 2 if abs(p - T) <= 1 else abs(p - T) - mp.mpf(1) / 2,
        lambda p: max(mp.mpf(-1), min(mp.mpf(1), p - T)),
        of_prediction(losses.huber, T),
        against(optax.huber_loss, T),
    ),
    "log_cosh": Subject(lambda p: log_cosh(p - T), lambda p: tanh(p - T), of_prediction(losses.log_cosh, T), against(optax.log_cosh, T)),
    "binary_cross_entropy": Subject(
        lambda p: -T * mp.log(p) - (1 - T) * mp.log1p(-p),
        lambda p: (p - T) / (p * (1 - p)),
        of_prediction(losses.binary_cross_entropy, T),
        None,
        domain=(0.0, 1.0),
    ),
    "binary_cross_entropy_with_logits": Subject(
        lambda x: softplus(x) - T * x,
        lambda x: s(x) - T,
        of_prediction(losses.binary_cross_entropy_with_logits, T),
        against(optax.sigmoid_binary_cross_entropy, T),
        terms=lambda x: s(x),
    ),
    "poisson_nll": Subject(
        lambda x: exp(x) - T * x,
        lambda x: exp(x) - T,
        of_prediction(losses.poisson_nll, T),
        against(optax.losses.poisson_nll_loss, T) if hasattr(optax.losses, "poisson_nll_loss") else None,
        terms=exp,
        value_terms=exp,
    ),
}


def tilted(x: Any) -> Any:
    """(e, d, T'' / T') of mish's T = tanh(softplus(x)), with e = exp(x) and d = e^2 + 2 e + 2."""
    e = mp.exp(x)
    d = e * e + 2 * e + 2
    return e, d, 1 + e / (1 + e) - 4 * e * (1 + e) / d


def mish_second(x: Any) -> Any:
    if x > 1e5:
        return mp.mpf(0)
    e, d, ratio = tilted(x)
    return 4 * e * (1 + e) / d**2 * (2 + x * ratio)


def gelu_tanh_second(x: Any) -> Any:
    if abs(x) > 1e3:
        return mp.mpf(0)
    curvature = 12 * mp.sqrt(2 / mp.pi) * mp.mpf("0.044715") * x
    return s(z(x)) * s(-z(x)) * (2 * z_slope(x) + x * curvature - x * z_slope(x) ** 2 * mp.tanh(z(x) / 2))


# Second derivatives by hand; of a loss they are taken in the prediction.
SECONDS: dict[str, Callable[[Any], Any]] = {
    "sigmoid": lambda x: -s(x) * s(-x) * tanh(x / 2),
    "tanh": lambda x: -2 * tanh(x) * sech2(x),
    "elu": lambda x: mp.mpf(0) if x > 0 else mp.exp(x),
    "gelu": lambda x: pdf(x) * (2 - x * x),
    "gelu_tanh": gelu_tanh_second,
    "silu": lambda x: s(x) * s(-x) * (2 - x * tanh(x / 2)),
    "softplus": lambda x: s(x) * s(-x),
    "log_sigmoid": lambda x: -s(x) * s(-x),
    "mish": mish_second,
    "softsign": lambda x: -2 * mp.sign(x) / (1 + abs(x)) ** 3,
    "log_cosh": lambda p: sech2(p - T),
    "binary_cross_entropy": lambda p: T / p**2 + (1 - T) / (1 - p) ** 2,
    "binary_cross_entropy_with_logits": lambda x: s(x) * s(-x),
    "poisson_nll": exp,
}


def second_errors(name: str, dtype: str, count: int, *, with_peer: bool = True) -> dict[str, float]:
    """The largest errors of grad of grad in ulp, ours and the peer's, and where they are."""
    subject = SUBJECTS[name]
    x = points(dtype, count, subject.domain)
    exact = certified(SECONDS[name], x)
    found: dict[str, float] = {}
    for who, function in (("ours", subject.ours), ("peer", subject.peer)):
        if function is not None and (who == "ours" or with_peer):
            errors = ulps(jax.jit(jax.vmap(jax.grad(jax.grad(function))))(x), exact, dtype)
            found[who] = float(np.nanmax(errors))
            found[f"{who}_at"] = float(x[np.nanargmax(errors)])
    return found


def second_table(count: int) -> int:
    """Print the errors of second derivatives; 1 where one of ours is beyond the bound."""
    print("second derivative by grad of grad: largest error in ulp")
    print(f"{'function':33s} {'dtype':8s} {'jaxdiff':>11s}  {'at':12s}  {'peer':>11s}")
    beyond = 0
    for name in SECONDS:
        for dtype in DTYPES:
            found = second_errors(name, dtype, count)
            beyond += not found["ours"] <= SECOND_BOUND
            peer = shown(found.get("peer"), dtype)
            print(f"{name:33s} {dtype}  {shown(found['ours'], dtype):>11s}  {found['ours_at']:<12.6g}  {peer:>11s}", flush=True)
    print(f"{2 * len(SECONDS) - beyond} of {2 * len(SECONDS)} within {SECOND_BOUND:g} ulp")
    return int(beyond > 0)


def points(dtype: str, count: int, domain: tuple[float, float] = (-np.inf, np.inf)) -> np.ndarray:
    """About 2 count numbers over the whole range of the dtype, or of the domain."""
    rng = np.random.default_rng(7)
    info = np.finfo(dtype)
    if np.isfinite(domain).all():
        low = np.exp(rng.uniform(np.log(float(info.smallest_normal)), np.log(0.5), count))
        x = np.concatenate([low, rng.uniform(0, 1, count)]).astype(dtype)
        return np.sort(x[(x > domain[0]) & (x < domain[1])])
    third = count // 3
    everywhere = np.exp(rng.uniform(np.log(float(info.smallest_normal)), np.log(float(info.max) * 0.99), third))
    tails = np.exp(rng.uniform(np.log(1e-3), np.log(90.0 if dtype == "float32" else 750.0), third))
    x = np.concatenate([everywhere, tails, rng.uniform(0, 14, count - 2 * third)])
    return np.sort(np.concatenate([x, -x]).astype(dtype))


def certified(function: Callable[[Any], Any], x: np.ndarray) -> list[Any]:
    """The function at each point, by mpmath in two precisions that agree.

    Raises:
        ArithmeticError: naming the point at which they do not.
    """
    exact = []
    for point in x.tolist():
        values = []
        for digits in (60, 120):
            with mp.workdps(digits):
                values.append(mp.mpf(function(mp.mpf(point))))
        if not values[0] == values[1] and not abs(values[0] - values[1]) <= mp.mpf(10) ** -30 * abs(values[1]):
            raise ArithmeticError(f"at x = {point!r}: {values[0]} in 60 digits, {values[1]} in 120")
        exact.append(values[1])
    return exact


def ulps(got: Any, exact: list[Any], dtype: str, terms: list[Any] | None = None) -> np.ndarray:
    """Errors in units in the last place; results beyond the dtype's range are left out (NaN)."""
    info = np.finfo(dtype)
    smallest, largest = mp.mpf(float(info.smallest_normal)), mp.mpf(float(info.max))
    errors = []
    for i, (value, reference) in enumerate(zip(np.asarray(got).tolist(), exact, strict=True)):
        if not abs(reference) <= largest:
            errors.append(np.nan)
            continue
        error = abs(mp.mpf(value) - reference) if np.isfinite(value) else mp.inf
        size = max(abs(reference), smallest, abs(terms[i]) if terms else 0)
        unit = mp.ldexp(mp.mpf(float(info.eps)), mp.frexp(size)[1] - 1)
        errors.append(0.0 if error <= smallest else float(error / unit))
    return np.array(errors)


def error_map(name: str, dtype: str, count: int) -> dict[str, np.ndarray]:
    """Errors at every point: of the value and of the gradient, ours and the peer's."""
    subject = SUBJECTS[name]
    x = points(dtype, count, subject.domain)
    errors = {"x": x.astype(np.float64)}
    references = [
        (certified(subject.value, x), [subject.value_terms(mp.mpf(p)) for p in x.tolist()] if subject.value_terms else None),
        (certified(subject.slope, x), [subject.terms(mp.mpf(p)) for p in x.tolist()] if subject.terms else None),
    ]
    for who, function in (("ours", subject.ours), ("peer", subject.peer)):
        if function is None:
            continue
        results = jax.jit(lambda v, f=function: (f(v), jax.vmap(jax.grad(f))(v)))(x)
        for what, result, (exact, terms) in zip(("value", "gradient"), results, references, strict=True):
            errors[f"{who}_{what}"] = ulps(result, exact, dtype, terms)
    return errors


def shown(error: float | None, dtype: str) -> str:
    if error is None:
        return ""
    if not np.isfinite(error):
        return "not finite"
    return "every digit" if error >= 0.5 / np.finfo(dtype).eps else f"{error:,.0f}" if error >= 100 else f"{error:.2g}"


def table(rows: list[dict[str, Any]], count: int) -> str:
    lines = [
        "# Errors of activations and losses over the whole range, in ulp",
        "",
        "The largest error found, in units in the last place of the exact result, over about "
        f"{2 * count:,} points of the whole range of each precision; `python benchmarks/accuracy.py` prints it. "
        "The peer is jax.nn, jnp.tanh or optax. Losses at a target of 1/4.",
        "",
        "How to read it: an error of 0.5 is that of the nearest number of the precision; one of 4 costs three of its 24 or 53 bits. "
        "*Every digit*: somewhere the error is as large as the result itself, as where a slope is given as zero, and no digit is right. "
        "*Not finite*: somewhere inf or NaN is given for a number. Differences below the smallest normal number count as none, since XLA "
        "flushes what is smaller to zero. Where a result is a difference of rounded terms (a loss's slope beside its root), the unit is "
        "that of the larger term.",
        "",
        "| function | dtype | value, jaxdiff | value, peer | gradient, jaxdiff | gradient by `jax.grad`, peer |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        cells = [shown(row.get(key), row["dtype"]) for key in ("ours_value", "peer_value", "ours_gradient", "peer_gradient")]
        lines.append(f"| {row['function']} | {row['dtype']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(maps: dict[str, dict[str, np.ndarray]], path: pathlib.Path) -> None:
    """Errors of the gradient over x in float32, one panel per function: the peer's in grey, ours in colour, the bound as a line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(maps)
    figure, axes = plt.subplots(-(-len(names) // 4), 4, figsize=(11, 8.5), sharex=True, sharey=True, layout="constrained")
    for axis, name in zip(axes.flat, names, strict=False):
        errors = maps[name]
        for who, color, label in (("peer", "0.65", "jax.nn, optax"), ("ours", "tab:blue", "jaxdiff")):
            if f"{who}_gradient" in errors:
                height = np.clip(np.nan_to_num(errors[f"{who}_gradient"], nan=0.0, posinf=1e12), 0.1, 1e12)
                axis.plot(errors["x"], height, ".", markersize=2, color=color, label=label, rasterized=True)
        axis.axhline(BOUND, color="tab:red", linewidth=0.8)
        axis.set_title(name, fontsize=9)
        axis.set_xscale("symlog", linthresh=1e-2)
        axis.set_yscale("log")
        axis.set_xlim(-1e3, 1e3)
        axis.set_xticks([-1e2, -1, 0, 1, 1e2])
    for axis in list(axes.flat)[len(names) :]:
        axis.set_visible(False)
    axes.flat[0].legend(fontsize=7, loc="upper right")
    figure.supylabel("error of the gradient in ulp, float32 (cut at 0.1 and 1e12; red: 4 ulp)")
    figure.supxlabel("x")
    figure.savefig(path, dpi=80)


def training_step_ratios(rounds: int = 41) -> dict[str, float]:
    """Time of a training step with our activation over that with the peer's: medians of steps taken in turns in one process."""
    rng = np.random.default_rng(0)
    sizes = (784, 512, 512, 10)
    weights = [jnp.asarray(rng.normal(size=pair) / np.sqrt(pair[0]), jnp.float32) for pair in itertools.pairwise(sizes)]
    images, labels = jnp.asarray(rng.normal(size=(256, 784)), jnp.float32), jnp.asarray(rng.integers(0, 10, 256))
    ratios = {}
    for name in ("sigmoid", "tanh", "elu", "gelu", "gelu_tanh", "silu", "softplus", "mish", "softsign"):

        def step_with(activation: Callable[[Any], Any]) -> Callable[[Any], Any]:
            def loss(weights: Any) -> Any:
                hidden = images
                for matrix in weights[:-1]:
                    hidden = activation(hidden @ matrix)
                return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(hidden @ weights[-1], labels))

            step = jax.jit(lambda weights: jax.tree.map(lambda w, g: w - 0.01 * g, weights, jax.grad(loss)(weights)))
            jax.block_until_ready(step(weights))
            return step

        steps = [step_with(SUBJECTS[name].ours), step_with(SUBJECTS[name].peer)]
        seconds: list[list[float]] = [[], []]
        for turn in range(rounds):
            for which in (0, 1) if turn % 2 else (1, 0):
                start = time.perf_counter()
                jax.block_until_ready(steps[which](weights))
                seconds[which].append(time.perf_counter() - start)
        ratios[name] = statistics.median(ours / peer for ours, peer in zip(*seconds, strict=True))
        print(f"{name:12} training step {1e3 * statistics.median(seconds[0]):7.2f} ms, {ratios[name]:.2f} times the peer's", flush=True)
    return ratios


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=3000, help="half the points per function and dtype")
    parser.add_argument("--speed", action="store_true", help="time training steps too")
    parser.add_argument("--dry-run", action="store_true", help="print and write nothing")
    parser.add_argument("--second", action="store_true", help="print the errors of second derivatives, and nothing else")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if options.second:
        return second_table(options.count)
    rows, maps = [], {}
    for name in SUBJECTS:
        for dtype in DTYPES:
            errors = error_map(name, dtype, options.count)
            if dtype == "float32":
                maps[name] = errors
            worst = {key: float(np.nanmax(value)) for key, value in errors.items() if key != "x"}
            rows.append({"function": name, "dtype": dtype, **worst})
            print(name, dtype, {key: shown(value, dtype) for key, value in worst.items()}, flush=True)
    beyond = [row for row in rows if not max(row["ours_value"], row["ours_gradient"]) <= BOUND]
    ratios = training_step_ratios() if options.speed else None
    if not options.dry_run:
        for folder in ("docs/tables", "docs/images", "benchmarks/results"):
            (ROOT / folder).mkdir(parents=True, exist_ok=True)
        (ROOT / "docs/tables/accuracy.md").write_text(table(rows, options.count))
        draw(maps, ROOT / "docs/images/accuracy.png")
        device = {"jax": jax.__version__, "platform": jax.devices()[0].platform, "machine": platform.machine()}
        finite = [
            {key: value if not isinstance(value, float) or np.isfinite(value) else "inf" for key, value in row.items()} for row in rows
        ]
        result = {**device, "points_each": 2 * options.count, "bound_ulp": BOUND, "rows": finite, "training_step_ratios": ratios}
        (ROOT / "benchmarks/results/accuracy.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{len(rows) - len(beyond)} of {len(rows)} rows within {BOUND:g} ulp")
    for row in beyond:
        print("beyond:", row)
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
