"""Frozen dataclasses that are pytrees."""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax

C = TypeVar("C")


def static(*, default: Any = dataclasses.MISSING) -> Any:
    """A field that is part of the type: another value is another program."""
    return dataclasses.field(default=default, metadata={"static": True})


@dataclass_transform(frozen_default=True, field_specifiers=(static, dataclasses.field))
def pytree_dataclass(cls: type[C]) -> type[C]:
    """Class decorator: a frozen dataclass, registered as a pytree; fields made by `static` are part of the type.

    ``jax.tree_util.register_dataclass`` rebuilds through ``__init__`` and so would check the placeholders, stacked arrays and axis numbers
    that JAX puts in place of values; here ``__init__`` and ``__post_init__`` see only what a person wrote.
    """
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    kept = tuple(f.name for f in fields if f.metadata.get("static", False))
    children = tuple(f.name for f in fields if f.name not in kept)

    def flatten_with_keys(value: Any) -> tuple[Any, Any]:
        return [(jax.tree_util.GetAttrKey(n), getattr(value, n)) for n in children], tuple(getattr(value, n) for n in kept)

    def flatten(value: Any) -> tuple[Any, Any]:
        return [getattr(value, n) for n in children], tuple(getattr(value, n) for n in kept)

    def unflatten(aux: Any, leaves: Any) -> Any:
        value = object.__new__(cls)
        for name, leaf in (*zip(kept, aux, strict=True), *zip(children, leaves, strict=True)):
            object.__setattr__(value, name, leaf)
        return value

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
