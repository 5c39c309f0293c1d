"""Files of a run folder: written whole or not at all, read back without executing anything.

Tables are JSON lines, one object per row, with Parquet beside them where pyarrow is installed. JSON has no NaN and no infinity: NaN is
``null``, infinities are the strings ``"inf"`` and ``"-inf"``.
"""

import io
import json
import math
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        # mkstemp makes files that only their owner can read; these are meant to be shared.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for text, in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` for JSON."""
    write_text(path, json.dumps(to_json(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def to_json(value: Any) -> Any:
    """The value in types that JSON has.

    Example:
        >>> to_json({"a": np.float32(0.5), "b": [float("nan"), float("inf")]})
        {'a': 0.5, 'b': [None, 'inf']}
    """
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, np.ndarray):
        return to_json(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be saved; expected numbers, text, lists and dictionaries")


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write ``path.jsonl``, and ``path.parquet`` where pyarrow is installed and the rows are not empty."""
    rows = list(rows)
    lines = [json.dumps(to_json(row), ensure_ascii=False, allow_nan=False) for row in rows]
    write_text(path.with_suffix(".jsonl"), "".join(line + "\n" for line in lines))
    if not rows:
        return
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return
    keys = list(dict.fromkeys(key for row in rows for key in row))
    table = pyarrow.table({key: [_parquet_cell(row.get(key)) for row in rows] for key in keys})
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    write_bytes(path.with_suffix(".parquet"), sink.getvalue().to_pybytes())


def _parquet_cell(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a ``.jsonl`` file; infinities become floats again, ``null`` stays None."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [{key: _from_json(value) for key, value in json.loads(line).items()} for line in lines if line.strip()]


def _from_json(value: Any) -> Any:
    return float(value) if value in ("inf", "-inf") else value


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a ``.npz`` of plain arrays."""
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise TypeError(f"array {name!r} holds Python objects, which cannot be saved without pickle")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a ``.npz``, pickles refused."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
