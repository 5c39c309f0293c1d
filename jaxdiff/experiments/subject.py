"""A function of the user's and its arguments, as a command line names them: ``module:function`` and JSON."""

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff._validation import closest
from jaxdiff.experiments.config import ConfigError


def load_function(text: str) -> Callable[..., Any]:
    """The function that ``module:function`` or ``path/to/file.py:function`` names; modules of the current folder are found.

    Raises:
        ConfigError: there is no such module or function, or it cannot be imported.

    Example:
        >>> load_function("math:sin").__name__
        'sin'
    """
    where, colon, name = text.rpartition(":")
    if not colon or not where or not name:
        raise ConfigError([f"{text!r}: expected module:function or path/to/file.py:function"])
    value = _module(where)
    for part in name.split("."):
        if not hasattr(value, part):
            raise ConfigError([f"{where} has no {part!r}{closest(part, [key for key in dir(value) if not key.startswith('_')])}"])
        value = getattr(value, part)
    if not callable(value):
        raise ConfigError([f"{text!r} is a {type(value).__name__}; expected a function"])
    return value


def argument_from_json(text: str, dtype: str) -> Any:
    """One argument: a list of numbers is an array, an object a dictionary; numbers with a point are floats of ``dtype``, others integers.

    Raises:
        ConfigError: the text is no JSON, or a list of numbers has rows of unequal lengths.

    Example:
        >>> argument_from_json("[1.0, 2.0]", "float32").dtype.name, argument_from_json("3", "float32")
        ('float32', 3)
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError([f"--at {text!r}: {error}; expected JSON, such as 1.5 or '[0.3, -2.0]'"]) from None
    return _as_leaves(value, dtype, text)


def _module(where: str) -> Any:
    folder = str(Path.cwd())
    try:
        if where.endswith(".py"):
            path = Path(where)
            if not path.is_file():
                raise ConfigError([f"{path}: no such file"])
            # Beside the file are the modules it imports.
            sys.path.insert(0, str(path.resolve().parent))
            specification = importlib.util.spec_from_file_location(path.stem, path)
            if specification is None or specification.loader is None:
                raise ConfigError([f"{path}: is no Python file"])
            module = importlib.util.module_from_spec(specification)
            specification.loader.exec_module(module)
            return module
        if folder not in sys.path:
            sys.path.insert(0, folder)
        return importlib.import_module(where)
    except ConfigError:
        raise
    except Exception as error:  # whatever runs when the module is read
        raise ConfigError([f"{where}: cannot be imported: {type(error).__name__}: {error}"]) from error


def _as_leaves(value: Any, dtype: str, text: str) -> Any:
    import jax.numpy as jnp

    if isinstance(value, dict):
        return {key: _as_leaves(part, dtype, text) for key, part in value.items()}
    if isinstance(value, float):
        return np.asarray(value, jnp.dtype(dtype))
    if not isinstance(value, list):
        return value
    if not value or not all(_is_numeric(part) for part in value):
        return [_as_leaves(part, dtype, text) for part in value]
    try:
        array = np.asarray(value)
    except ValueError:
        raise ConfigError([f"--at {text!r}: rows of unequal lengths; expected an array"]) from None
    return array.astype(jnp.dtype(dtype)) if array.dtype.kind == "f" else array


def _is_numeric(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_numeric(part) for part in value)
    return isinstance(value, (int, float)) and not isinstance(value, bool)
