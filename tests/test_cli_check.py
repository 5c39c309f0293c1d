"""``jaxdiff check``: what it prints, what it refuses, and with which exit code."""

import json
from pathlib import Path

import jax
import pytest

from jaxdiff import cli
from jaxdiff.derivatives import check

SOURCE = """
import jax
import jax.numpy as jnp

WEIGHT = 2.0

def energy(x, scale):
    return scale * jnp.sum(jnp.sin(x["a"]) ** 2)

@jax.custom_jvp
def wrong(x):
    return jnp.exp(x)

wrong.defjvps(lambda tangent, value, x: 2 * tangent * value)
"""


@pytest.fixture(autouse=True)
def _keep_settings():
    """The command sets JAX up for a process of its own; here the process goes on."""
    before = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("sys.path", __import__("sys").path.copy())
    path = tmp_path / "checked_functions.py"
    path.write_text(SOURCE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return path


def test_modes_of_the_command_are_those_of_the_checker() -> None:
    assert cli.MODES == check.MODES


def test_right_derivatives_exit_0_with_a_table(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", f"{source}:energy", "--at", '{"a": [1.0, 2.0]}', "--at", "3"]) == 0
    printed = capsys.readouterr().out
    assert "derivatives of energy: 1 pass" in printed
    assert "x['a']" in printed


def test_a_wrong_rule_exits_1_and_json_is_all_that_is_printed(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["check", "checked_functions:wrong", "--at", "1.5", "--dtype", "float32", "--json"]
    assert cli.main(command) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["failed"] is True
    assert report["leaves"][0]["verdict"] == "fail"
    assert report["leaves"][0]["autodiff"] == pytest.approx(2 * 2.718281828459045**1.5, rel=1e-6)


@pytest.mark.parametrize(
    ("function", "at", "message"),
    [
        ("checked_functions", "1.0", "expected module:function"),
        ("checked_functions:wrnog", "1.0", "checked_functions has no 'wrnog'; did you mean 'wrong'?"),
        ("checked_functions:WEIGHT", "1.0", "is a float; expected a function"),
        ("no_such_module:f", "1.0", "no_such_module: cannot be imported: ModuleNotFoundError"),
        ("absent.py:f", "1.0", "absent.py: no such file"),
        ("checked_functions:wrong", "[1.0", "expected JSON"),
        ("checked_functions:wrong", "[[1.0], [1.0, 2.0]]", "rows of unequal lengths"),
        ("checked_functions:wrong", "3", "no floating-point leaf"),
        ("checked_functions:energy", "1.0", "checked_functions:energy: TypeError"),
    ],
)
def test_mistakes_exit_2_in_one_line(source: Path, capsys: pytest.CaptureFixture[str], function: str, at: str, message: str) -> None:
    assert cli.main(["check", function, "--at", at]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert message in line
