"""The README and the pages of docs/ say what happens: their Python is run, TOML validated; files, commands and names they show exist."""

import doctest
import re
import shlex
import tomllib
from pathlib import Path

import jax
import pytest

import jaxdiff
from jaxdiff import cli
from jaxdiff.experiments import config
from jaxdiff.experiments.kinds import KINDS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str, page: Path = ROOT / "README.md") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks("python", page)], ids=lambda page: page.stem)
def test_python_blocks_print_what_they_say_in_the_precision_jax_starts_with(page: Path) -> None:
    text = "\n".join(blocks("python", page))
    example = doctest.DocTestParser().get_doctest(text, {}, page.stem, page.name, 0)
    assert len(example.examples) >= (15 if page.stem == "README" else 5)
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_are_linked_exist(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert targets or page.stem == "reference"
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_reference_has_every_public_name_and_no_other() -> None:
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\.\. (?:auto\w+|py:data):: jaxdiff\.([\w.]+)$", page, flags=re.MULTILINE)
    modules = {name for name in listed if name.startswith("functions.")}
    assert len(listed) == len(set(listed))
    assert set(listed) - modules == set(jaxdiff._HOME)


def test_commands_that_are_shown_are_understood() -> None:
    shown = re.findall(r"^    (jaxdiff .*?)(?:\s{2,}#.*)?$", README, flags=re.MULTILINE)
    assert len(shown) == 6
    for command in shown:
        cli.build_parser().parse_args(shlex.split(command)[1:])


def test_make_targets_that_are_shown_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^    make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
