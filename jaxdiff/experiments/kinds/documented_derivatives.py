"""Every activation and loss: its documented derivative, autodiff of it, and the truth."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from jaxdiff.experiments import figures
from jaxdiff.experiments.base import Column, Context, Experiment, FloatName, Outcome, Picture, Table, Verdict
from jaxdiff.experiments.registry import ActivationName, LossName, registry

# Names in jax.nn where they differ from ours.
_JAX_NAMES = {"softsign": "soft_sign"}


class DocumentedDerivatives(Experiment):
    """Is the documented derivative of every activation and loss right?

    Each documented derivative, and what `jax.grad` makes of the function, is held against a reference: the function's definition, written
    out in mpmath and differentiated there in 50 digits, at the very points that the dtype holds. Errors are in units in the last place
    (ulp) of the exact derivative; where that is below the smallest normal number, in units of the latter, since XLA flushes smaller ones to
    zero. Where a derivative is a difference p - t of a rounded p, as for losses of logits, the unit is that of t where p comes near it.
    Points reach into both tails.

    The column for jax.nn is what `jax.grad` gives for the function of the same name there: where it is large, plain autodiff loses digits
    that the documented derivative keeps.
    """

    kind: Literal["documented_derivatives"] = "documented_derivatives"
    activations: list[ActivationName] | None = Field(default=None, description="all registered ones where absent")
    losses: list[LossName] | None = Field(default=None, description="all registered ones where absent")
    dtypes: list[FloatName] = Field(default=["float32", "float64"], min_length=1)
    num_points: int = Field(default=48, ge=4, le=10_000, description="per function; half around zero, half out to largest")
    largest: float = Field(default=80.0, gt=1, le=600, description="largest |x| of an activation's points")
    max_ulp: float = Field(default=8.0, gt=0, description="a documented derivative with a larger error fails")

    def run(self, context: Context) -> Outcome:
        """Hold every derivative against its reference."""
        rows: list[dict[str, Any]] = []
        for topic, chosen, find in (
            ("activations", self.activations, self._activation_case),
            ("losses", self.losses, self._loss_case),
        ):
            entries = registry(topic)
            with context.timed(topic):
                names = list(entries if chosen is None else chosen)
                rows += self._rows({name: find(name, entries[name], context) for name in names})
        return Outcome({"derivatives": self._table(rows), "errors": _error_table(rows)})

    def _rows(self, cases: "dict[str, _Case | None]") -> list[dict[str, Any]]:
        """One row per function and dtype: the largest error of each way to the derivative."""
        import jax

        from jaxdiff.experiments.references import error_in_ulp

        known = {name: case for name, case in cases.items() if case is not None}
        # All functions in one program per dtype: compiling dominates.
        compute = jax.jit(lambda inputs: {name: case.compute(*inputs[name]) for name, case in known.items()})
        found = {}
        for dtype in self.dtypes:
            found[dtype] = compute({name: tuple(np.asarray(item, dtype=dtype) for item in case.inputs) for name, case in known.items()})
        rows = []
        for name, case in cases.items():
            for dtype in self.dtypes:
                row: dict[str, Any] = {"function": name, "dtype": dtype, "verdict": "no reference"}
                if case is not None:
                    values = found[dtype][name]
                    errors = {key: error_in_ulp(value, case.exact, dtype, case.terms) for key, value in values.items()}
                    row |= {key: float(np.max(value)) for key, value in errors.items()}
                    row["worst_at"] = None if case.points is None else float(np.ravel(case.points)[np.argmax(errors["documented"])])
                    row["verdict"] = "right" if row["documented"] <= self.max_ulp else "WRONG"
                rows.append(row)
        return rows

    def _table(self, rows: list[dict[str, Any]]) -> Table:
        """One row per function: a reader wants the verdict, and how far plain autodiff is off."""
        columns = [Column("function", "function"), Column("verdict", "verdict")]
        for key, label, spec in (("documented", "documented", ".2f"), ("autodiff", "jax.grad", ".2f"), ("jax_nn", "jax.nn", ".2g")):
            columns += [Column(f"{key}_{dtype}", f"{label}, {dtype}", spec) for dtype in self.dtypes]
        wide = []
        for name in dict.fromkeys(row["function"] for row in rows):
            here = [row for row in rows if row["function"] == name]
            verdicts = {row["verdict"] for row in here}
            line: dict[str, Any] = {"function": name, "verdict": verdicts.pop() if len(verdicts) == 1 else "WRONG"}
            line |= {f"{key}_{row['dtype']}": row.get(key) for row in here for key in ("documented", "autodiff", "jax_nn")}
            wide.append(line)
        caption = (
            f"Largest error in ulp over {self.num_points} points: of the documented derivative, of jax.grad of the function, and of "
            f"jax.grad of jax.nn's function of that name. Right: at most {self.max_ulp:g} ulp."
        )
        return Table("Documented derivatives", columns, wide, caption)

    def _points(self, context: Context) -> np.ndarray:
        """Points of both signs around zero and out to ``largest``, exact in float32; none sits on a kink but zero is among them."""
        rng = context.rng("points")
        near = rng.uniform(-4, 4, self.num_points // 2)
        count = self.num_points - len(near) - 1
        far = np.exp(rng.uniform(np.log(1e-6), np.log(self.largest), count)) * rng.choice([-1, 1], count)
        return np.sort(np.concatenate([near, far, [0.0]])).astype(np.float32)

    def _activation_case(self, name: str, entry: Any, context: Context) -> "_Case | None":
        import jax

        from jaxdiff.experiments import references

        peer = _jax_nn(name)
        if not entry.is_elementwise:
            if not references.has_vector(name):
                return None
            x = context.rng(name).normal(scale=4.0, size=4).astype(np.float32)
            exact = [value for row in references.vector_jacobian(name, x.tolist()) for value in row]
            differentiate: Any = jax.jacobian
        else:
            if not references.has_activation(name):
                return None
            x = np.setdiff1d(self._points(context), np.asarray(entry.kinks, dtype=np.float32))
            exact = references.scalar_derivative(name, x.tolist())
            differentiate = lambda f: jax.vmap(jax.grad(f))  # noqa: E731

        def compute(x: Any) -> dict[str, Any]:
            found = {"documented": entry.derivative(x), "autodiff": differentiate(entry.value)(x)}
            return found | ({"jax_nn": differentiate(peer)(x)} if peer else {})

        return _Case(exact, compute, (x,), x if entry.is_elementwise else None)

    def _loss_case(self, name: str, entry: Any, context: Context) -> "_Case | None":
        import jax

        from jaxdiff.experiments import references

        if not references.has_loss(name):
            return None
        prediction, target, over_classes = _loss_inputs(name, context.rng(name), self.num_points)
        exact = references.loss_derivative(name, prediction, target, count=len(prediction))

        def compute(prediction: Any, target: Any) -> dict[str, Any]:
            gradient = jax.grad(lambda p: entry.value(p, target, reduction="mean"))
            return {"documented": entry.derivative(prediction, target, reduction="mean"), "autodiff": gradient(prediction)}

        # These are differences p - t of rounded p, so that errors are measured in units of t where p comes near it.
        is_difference = name.endswith("logits") or name == "poisson_nll"
        terms = (np.abs(np.ravel(target)).astype(np.float64) / len(prediction)).tolist() if is_difference else None
        return _Case(exact, compute, (prediction, target), None if over_classes else prediction, terms)

    def verdicts(self, outcome: Outcome) -> list[Verdict]:
        """Which are right, and where plain autodiff is not."""
        rows = outcome.tables["errors"].rows
        verdicts = []
        for dtype in self.dtypes:
            here = [row for row in rows if row["dtype"] == dtype]
            wrong = [row["function"] for row in here if row["verdict"] != "right"]
            worst = max((row for row in here if row.get("documented") is not None), key=lambda row: row["documented"], default=None)
            text = (
                f"{dtype}: {len(here) - len(wrong)} of {len(here)} documented derivatives are within {self.max_ulp:g} ulp of the reference"
            )
            text += (
                f"; not: {', '.join(wrong)}."
                if wrong
                else f"; the farthest is {worst['function']} with {worst['documented']:.2f} ulp."
                if worst
                else "."
            )
            verdicts.append(Verdict(text, is_good=not wrong))
            lossy = [row for row in here if (row.get("jax_nn") or 0) > self.max_ulp]
            if lossy:
                names = ", ".join(f"{row['function']} {row['jax_nn']:.3g}" for row in sorted(lossy, key=lambda row: -row["jax_nn"]))
                verdicts.append(
                    Verdict(f"{dtype}: jax.grad of jax.nn's function of the same name is farther off in {len(lossy)} (ulp): {names}.")
                )
        return verdicts

    def figures(self, outcome: Outcome) -> Mapping[str, Picture]:
        """Largest error per function, ours and plain autodiff of jax.nn's."""
        dtype = self.dtypes[0]
        rows = [row for row in outcome.tables["errors"].rows if row["dtype"] == dtype and row.get("documented") is not None]
        rows = rows[::-1]

        def draw(figure: Any, theme: figures.Theme) -> None:
            axis = figure.subplots()
            places = np.arange(len(rows))
            floor = 1e-2
            series = (("jax_nn", "jax.grad of jax.nn's", "s", theme.series[1]), ("autodiff", "jax.grad of ours", "D", theme.series[3]))
            for key, label, marker, colour in (*series, ("documented", "documented derivative", "o", theme.series[0])):
                values = np.array([row.get(key, np.nan) if row.get(key) is not None else np.nan for row in rows], dtype=float)
                values = np.where(np.isinf(values), 1e9, values)
                face = "none" if key == "autodiff" else colour
                axis.plot(
                    np.maximum(values, floor), places, marker, color=colour, markerfacecolor=face, markersize=6, label=label, clip_on=False
                )
            axis.set_xscale("log")
            axis.set_yticks(places, [row["function"] for row in rows])
            axis.axvline(self.max_ulp, color=theme.text, linewidth=0.8, linestyle=":")
            axis.annotate(
                f"{self.max_ulp:g} ulp", (self.max_ulp, len(rows) - 0.4), ha="center", va="bottom", fontsize=8, annotation_clip=False
            )
            axis.set_xlim(left=floor)
            axis.set_ylim(-0.6, len(rows) - 0.4)
            axis.set_xlabel(f"largest error of the first derivative in {dtype} (ulp)")
            figure.legend(loc="outside lower center", ncols=3)

        caption = (
            f"Largest error of each derivative in {dtype} over {self.num_points} points. Errors below 0.01 ulp are drawn at 0.01; "
            "a value that is not finite at 1e9."
        )
        return {"errors": Picture(draw, caption, size=(8.5, 1.4 + 0.24 * max(len(rows), 4)))}


