"""What an experiment file may say, and what is said about one that says something else.

A configuration is TOML: a few keys at the top, then one ``[[experiment]]`` table per experiment, whose ``kind`` decides which keys it
takes. Everything that is wrong is reported at once, each with the path of its key. Names of functions, solvers and kinds are looked up in
registries; nothing that a file says is ever imported or evaluated.
"""

import datetime
import difflib
import functools
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union

import pydantic
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import ErrorDetails

MAX_BYTES = 1 << 20

# Other libraries' words for our options, where the spelling alone would not lead to ours.
ALIASES = {
    "maxiter": "max_steps",
    "max_iter": "max_steps",
    "maxfev": "max_steps",
    "iterations": "max_steps",
    "steps": "max_steps",
    "tol": "gtol",
    "tolerance": "gtol",
    "lr": "learning_rate",
    "step_size": "learning_rate",
    "dtype": "precision",
    "random_state": "seed",
    "method": "solvers",
    "type": "kind",
}


class ConfigError(Exception):
    """A configuration that cannot be used; ``lines`` holds one sentence per mistake."""

    def __init__(self, lines: Sequence[str]):
        super().__init__("\n".join(lines))
        self.lines = list(lines)


class Section(BaseModel):
    """A TOML table: no unknown keys, no conversion between types, no change after it is read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


class Settings(Section):
    """The keys at the top of a file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)] = Field(description="names the run folder")
    description: str = Field(default="", description="first paragraph of the report")
    seed: int = Field(default=0, ge=0, lt=2**32, description="of every random number of the run")
    precision: Literal["float32", "float64"] = Field(default="float64", description="dtype of experiments that do not list their own")
    device: Literal["auto", "cpu", "gpu"] = Field(default="auto", description="auto takes what JAX finds first")
    output: Annotated[str, Field(min_length=1)] = Field(default="runs", description="folder that run folders are made in")
    formats: list[Literal["png", "svg"]] = Field(default=["png"], description="of the saved figures; the report always shows PNG")


class Run(Settings):
    """A whole file; `run_model` narrows ``experiment`` to the registered kinds."""

    experiment: list[Any]

    tagged: ClassVar[dict[str, type[Section]]] = {}


@functools.cache
def run_model() -> type[Run]:
    """The model of a whole file, with a discriminated union over the registered kinds."""
    from jaxdiff.experiments.kinds import KINDS
    from jaxdiff.experiments.registry import SOLVERS

    kinds = Union[tuple(KINDS.values())]  # noqa: UP007 - made at run time from a registry
    one = Annotated[kinds, Field(discriminator="kind")]  # type: ignore[valid-type]
    model = pydantic.create_model(
        "Run",
        __base__=Run,
        experiment=(Annotated[list[one], Field(min_length=1)], Field(description="the experiments, in order")),  # type: ignore[valid-type]
    )
    model.tagged = {**KINDS, **SOLVERS}
    return model


