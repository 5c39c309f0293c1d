"""Configurations: defaults, strictness, overrides, and the text they are saved as."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdiff.experiments import config, registry
from jaxdiff.experiments.kinds import KINDS

pytestmark = pytest.mark.core

MINIMAL = {"name": "a", "experiment": [{"kind": "accuracy"}]}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_runs_on_its_defaults_and_says_what_it_is(kind: str) -> None:
    run = config.validate({"name": "a", "experiment": [{"kind": kind}]})
    assert type(run.experiment[0]) is KINDS[kind]
    assert run.experiment[0].label == kind
    assert len((KINDS[kind].__doc__ or "").split("\n\n")) >= 2


@pytest.mark.parametrize("kind", KINDS)
def test_resolved_configuration_reads_back_equal(kind: str) -> None:
    run = config.validate({"name": "a", "experiment": [{"kind": kind}]})
    assert config.validate(tomllib.loads(config.to_toml(run))) == run


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_survives_being_saved(text: str) -> None:
    run = config.validate(MINIMAL | {"description": text})
    assert tomllib.loads(config.to_toml(run))["description"] == text


@pytest.mark.parametrize("value", ["1e400", "inf", "nan", "-inf"])
def test_numbers_that_are_not_finite_are_refused_where_they_make_no_sense(value: str) -> None:
    data = tomllib.loads(f'name = "a"\n[[experiment]]\nkind = "nist"\nsolver = {{ name = "newton", gtol = {value} }}\n')
    with pytest.raises(config.ConfigError, match=r"experiment\.0\.solver\.gtol"):
        config.validate(data)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"seed": 2**32}, "seed: "),
        ({"name": "../escape"}, "name: "),
        ({"name": ""}, "name: "),
        ({"output": ""}, "output: "),
        ({"experiment": []}, "experiment: "),
        ({"experiment": {"kind": "accuracy"}}, "experiment: expected an array, got a table"),
        ({"experiment": [3]}, "experiment.0"),
        ({"experiment": [{"kind": "accuracy", "name": "a/b"}]}, "experiment.0.name"),
        ({"experiment": [{"kind": "accuracy"}, {"kind": "accuracy"}]}, "is taken by experiment.0"),
        ({"experiment": [{"kind": "accuracy", "interval": [2.0, 1.0]}]}, "the smaller one first"),
        ({"experiment": [{"kind": "accuracy", "interval": [1.0]}]}, "experiment.0.interval"),
        ({"experiment": [{"kind": "accuracy", "derivatives": [5]}]}, "experiment.0.derivatives.0"),
        ({"experiment": [{"kind": "optimizers", "problems": ["powell_singular"]}]}, "two variables"),
        ({"experiment": [{"kind": "optimizers", "solvers": [{"name": "newton"}, {"name": "newton"}]}]}, "a label of its own"),
        ({"experiment": [{"kind": "batch", "family": "rosenbrok"}]}, "did you mean 'rosenbrock'?"),
        ({"experiment": [{"kind": 3}]}, "experiment.0.kind: the integer 3 is not registered"),
    ],
)
def test_values_out_of_range_are_refused_with_their_path(change: dict, expected: str) -> None:
    with pytest.raises(config.ConfigError) as refused:
        config.validate(MINIMAL | change)
    assert expected in str(refused.value)


def test_top_level_options_win_over_the_file_and_absent_ones_leave_it(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('name = "a"\nseed = 3\n[[experiment]]\nkind = "accuracy"\n')
    assert config.load(path, seed=None).seed == 3
    assert config.load(path, seed=7).seed == 7
    assert config.load(path, ["seed=8"], seed=None).seed == 8


def test_override_reaches_into_tables_of_solvers() -> None:
    data = {"name": "a", "experiment": [{"kind": "optimizers", "solvers": [{"name": "adam"}, {"name": "newton"}]}]}
    config.apply_override(data, "experiment.optimizers.solvers.adam.learning_rate=0.25")
    config.apply_override(data, "experiment.0.solvers.1={ name = 'sgd', momentum = 0.5 }")
    first, second = config.validate(data).experiment[0].solvers
    assert (first.learning_rate, second.name, second.momentum) == (0.25, "sgd", 0.5)


@pytest.mark.parametrize("name", registry.SOLVERS)
def test_every_registered_solver_can_be_made_from_its_table(name: str) -> None:
    import jaxdiff as jd

    result = jd.minimize(lambda x: (x - 1.0) ** 2, 0.5, solver=registry.SOLVERS[name]().build(), max_steps=2)
    assert result.status_name in jd.Status.__members__
    assert float(result.fun) < 0.25


def test_solver_tables_and_solver_union_list_the_same_names() -> None:
    for name in registry.SOLVERS:
        run = config.validate({"name": "a", "experiment": [{"kind": "nist", "solver": {"name": name}}]})
        assert type(run.experiment[0].solver) is registry.SOLVERS[name]


def test_schemes_are_differences_that_exist() -> None:
    from jaxdiff.derivatives.stencils import stencil_for

    for scheme in registry.SCHEMES.values():
        assert stencil_for(scheme.kind, 1, scheme.order).order == scheme.order


def test_registered_functions_all_have_a_reference() -> None:
    """A new activation or loss without a definition in mpmath would go unchecked."""
    from jaxdiff.experiments import references

    activations = registry.registry("activations")
    assert [
        name
        for name, entry in activations.items()
        if not (references.has_activation if entry.is_elementwise else references.has_vector)(name)
    ] == []
    assert [name for name in registry.registry("losses") if not references.has_loss(name)] == []