class _Case(NamedTuple):
    """What one function is held against: exact derivatives, the ways to compute them, the inputs, and the points for the report."""

    exact: list[Any]
    compute: Callable[..., dict[str, Any]]
    inputs: tuple[np.ndarray, ...]
    points: np.ndarray | None
    terms: list[float] | None = None


def _error_table(rows: list[dict[str, Any]]) -> Table:
    columns = [
        Column("function", "function"),
        Column("dtype", "dtype"),
        Column("documented", "documented (ulp)", ".3f"),
        Column("autodiff", "jax.grad (ulp)", ".3f"),
        Column("jax_nn", "jax.grad of jax.nn (ulp)", ".3g"),
        Column("worst_at", "documented is worst at", ".6g"),
        Column("verdict", "verdict"),
    ]
    return Table("By dtype, and where the documented derivative is worst", columns, rows, is_main=False)


def _jax_nn(name: str) -> Any:
    """jax's own function of this name, or None."""
    import jax
    import jax.numpy as jnp

    if name == "gelu":
        return lambda x: jax.nn.gelu(x, approximate=False)
    if name == "gelu_tanh":
        return lambda x: jax.nn.gelu(x, approximate=True)
    if name == "tanh":
        return jnp.tanh
    return getattr(jax.nn, _JAX_NAMES.get(name, name), None)


