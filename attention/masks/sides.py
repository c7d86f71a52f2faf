"""Masks of what each key, or each query, says of itself."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Integer

from attention.masks.mask import Allowed, KeyIndex, Mask, QueryIndex, check_lead
from attention.pairs import Shape, grid
from attention.pytrees import register_dataclass

Integers = Integer[Array, "*lead"] | Integer[np.ndarray, "*lead"] | int


@register_dataclass
@dataclass(frozen=True)
class Lengths(Mask):
    """Every query may attend to the first `lengths` keys."""

    lengths: Integer[Array, "*lead"]

    keys_only: ClassVar[bool] = True

    def __call__(self, query_index: QueryIndex, key_index: KeyIndex) -> Allowed:
        return _before(key_index, self.lengths)[..., None, :]

    def check(self, shape: Shape) -> None:
        check_lead("lengths", self.lengths.shape, shape)


@register_dataclass
@dataclass(frozen=True)
class QueryLengths(Mask):
    """The first `lengths` queries may attend, to every key."""

    lengths: Integer[Array, "*lead"]

    def __call__(self, query_index: QueryIndex, key_index: KeyIndex) -> Allowed:
        return _before(query_index, self.lengths)[..., :, None]

    def check(self, shape: Shape) -> None:
        check_lead("query_lengths", self.lengths.shape, shape)


@register_dataclass
@dataclass(frozen=True)
class Keys(Mask):
    """Every query may attend to the keys for which an array says so."""

    allowed: Bool[Array, "*lead keys"]

    keys_only: ClassVar[bool] = True

    def __call__(self, query_index: QueryIndex, key_index: KeyIndex) -> Allowed:
        return self.allowed[..., None, key_index]

    def check(self, shape: Shape) -> None:
        _check_side("masks.keys", self.allowed.shape, shape, -1)


@register_dataclass
@dataclass(frozen=True)
class Queries(Mask):
    """The queries for which an array says so may attend, to every key."""

    allowed: Bool[Array, "*lead queries"]

    def __call__(self, query_index: QueryIndex, key_index: KeyIndex) -> Allowed:
        return self.allowed[..., query_index, None]

    def check(self, shape: Shape) -> None:
        _check_side("masks.queries", self.allowed.shape, shape, -2)


@register_dataclass
@dataclass(frozen=True)
class Segments(Mask):
    """A query may attend to the keys of its own segment.

    Attributes:
      query_ids: the segment of each query.
      key_ids: the segment of each key; None for those of the queries.
    """

    query_ids: Integer[Array, "*lead queries"]
    key_ids: Integer[Array, "*other keys"] | None

    @property
    def keeps_diagonal(self) -> bool:  # type: ignore[override]
        return self.key_ids is None

    def __call__(self, query_index: QueryIndex, key_index: KeyIndex) -> Allowed:
        key_ids = self.query_ids if self.key_ids is None else self.key_ids
        rows, columns = grid(self.query_ids[..., query_index], key_ids[..., key_index])
        return rows == columns

    def check(self, shape: Shape) -> None:
        key_ids = self.query_ids if self.key_ids is None else self.key_ids
        _check_side("masks.segments: query_ids", self.query_ids.shape, shape, -2)
        _check_side("masks.segments: key_ids", key_ids.shape, shape, -1)


def lengths(lengths: Integers) -> Mask:
    """Every query may attend to the first `lengths` keys: for padded keys."""
    return Lengths(_integers("lengths", lengths))


def query_lengths(lengths: Integers) -> Mask:
    """The first `lengths` queries may attend; others are padding, and their context is zero."""
    return QueryLengths(_integers("query_lengths", lengths))


def keys(allowed: Bool[Array, "*lead keys"] | Bool[np.ndarray, "*lead keys"]) -> Mask:
    """Every query may attend to the keys where `allowed`: for keys padded on any side.

    Args:
      allowed: for each key, `[keys]`, or for each key of each example, `[batch, keys]`.
    """
    return Keys(_booleans("masks.keys", allowed))


def queries(allowed: Bool[Array, "*lead queries"] | Bool[np.ndarray, "*lead queries"]) -> Mask:
    """The queries where `allowed` may attend; others are padding, and their context is zero."""
    return Queries(_booleans("masks.queries", allowed))


def segments(
    query_ids: Integer[Array, "*lead queries"] | Integer[np.ndarray, "*lead queries"],
    key_ids: Integer[Array, "*other keys"] | Integer[np.ndarray, "*other keys"] | None = None,
) -> Mask:
    """A query may attend to the keys of its own segment: for several sequences packed in one.

    Args:
      query_ids: the segment of each query, `[queries]` or `[batch, queries]`: any integers.
      key_ids: the segment of each key; None where keys and queries are the same sequence.
    """
    own = None if key_ids is None else _integers("key_ids", key_ids, axes=1)
    return Segments(_integers("query_ids", query_ids, axes=1), own)


def _before(index: Int[Array, " n"], lengths: Integer[Array, "*lead"]) -> Bool[Array, "*lead n"]:
    index = index.astype(jnp.int32).reshape((1,) * lengths.ndim + (-1,))
    return index < lengths[..., None]


def _integers(name: str, array: Integers, axes: int = 0) -> Integer[Array, "*lead"]:
    array = jnp.asarray(array)
    if not jnp.issubdtype(array.dtype, jnp.integer) or array.ndim < axes:
        shape = f" of shape {array.shape}" if array.ndim < axes else ""
        raise ValueError(f"{name} must be integers, got {array.dtype}{shape}")
    return array.astype(jnp.int32)


def _booleans(name: str, array: Any) -> Bool[Array, "*lead side"]:
    array = jnp.asarray(array)
    if array.dtype != bool or array.ndim < 1:
        raise ValueError(
            f"{name} takes booleans [..., {name.partition('.')[2]}], True where one may attend, got"
            f" {array.dtype} of shape {array.shape}: for zeros and ones pass array == 1"
        )
    return array


def _check_side(name: str, own: Shape, shape: Shape, side: int) -> None:
    if own[-1] != shape[side]:
        raise ValueError(f"{name} of shape {own} do not fit scores of shape {shape}")
    check_lead(name, own[:-1], shape)
