"""Everything that a configuration may name. A name that is not here is refused; nothing is imported because a file says so."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from jaxdiff.experiments.config import Section, suggestion

TOPICS = ("functions", "activations", "losses", "problems", "solvers", "stencils", "kinds", "datasets")


class SolverTable(Section):
    """Base of the solvers' tables."""

    name: str
    max_steps: int | None = Field(default=None, ge=0, description="steps at most; the experiment's where absent")
    label: str | None = Field(default=None, description="heading in tables and pictures; the name where absent")

    @property
    def heading(self) -> str:
        """What tables and pictures call this solver."""
        return self.label or self.name

    def build(self) -> Any:
        """The solver itself."""
        raise NotImplementedError


PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class GradientDescentTable(SolverTable):
    """Gradient descent; a step is shortened until f falls enough, or fixed."""

    name: Literal["gradient_descent"] = "gradient_descent"
    learning_rate: PositiveFloat = Field(default=1.0, description="units of x per unit of gradient; with backtracking the first one tried")
    line_search: Literal["backtracking", "strong_wolfe", "barzilai_borwein", "fixed"] = "backtracking"
    gtol: PositiveFloat | None = Field(default=None, description="largest gradient entry at which to stop")

    def build(self) -> Any:
        """The solver itself."""
        import jaxdiff as jd

        return jd.GradientDescent(learning_rate=self.learning_rate, line_search=self.line_search, gtol=self.gtol)


class NewtonTable(SolverTable):
    """Newton's method on the exact Hessian, made positive definite where it is not."""

    name: Literal["newton"] = "newton"
    gtol: PositiveFloat | None = Field(default=None, description="largest gradient entry at which to stop")
    xtol: PositiveFloat | None = Field(default=None, description="relative step at which to stop")
    ftol: PositiveFloat | None = Field(default=None, description="relative decrease at which to stop")

    def build(self) -> Any:
        """The solver itself."""
        import jaxdiff as jd

        given = {key: value for key in ("gtol", "xtol", "ftol") if (value := getattr(self, key)) is not None}
        return jd.Newton(**given)


class BFGSTable(SolverTable):
    """BFGS with a dense approximation of the inverse Hessian."""

    name: Literal["bfgs"] = "bfgs"
    gtol: PositiveFloat | None = Field(default=None, description="largest gradient entry at which to stop")

    def build(self) -> Any:
        """The solver itself."""
        import jaxdiff as jd

        return jd.BFGS(gtol=self.gtol)


class LBFGSTable(SolverTable):
    """L-BFGS, which remembers a few steps in place of a matrix."""

    name: Literal["lbfgs"] = "lbfgs"
    memory: int = Field(default=10, ge=1, description="steps that are remembered")
    gtol: PositiveFloat | None = Field(default=None, description="largest gradient entry at which to stop")

    def build(self) -> Any:
        """The solver itself."""
        import jaxdiff as jd

        return jd.LBFGS(memory=self.memory, gtol=self.gtol)


class NonlinearCGTable(SolverTable):
    """Nonlinear conjugate gradients, which keep three vectors and no matrix."""

    name: Literal["nonlinear_cg"] = "nonlinear_cg"
    formula: Literal["hager_zhang", "polak_ribiere"] = "hager_zhang"
    gtol: PositiveFloat | None = Field(default=None, description="largest gradient entry at which to stop")

    def build(self) -> Any:
        """The solver itself."""
        import jaxdiff as jd

        return jd.NonlinearCG(formula=self.formula, gtol=self.gtol)


class TrustRegionNewtonTable(SolverTable):
    """Newton's method inside a trust region, its subproblem solved exactly."""

    name: Literal["trust_region_newton"] = "trust_region_newton"
    gtol: PositiveFloat | None = Field(default=None, description="largest gradient entry at which to stop")
    xtol: PositiveFloat | None = Field(default=None, description="relative step at which to stop")
    ftol: PositiveFloat | None = Field(default=None, description="relative decrease at which to stop")

    def build(self) -> Any:
        """The solver itself."""
        import jaxdiff as jd

        return jd.TrustRegionNewton(gtol=self.gtol, xtol=self.xtol, ftol=self.ftol)


class TrustRegionNewtonCGTable(SolverTable):
    """Newton's method inside a trust region, by conjugate gradients on Hessian-vector products."""

    name: Literal["trust_region_newton_cg"] = "trust_region_newton_cg"
    max_inner: int = Field(default=200, ge=1, description="Hessian-vector products of a step at most")
    gtol: PositiveFloat | None = Field(default=None, description="largest gradient entry at which to stop")

    def build(self) -> Any:
        """The solver itself."""
        import jaxdiff as jd

        return jd.TrustRegionNewtonCG(max_inner=self.max_inner, gtol=self.gtol)


class OptaxTable(SolverTable):
    """Base of optax's transformations."""

    learning_rate: PositiveFloat = 1e-2
    gtol: PositiveFloat | None = Field(default=None, description="largest gradient entry at which to stop")

    def transformation(self) -> Any:
        """The optax gradient transformation."""
        raise NotImplementedError

    def build(self) -> Any:
        """The solver itself."""
        import jaxdiff as jd

        return jd.FromOptax(self.transformation(), gtol=self.gtol)


class AdamTable(OptaxTable):
    """Adam, as optax has it."""

    name: Literal["adam"] = "adam"
    b1: float = Field(default=0.9, ge=0, lt=1, description="decay of the mean of gradients")
    b2: float = Field(default=0.999, ge=0, lt=1, description="decay of the mean of their squares")

    def transformation(self) -> Any:
        """The optax gradient transformation."""
        import optax

        return optax.adam(self.learning_rate, b1=self.b1, b2=self.b2)


