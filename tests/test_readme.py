"""The README says what happens: its Python is run, its TOML validated, and the files and commands it names exist."""

import doctest
import re
import shlex
import tomllib
from pathlib import Path

import jax

from jaxdiff import cli
from jaxdiff.experiments import config
from jaxdiff.experiments.kinds import KINDS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def test_python_blocks_print_what_they_say_in_the_precision_jax_starts_with() -> None:
    text = "\n".join(blocks("python"))
    example = doctest.DocTestParser().get_doctest(text, {}, "README", "README.md", 0)
    assert len(example.examples) >= 15
    output: list[str] = []
    with jax.enable_x64(False):
        result = doctest.DocTestRunner(verbose=False).run(example, out=output.append)
    assert result.failed == 0, "".join(output)


def test_toml_blocks_are_valid_configurations() -> None:
    assert blocks("toml")
    for block in blocks("toml"):
        config.validate(tomllib.loads(block))


def test_every_kind_is_described_and_no_other() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", README, flags=re.MULTILINE)) == set(KINDS)


def test_files_that_are_linked_exist() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_commands_that_are_shown_are_understood() -> None:
    shown = re.findall(r"^    (jaxdiff .*?)(?:\s{2,}#.*)?$", README, flags=re.MULTILINE)
    assert len(shown) == 6
    for command in shown:
        cli.build_parser().parse_args(shlex.split(command)[1:])


def test_make_targets_that_are_shown_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^    make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
