"""Masks: functions of a query index and a key index to a boolean, `True` where a query may attend.

Masks are composed with `&` and evaluated for the indices an algorithm asks for, so no
`[queries, keys]` array need exist. They are pytrees, passed as arguments. The leading
axes of their leaves are batch axes: `attend` aligns them, from the left, with the
leading axes of the scores (`[batch]` against `[batch, heads]`) and broadcasts the rest.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from attention.pytrees import register_dataclass, static

QueryIndex = Int[Array, " n"]
KeyIndex = Int[Array, " m"]
Allowed = Bool[Array, "*lead #n #m"]


class Mask:
    """A boolean function of a query index and a key index.

    Attributes:
      keys_only: whether the query index plays no part, so that one evaluation serves
        every query.
    """

    keys_only: ClassVar[bool] = False

    def __call__(self, query_index: QueryIndex, key_index: KeyIndex) -> Allowed:
        """Whether these queries may attend to these keys. The last two axes may be of size 1."""
        raise NotImplementedError

    def evaluate(self, query_index: QueryIndex, key_index: KeyIndex, lead: int) -> Allowed:
        """`__call__`, with singleton axes inserted so that there are `lead` leading axes."""
        allowed = self(query_index, key_index)
        if allowed.ndim - 2 > lead:
            raise ValueError(
                f"a mask with {allowed.ndim - 2} leading axes cannot be used on scores with {lead};"
                f" the mask has shape {allowed.shape}"
            )
        return _aligned(allowed, lead)

    def on_keys(self, num_keys: int, lead: int) -> Bool[Array, "*lead keys"]:
        """What a mask on keys alone allows to every query."""
        keys = jnp.arange(num_keys)
        return self.evaluate(jnp.zeros(1, keys.dtype), keys, lead)[..., 0, :]

    def reaches(self, queries: range, keys: range) -> bool:
        """Could any of these queries attend to any of these keys? If not, they may be skipped.

        Decided before any array is known, and so generously.
        """
        return True

    def check(self, num_queries: int, num_keys: int) -> None:
        """Refuses scores that this mask was not made for.

        Raises:
          ValueError: naming both shapes.
        """

    def __and__(self, other: "Mask") -> "Mask":
        return Both(self, other)


@register_dataclass
@dataclass(frozen=True)
class Both(Mask):
    """What two masks both allow."""

    left: Mask
    right: Mask

    @property
    def keys_only(self) -> bool:  # type: ignore[override]
        return self.left.keys_only and self.right.keys_only

    def __call__(self, query_index: QueryIndex, key_index: KeyIndex) -> Allowed:
        left, right = self.left(query_index, key_index), self.right(query_index, key_index)
        lead = max(left.ndim, right.ndim) - 2
        return _aligned(left, lead) & _aligned(right, lead)

    def reaches(self, queries: range, keys: range) -> bool:
        return self.left.reaches(queries, keys) and self.right.reaches(queries, keys)

    def check(self, num_queries: int, num_keys: int) -> None:
        self.left.check(num_queries, num_keys)
        self.right.check(num_queries, num_keys)


@register_dataclass
@dataclass(frozen=True)
class Causal(Mask):
    """Query i may attend to keys j ≤ i + offset."""

    offset: int = static(default=0)

    def __call__(self, query_index: QueryIndex, key_index: KeyIndex) -> Allowed:
        return key_index[None, :] <= query_index[:, None] + self.offset

    def reaches(self, queries: range, keys: range) -> bool:
        return keys[0] <= queries[-1] + self.offset


@register_dataclass
@dataclass(frozen=True)
class Window(Mask):
    """Query i may attend to keys j with |i − j| ≤ width."""

    width: int = static()

    def __call__(self, query_index: QueryIndex, key_index: KeyIndex) -> Allowed:
        return jnp.abs(key_index[None, :] - query_index[:, None]) <= self.width

    def reaches(self, queries: range, keys: range) -> bool:
        return keys[0] <= queries[-1] + self.width and queries[0] <= keys[-1] + self.width


@register_dataclass
@dataclass(frozen=True)
class Lengths(Mask):
    """Every query may attend to the first `lengths` keys."""

    lengths: Int[Array, "*lead"]

    keys_only: ClassVar[bool] = True

    def __call__(self, query_index: QueryIndex, key_index: KeyIndex) -> Allowed:
        lengths = self.lengths[..., None, None]
        return key_index.reshape((1,) * (lengths.ndim - 1) + (-1,)) < lengths


@register_dataclass
@dataclass(frozen=True)
class Dense(Mask):
    """Query i may attend to key j where an array of booleans says so."""

    allowed: Bool[Array, "*lead queries keys"]

    def __call__(self, query_index: QueryIndex, key_index: KeyIndex) -> Allowed:
        return self.allowed[..., query_index[:, None], key_index[None, :]]

    def check(self, num_queries: int, num_keys: int) -> None:
        if self.allowed.shape[-2:] != (num_queries, num_keys):
            raise ValueError(
                f"a dense mask of shape {self.allowed.shape} does not fit"
                f" {num_queries} queries and {num_keys} keys"
            )


def causal(*, offset: int = 0) -> Mask:
    """Query i may attend to keys j ≤ i + offset (aligned top-left)."""
    return Causal(offset)


def window(width: int) -> Mask:
    """Query i may attend to keys j with |i − j| ≤ width."""
    if width < 0:
        raise ValueError(f"window(width={width}): the width must be at least 0")
    return Window(width)


def lengths(lengths: Int[Array, "*lead"]) -> Mask:
    """Every query may attend to the first `lengths` keys: for padded keys."""
    lengths = jnp.asarray(lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(f"lengths must be integers, got {lengths.dtype}")
    return Lengths(lengths)


def dense(allowed: Bool[Array, "*lead queries keys"]) -> Mask:
    """Query i may attend to key j where `allowed[..., i, j]`."""
    allowed = jnp.asarray(allowed)
    if allowed.dtype != bool or allowed.ndim < 2:
        raise ValueError(
            "a dense mask must be a boolean array [..., queries, keys],"
            f" got {allowed.dtype} of shape {allowed.shape}"
        )
    return Dense(allowed)


def _aligned(allowed: Array, lead: int) -> Array:
    """With axes of size 1 after the leading axes that there are, so that there are `lead`."""
    return jnp.expand_dims(allowed, tuple(range(allowed.ndim - 2, lead)))