def _loss_inputs(name: str, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Predictions and targets from the domain of a loss, exact in float32, and whether the last axis holds classes."""
    if name in ("categorical_cross_entropy", "categorical_cross_entropy_with_logits", "kl_divergence"):
        shape = (max(count // 4, 1), 4)
        logits = rng.normal(scale=3.0, size=shape)
        target = rng.dirichlet(np.ones(4), size=shape[0])
        prediction = logits if name.endswith("logits") else np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        return prediction.astype(np.float32), target.astype(np.float32), True
    if name == "binary_cross_entropy":
        prediction = 1 / (1 + np.exp(-rng.normal(scale=3.0, size=count)))
        return np.clip(prediction.astype(np.float32), 2.0**-20, 1 - 2.0**-20), rng.uniform(size=count).astype(np.float32), False
    if name == "binary_cross_entropy_with_logits":
        return rng.normal(scale=8.0, size=count).astype(np.float32), rng.uniform(size=count).astype(np.float32), False
    if name == "hinge":
        return rng.normal(scale=2.0, size=count).astype(np.float32), rng.choice([-1.0, 1.0], count).astype(np.float32), False
    if name == "poisson_nll":
        return rng.normal(scale=2.0, size=count).astype(np.float32), rng.poisson(5.0, size=count).astype(np.float32), False
    return rng.normal(scale=3.0, size=count).astype(np.float32), rng.normal(scale=3.0, size=count).astype(np.float32), False
