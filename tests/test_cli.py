"""The command line: what it prints, what it refuses, and with which exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from jaxdiff import cli
from jaxdiff.experiments import registry

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.toml"))

GOOD = """
name = "test"
[[experiment]]
kind = "accuracy"
functions = ["sin"]
schemes = ["central-2"]
derivatives = [1]
dtypes = ["float64"]
num_points = 4
sweep_function = "sin"
"""


@pytest.fixture(autouse=True)
def _keep_settings():
    """`run` sets JAX up for a process of its own; here the process goes on."""
    before = {name: getattr(jax.config, name) for name in ("jax_enable_x64", "jax_platforms")}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def write(folder: Path, text: str, name: str = "config.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    """Run a command that must be refused; its complaint, line by line."""
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err.splitlines()


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["frobnicate"], ["--version"]])
def test_help_and_mistakes_answer_without_importing_jax(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from jaxdiff.cli import main\n"
        f"main({arguments!r})\n"
        "heavy = sorted({'jax', 'jaxlib', 'numpy', 'pydantic', 'rich', 'matplotlib', 'optax'} & set(sys.modules))\n"
        "print('HEAVY', heavy)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_unknown_command_exits_2_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = refused(capsys, "rnu", "x.toml")
    assert "unknown 'rnu'; did you mean 'run'?" in line


def test_unknown_topic_exits_2_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = refused(capsys, "list", "activation")
    assert "did you mean 'activations'?" in line


def test_help_documents_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert "exit codes:" in printed
    assert all(f"\n  {code}  " in printed for code in (0, 1, 2))


# bad_inputs.json, row 42


def test_missing_file_is_one_line_with_path_and_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "absent.toml"
    assert refused(capsys, "run", path) == [f"{path}: no such file or directory"]


def test_directory_is_one_line_with_path_and_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "run", tmp_path) == [f"{tmp_path}: is a directory; expected a TOML file"]


@pytest.mark.parametrize("content", ["", "  \n\n"])
def test_empty_file_is_one_line_with_path_and_reason(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, content)
    (line,) = refused(capsys, "run", path)
    assert line.startswith(f"{path}: is empty")


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\xff\xfe", b"name = \x00\x00"])
def test_binary_file_is_one_line_with_path_and_reason(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    (line,) = refused(capsys, "run", path)
    assert line.startswith(f"{path}: is not text")


def test_path_with_a_nul_byte_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = refused(capsys, "run", "a\0b.toml")
    assert "null byte" in line


# Row 43


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ('name = "a"\nseed 3\n', "2:6"),
        ('name = "a\n', "1:10"),
        ("[[experiment]\n", "1:13"),
        ("a = 1\na = 2\n", "2:6"),
        ("x = [1,\n", "1:8"),
    ],
)
def test_syntax_error_names_file_line_and_column(content: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, content)
    (line,) = refused(capsys, "run", path)
    assert line.startswith(f"{path}:{place}: ")


def test_deep_nesting_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "x = " + "[" * 50_000)
    assert len(refused(capsys, "run", path)) == 1


# Row 44


def test_unknown_key_has_its_full_path_and_the_nearest_valid_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = 'name = "a"\nseeed = 1\n[[experiment]]\nkind = "nist"\nsolver = { name = "newton", maxiter = 5 }\n'
    lines = refused(capsys, "run", write(tmp_path, text))
    assert any("seeed: unknown key; did you mean 'seed'?" in line for line in lines)
    assert any("experiment.0.solver.maxiter: unknown key; did you mean 'max_steps'?" in line for line in lines)
    assert len(lines) == 2


# Row 45


def test_wrong_type_says_what_was_expected_and_what_came(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        'name = "a"\nseed = true\n[[experiment]]\nkind = "nist"\nmax_steps = "100"\nsolver = { name = "newton", gtol = true }\n'
        '[[experiment]]\nkind = "classification"\nl2 = "small"\nmax_steps = 2.5\nsolvers = "adam"\n'
    )
    lines = refused(capsys, "run", write(tmp_path, text))
    found = {line.split(": ", 1)[1] for line in lines}
    assert found == {
        "seed: expected an integer, got the boolean true",
        'experiment.0.max_steps: expected an integer, got the string "100"',
        "experiment.0.solver.gtol: expected a number, got the boolean true",
        'experiment.1.l2: expected a number, got the string "small"',
        "experiment.1.max_steps: expected an integer, got the float 2.5",
        'experiment.1.solvers: expected an array, got the string "adam"',
    }


# Row 48: there is no YAML here, so that its tags are never read as anything.


@pytest.mark.parametrize("name", ["config.yaml", "config.yml", "config.toml"])
def test_yaml_with_a_python_tag_is_refused_and_does_nothing(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    canary = tmp_path / "canary"
    path = write(tmp_path, f"name: !!python/object/apply:os.system ['touch {canary}']\n", name)
    (line,) = refused(capsys, "run", path)
    assert line.startswith(f"{path}:1:5: ")
    assert ("not YAML" in line) == (not name.endswith("toml"))
    assert not canary.exists()


# Row 49


@pytest.mark.parametrize("target", ["os:system", "builtins:eval", "subprocess:run", "antigravity:geohash", "__import__('os')"])
@pytest.mark.parametrize(
    "template",
    [
        '[[experiment]]\nkind = "optimizers"\nproblems = ["{}"]',
        '[[experiment]]\nkind = "accuracy"\nfunctions = ["{}"]',
        '[[experiment]]\nkind = "documented_derivatives"\nlosses = ["{}"]',
        '[[experiment]]\nkind = "nist"\nsolver = {{ name = "{}" }}',
        '[[experiment]]\nkind = "{}"',
    ],
)
def test_names_outside_the_registries_are_refused_and_nothing_is_imported(
    template: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = refused(capsys, "run", write(tmp_path, 'name = "a"\n' + template.format(target)))
    assert target in line
    assert "not a registered" in line or "is not registered" in line
    assert "antigravity" not in sys.modules


def test_module_in_the_working_folder_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    canary = tmp_path / "canary"
    write(tmp_path, f"open({str(canary)!r}, 'w')\ndef f(x): return x\n", "evil.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    refused(capsys, "run", write(tmp_path, 'name = "a"\n[[experiment]]\nkind = "optimizers"\nproblems = ["evil:f"]'))
    assert not canary.exists()


def test_every_mistake_is_reported_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = """
seed = -1
precision = "float46"
[[experiment]]
kind = "acuracy"
[[experiment]]
kind = "accuracy"
functions = ["sin", "tanhh"]
schemes = ["central-3"]
num_points = 0
[[experiment]]
name = "no kind"
"""
    lines = refused(capsys, "run", write(tmp_path, text))
    found = "\n".join(lines)
    for expected in (
        "name: missing",
        "seed: ",
        "precision: the string \"float46\" is not one of float32, float64; did you mean 'float64'?",
        "experiment.0.kind: the string \"acuracy\" is not registered; did you mean 'accuracy'?",
        "experiment.1.functions.1: the string \"tanhh\" is not a registered function; did you mean 'tanh'?",
        'experiment.1.schemes.0: the string "central-3" is not a registered stencil',
        "experiment.1.num_points: ",
        "experiment.2.kind: missing; expected one of accuracy",
    ):
        assert expected in found
    assert len(lines) == 8


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_published_configuration_is_valid(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"{path}: fine")


def test_there_is_a_configuration_of_every_kind_and_the_quickstart_has_all() -> None:
    names = {path.stem for path in CONFIGS}
    assert names == set(registry.registry("kinds")) | {"quickstart"}
    quickstart = (ROOT / "configs" / "quickstart.toml").read_text(encoding="utf-8")
    assert all(f'kind = "{kind}"' in quickstart for kind in registry.registry("kinds"))


@pytest.mark.parametrize("topic", registry.TOPICS)
def test_list_names_and_describes_everything_registered(topic: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", topic, "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in entries] == list(registry.registry(topic))
    assert all(entry["description"].strip() for entry in entries)
    assert cli.main(["list", topic]) == 0
    printed = capsys.readouterr().out
    assert all(entry["name"] in printed for entry in entries)


def test_topics_of_the_parser_are_those_of_the_registry() -> None:
    assert cli.TOPICS == registry.TOPICS


def test_doctor_finds_the_device_and_computes_in_every_dtype(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert findings["is_good"]
    assert findings["devices"][0]["platform"] == jax.devices()[0].platform
    assert set(findings["dtypes"]) == {"float16", "bfloat16", "float32", "float64"}
    assert findings["packages"]["jax"] == jax.__version__
    assert cli.main(["doctor"]) == 0
    assert "everything is fine" in capsys.readouterr().out


def test_validate_prints_the_resolved_configuration_with_overrides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, GOOD)
    overrides = [
        "--set",
        "experiment.0.num_points=7",
        "--set",
        "experiment.accuracy.interval=[1.0, 3.0]",
        "--set",
        "name=other",
        "--seed",
        "5",
    ]
    assert cli.main(["validate", str(path), "--json", "--precision", "float32", *overrides]) == 0
    resolved = json.loads(capsys.readouterr().out)
    assert (resolved["name"], resolved["seed"], resolved["precision"]) == ("other", 5, "float32")
    assert (resolved["experiment"][0]["num_points"], resolved["experiment"][0]["interval"]) == (7, [1.0, 3.0])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed", "expected path.to.key=value"),
        ("=3", "expected path.to.key=value"),
        ("experiment.5.num_points=3", "expected a position from 0 to 0 or a name"),
        ("experiment.accuray.num_points=3", "did you mean 'accuracy'?"),
        ("name.x=3", "has no keys"),
        ("naem.x=3", "did you mean 'name'?"),
        ("seed=[1, 2", "is not a TOML value"),
        ("seed=1\nname='b'", "expected one value"),
    ],
)
def test_override_that_leads_nowhere_is_refused(override: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = refused(capsys, "validate", write(tmp_path, GOOD), "--set", override)
    assert expected in "\n".join(lines)


def test_overrides_are_checked_like_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = refused(capsys, "validate", write(tmp_path, GOOD), "--set", "experiment.0.num_points=ten")
    assert line.endswith('experiment.0.num_points: expected an integer, got the string "ten"')


def test_json_mistakes_are_on_both_streams(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", str(tmp_path / "absent.toml"), "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"error": captured.err.splitlines()}


def test_run_prints_tables_and_the_report_and_json_prints_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, GOOD)
    assert cli.main(["run", str(path), "--output", str(tmp_path / "runs"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["is_good"]
    assert Path(summary["report"]).is_file()
    assert summary["experiments"][0]["tables"]["by_scheme"][0]["scheme"] == "autodiff"
    assert cli.main(["report", summary["folder"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": summary["report"]}


def test_gpu_asked_for_where_there_is_none_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if jax.devices()[0].platform != "cpu":
        pytest.skip("there is a GPU")
    (line,) = refused(capsys, "run", write(tmp_path, GOOD), "--device", "gpu", "--output", tmp_path / "runs")
    assert line.startswith("device: 'gpu'")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("folder", ["absent", "."])
def test_report_of_something_else_is_refused(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(refused(capsys, "report", tmp_path / folder)) == 1
