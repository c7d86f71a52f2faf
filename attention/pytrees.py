"""Dataclasses as pytrees, such that no two classes share a structure.

To `jax.tree_util.register_dataclass` of jaxlib 0.10.2, two classes with equal static fields have
equal structures: `causal(offset=2)` and `window(2)`, say. Where their hashes collide, as happens
to a pair of structures in some hundreds, `jit` takes the program of one class for the other's.
"""

from collections.abc import Iterable
from dataclasses import field, fields
from typing import Any, TypeVar

from jax.tree_util import GetAttrKey, register_pytree_with_keys

Class = TypeVar("Class", bound=type)


def static(**kwargs: Any) -> Any:
    """A dataclass field that is part of the pytree's structure, not of its data."""
    return field(metadata={"static": True}, **kwargs)


def field_names(cls: type, *, static: bool) -> tuple[str, ...]:
    """The names of a dataclass's static fields, or of the fields that are not static."""
    return tuple(f.name for f in fields(cls) if f.metadata.get("static", False) == static)


def register_dataclass(cls: Class) -> Class:
    """Makes a dataclass a pytree whose leaves are its fields, less the static ones."""
    data, structure = field_names(cls, static=False), field_names(cls, static=True)

    def flatten_with_keys(node: Any) -> tuple[tuple, tuple]:
        children = tuple((GetAttrKey(name), getattr(node, name)) for name in data)
        return children, tuple(getattr(node, name) for name in structure)

    def flatten(node: Any) -> tuple[tuple, tuple]:
        return (
            tuple(getattr(node, name) for name in data),
            tuple(getattr(node, name) for name in structure),
        )

    def unflatten(values: tuple, children: Iterable) -> Any:
        return cls(**dict(zip(structure + data, (*values, *children), strict=True)))

    register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