class SgdTable(OptaxTable):
    """Gradient descent with momentum, as optax has it."""

    name: Literal["sgd"] = "sgd"
    momentum: float | None = Field(default=None, ge=0, lt=1)
    nesterov: bool = False

    def transformation(self) -> Any:
        """The optax gradient transformation."""
        import optax

        return optax.sgd(self.learning_rate, momentum=self.momentum, nesterov=self.nesterov)


class RmspropTable(OptaxTable):
    """RMSProp, as optax has it."""

    name: Literal["rmsprop"] = "rmsprop"
    decay: float = Field(default=0.9, ge=0, lt=1)

    def transformation(self) -> Any:
        """The optax gradient transformation."""
        import optax

        return optax.rmsprop(self.learning_rate, decay=self.decay)


SOLVERS: dict[str, type[SolverTable]] = {
    "gradient_descent": GradientDescentTable,
    "newton": NewtonTable,
    "bfgs": BFGSTable,
    "lbfgs": LBFGSTable,
    "nonlinear_cg": NonlinearCGTable,
    "trust_region_newton": TrustRegionNewtonTable,
    "trust_region_newton_cg": TrustRegionNewtonCGTable,
    "adam": AdamTable,
    "sgd": SgdTable,
    "rmsprop": RmspropTable,
}

AnySolver = Annotated[
    GradientDescentTable
    | NewtonTable
    | BFGSTable
    | LBFGSTable
    | NonlinearCGTable
    | TrustRegionNewtonTable
    | TrustRegionNewtonCGTable
    | AdamTable
    | SgdTable
    | RmspropTable,
    Field(discriminator="name"),
]


@dataclasses.dataclass(frozen=True)
class Scheme:
    """A finite-difference scheme by name.

    Attributes:
        kind: forward, backward or central.
        order: power of the step by which its truncation error shrinks.
    """

    kind: Literal["forward", "backward", "central"]
    order: int


SCHEMES: dict[str, Scheme] = {
    **{f"forward-{order}": Scheme("forward", order) for order in (1, 2, 3, 4)},
    **{f"backward-{order}": Scheme("backward", order) for order in (1, 2, 3, 4)},
    **{f"central-{order}": Scheme("central", order) for order in (2, 4, 6, 8)},
}


def _kinds() -> Mapping[str, Any]:
    from jaxdiff.experiments.kinds import KINDS

    return KINDS


def _activations() -> Mapping[str, Any]:
    from jaxdiff.functions.activations import ACTIVATIONS

    return ACTIVATIONS


def _functions() -> Mapping[str, Any]:
    """Scalar functions that schemes may be tried on: the elementary ones, and the elementwise activations."""
    from jaxdiff.experiments.references import ELEMENTARY

    return {**ELEMENTARY, **{name: entry for name, entry in _activations().items() if entry.is_elementwise}}


def _losses() -> Mapping[str, Any]:
    from jaxdiff.functions.losses import LOSSES

    return LOSSES


def _problems() -> Mapping[str, Any]:
    from jaxdiff.functions.problems import PROBLEMS

    return PROBLEMS


def _datasets() -> Mapping[str, Any]:
    from jaxdiff.functions.nist import load_nist

    return load_nist()


_REGISTRIES: dict[str, Callable[[], Mapping[str, Any]]] = {
    "functions": _functions,
    "activations": _activations,
    "losses": _losses,
    "problems": _problems,
    "solvers": lambda: SOLVERS,
    "stencils": lambda: SCHEMES,
    "kinds": _kinds,
    "datasets": _datasets,
}


def registry(topic: str) -> Mapping[str, Any]:
    """The registered things of one of `TOPICS`, by name.

    Example:
        >>> sorted(registry("solvers"))[:4]
        ['adam', 'bfgs', 'gradient_descent', 'lbfgs']
    """
    return _REGISTRIES[topic]()


def describe(topic: str) -> list[dict[str, str]]:
    """A row per registered thing: its name and what it is, in a line.

    Example:
        >>> describe("stencils")[0]
        {'name': 'forward-1', 'description': 'forward difference, error of order h^1'}
    """
    return [{"name": name, "description": _line(topic, entry)} for name, entry in registry(topic).items()]


def _line(topic: str, entry: Any) -> str:
    if topic in ("kinds", "solvers"):
        return (entry.__doc__ or "").strip().splitlines()[0]
    if topic == "stencils":
        return f"{entry.kind} difference, error of order h^{entry.order}"
    if topic == "datasets":
        return f"{len(entry.y)} points, {len(entry.certified)} parameters, {entry.level} difficulty"
    return str(entry.formula)


def _known(topic: str, noun: str) -> AfterValidator:
    def check(name: str) -> str:
        known = registry(topic)
        if name not in known:
            raise ValueError(
                f'the string "{name}" is not a registered {noun}{suggestion(name, known)} '
                f"(names are looked up in a registry, see `jaxdiff list {topic}`; nothing is imported)"
            )
        return name

    return AfterValidator(check)


FunctionName = Annotated[str, _known("functions", "function")]
ActivationName = Annotated[str, _known("activations", "activation")]
LossName = Annotated[str, _known("losses", "loss")]
ProblemName = Annotated[str, _known("problems", "problem")]
SchemeName = Annotated[str, _known("stencils", "stencil")]
DatasetName = Annotated[str, _known("datasets", "dataset")]