def load(path: Path, overrides: Sequence[str] = (), **settings: Any) -> Run:
    """Read, override and validate a configuration.

    Args:
        path: a TOML file.
        overrides: ``key=value`` texts, see `apply_override`.
        settings: values of top-level keys that win over the file; None leaves the file's.

    Raises:
        ConfigError: with every mistake, in words.
    """
    data = read_toml(path)
    mistakes = []
    for text in overrides:
        try:
            apply_override(data, text)
        except ConfigError as error:
            mistakes += error.lines
    if mistakes:
        raise ConfigError(mistakes)
    data.update({key: value for key, value in settings.items() if value is not None})
    return validate(data, source=str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The file as plain Python values.

    Raises:
        ConfigError: one line: the path, where known with line and column, and the reason.
    """
    text = _read_text(path)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line, column, reason = _locate(text, str(error))
        hint = " (configurations are TOML, not YAML)" if path.suffix.lower() in (".yaml", ".yml") else ""
        raise ConfigError([f"{path}:{line}:{column}: {reason}{hint}"]) from None
    except RecursionError:
        raise ConfigError([f"{path}: nested too deeply"]) from None


def _read_text(path: Path) -> str:
    try:
        if path.is_dir():
            raise ConfigError([f"{path}: is a directory; expected a TOML file"])
        if path.exists() and path.stat().st_size > MAX_BYTES:
            raise ConfigError([f"{path}: is larger than {MAX_BYTES:,} bytes; expected a TOML file"])
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError([f"{path}: {(error.strerror or type(error).__name__).lower()}"]) from None
    except ValueError as error:
        raise ConfigError([f"{str(path)!r}: {error}"]) from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: is not text (byte 0x{raw[error.start]:02x} at offset {error.start}); expected a TOML file"]) from None
    if "\0" in text:
        raise ConfigError([f"{path}: is not text (a NUL byte at offset {text.index(chr(0))}); expected a TOML file"])
    if not text.strip():
        raise ConfigError([f"{path}: is empty; expected at least a name and one [[experiment]]"])
    return text


def _locate(text: str, message: str) -> tuple[int, int, str]:
    """Line, column and reason out of tomllib's message, which has no fields of its own before Python 3.14."""
    found = re.search(r"^(.*) \(at line (\d+), column (\d+)\)$", message, flags=re.DOTALL)
    if found:
        return int(found[2]), int(found[3]), found[1]
    lines = text.splitlines()
    return len(lines), len(lines[-1]) + 1, message.removesuffix(" (at end of document)") + " at the end of the file"


def apply_override(data: dict[str, Any], text: str) -> None:
    """Set one key of ``data`` from ``path=value``.

    The path is dotted; an experiment goes by its position or its name, as in ``experiment.0.num_points`` or ``experiment.accuracy.dtypes``.
    The value is TOML; a bare word stands for itself.

    Raises:
        ConfigError: naming the part of the path that leads nowhere.
    """
    path, separator, value = text.partition("=")
    parts = path.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError([f"--set {text}: expected path.to.key=value"])
    target: Any = data
    for depth, part in enumerate(parts[:-1]):
        target = _descend(target, part, ".".join(parts[: depth + 1]), text)
    if isinstance(target, list):
        key: Any = _position(target, parts[-1], path, text)
    elif isinstance(target, dict):
        key = parts[-1]
    else:
        raise ConfigError([f"--set {text}: {'.'.join(parts[:-1])} is {_describe(target)}, which has no keys"])
    target[key] = _parse_value(value.strip(), text)


def _descend(target: Any, part: str, path: str, text: str) -> Any:
    if isinstance(target, list):
        return target[_position(target, part, path, text)]
    if isinstance(target, dict):
        if part not in target:
            raise ConfigError([f"--set {text}: no {path} in the file{suggestion(part, target)}"])
        return target[part]
    raise ConfigError([f"--set {text}: {path} leads into {_describe(target)}, which has no keys"])


def _position(items: list[Any], part: str, path: str, text: str) -> int:
    if part.isdecimal() and int(part) < len(items):
        return int(part)
    labels = [item.get("name", item.get("kind")) if isinstance(item, dict) else None for item in items]
    if labels.count(part) == 1:
        return labels.index(part)
    if labels.count(part) > 1:
        raise ConfigError([f"--set {text}: {path} names {labels.count(part)} entries; use a position from 0 to {len(items) - 1}"])
    known = [label for label in labels if isinstance(label, str)]
    positions = f"a position from 0 to {len(items) - 1}" if items else "an entry, but there is none"
    raise ConfigError([f"--set {text}: no {path}; expected {positions} or a name{suggestion(part, known)}"])


def _parse_value(value: str, text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {value}")
    except (tomllib.TOMLDecodeError, RecursionError):
        if re.fullmatch(r"[A-Za-z_./][\w./:-]*", value):
            return value
        raise ConfigError([f'--set {text}: {value!r} is not a TOML value (quote a string: key="text")']) from None
    if set(parsed) != {"value"}:
        raise ConfigError([f"--set {text}: expected one value"])
    return parsed["value"]


def validate(data: Mapping[str, Any], source: str = "config") -> Run:
    """The typed configuration.

    Raises:
        ConfigError: one line per mistake, each with the path of its key.
    """
    model = run_model()
    try:
        run = model.model_validate(dict(data))
    except pydantic.ValidationError as error:
        raise ConfigError([f"{source}: {_sentence(item, data, model)}" for item in error.errors(include_url=False)]) from None
    names = [experiment.label for experiment in run.experiment]
    repeated = [
        f"{source}: experiment.{position}.name: {name!r} is taken by experiment.{names.index(name)}; give each experiment a name of its own"
        for position, name in enumerate(names)
        if names.index(name) < position
    ]
    if repeated:
        raise ConfigError(repeated)
    return run


# pydantic's error types, in the words of TOML.
_EXPECTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a string",
    "list_type": "an array",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}


def _sentence(item: ErrorDetails, data: Mapping[str, Any], model: type[Run]) -> str:
    """One mistake: the path of the key, what is there, what was expected, and what may have been meant."""
    path, section = _walk(item["loc"], data, model)
    kind, value, context = item["type"], item["input"], item.get("ctx", {})
    if kind == "extra_forbidden":
        key = str(item["loc"][-1])
        return f"{path}: unknown key{suggestion(key, section.model_fields)}"
    if kind == "missing":
        description = section.model_fields[str(item["loc"][-1])].description
        return f"{path}: missing{f' ({description})' if description else ''}"
    if kind == "union_tag_not_found":
        tag = str(context["discriminator"]).strip("'")
        return f"{path}.{tag}: missing; expected one of {_listed(_tags(tag, model))}"
    if kind == "union_tag_invalid":
        tag, known = str(context["discriminator"]).strip("'"), re.findall(r"'([^']+)'", str(context["expected_tags"]))
        given = value.get(tag) if isinstance(value, dict) else context["tag"]
        return f"{path}.{tag}: {_describe(given)} is not registered{suggestion(str(given), known)} (known: {_listed(known)})"
    if kind == "literal_error":
        known = re.findall(r"'([^']+)'", str(context["expected"]))
        if isinstance(value, str):
            return f"{path}: {_describe(value)} is not one of {_listed(known)}{suggestion(value, known)}"
        return f"{path}: expected one of {_listed(known)}, got {_describe(value)}"
    if kind in _EXPECTED:
        return f"{path}: expected {_EXPECTED[kind]}, got {_describe(value)}"
    if kind == "value_error":
        return f"{path}: {str(item['msg']).removeprefix('Value error, ')}"
    reason = item["msg"].replace("Input should be", "expected a value").replace("List should have", "expected an array with")
    return f"{path}: {reason[0].lower() + reason[1:]}, got {_describe(value)}"


def _walk(location: Iterable[str | int], data: Any, model: type[Run]) -> tuple[str, type[Section]]:
    """The path a reader sees, without the union tags that pydantic puts into it, and the section that its last key belongs to."""
    section: type[Section] = model
    path: list[str] = []
    here: Any = data
    for part in location:
        is_tag = isinstance(here, dict) and part in model.tagged and part in (here.get("kind"), here.get("name"))
        if is_tag and not (path and path[-1] == part):
            section = model.tagged[str(part)]
            continue
        path.append(str(part))
        if isinstance(here, dict):
            here = here.get(part)
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            here = here[part]
        else:
            here = None
    return ".".join(path) or "the file", section


def _tags(discriminator: str, model: type[Run]) -> list[str]:
    return [tag for tag, section in model.tagged.items() if _is_tag_of(section, discriminator)]


def _is_tag_of(section: type[Section], discriminator: str) -> bool:
    field = section.model_fields.get(discriminator)
    return field is not None and getattr(field.annotation, "__origin__", None) is Literal


def suggestion(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the nearest known name, or nothing.

    Example:
        >>> suggestion("maxiter", ["max_steps", "seed"])
        "; did you mean 'max_steps'?"
    """
    known = list(known)
    if ALIASES.get(name) in known:
        return f"; did you mean {ALIASES[name]!r}?"
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.55)
    return f"; did you mean {close[0]!r}?" if close else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _describe(value: Any) -> str:
    """A value with its TOML type: ``the string "100"``."""
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, str):
        return f"the string {json.dumps(value if len(value) <= 60 else value[:57] + '...', ensure_ascii=False)}"
    if isinstance(value, int):
        return f"the integer {value}"
    if isinstance(value, float):
        return f"the float {value!r}"
    if isinstance(value, list):
        return f"an array of {len(value)}"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, (datetime.date, datetime.time)):
        return f"the date or time {value}"
    return "nothing" if value is None else f"a {type(value).__name__}"


def to_toml(run: Run) -> str:
    """The resolved configuration as TOML: what the file said, with every default written out; a run folder can be run again.

    tomllib only reads, and what we write is plain: top-level keys, then tables of scalars, arrays and one-line tables.
    """
    data = run.model_dump(exclude_none=True)
    experiments = data.pop("experiment")
    lines = [f"{key} = {_toml_value(value)}" for key, value in data.items()]
    for experiment in experiments:
        lines += ["", "[[experiment]]"]
        lines += [f"{key} = {_toml_value(value)}" for key, value in experiment.items()]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, float):
        return repr(value)
    # JSON's strings, integers and booleans are TOML's too, except for DEL, which JSON leaves as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
