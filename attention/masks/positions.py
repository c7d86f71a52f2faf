"""Masks that compare the positions of a query and a key."""

import operator
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Integer

from attention.masks.mask import (
    Allowed,
    KeyIndex,
    KeyPositions,
    Mask,
    QueryIndex,
    QueryPositions,
    check_lead,
)
from attention.pairs import Shape, align_left, grid, positions_of
from attention.pytrees import register_dataclass, static
from attention.sizes import LARGEST


class Span(Mask):
    """Query i may attend to keys j with i − left ≤ j ≤ i + right; a side of None has no end."""

    left: Any
    right: Any

    @property
    def keeps_diagonal(self) -> bool:  # type: ignore[override]
        return all(side is None or side >= 0 for side in (self.left, self.right))

    def __call__(self, query_index: QueryIndex, key_index: KeyIndex) -> Allowed:
        rows, columns = grid(query_index, key_index)
        ahead = columns - rows  # an index plus a width might overflow
        sides = [] if self.left is None else [ahead >= -self.left]
        sides += [] if self.right is None else [ahead <= self.right]
        return sides[0] if len(sides) == 1 else sides[0] & sides[1]

    def reaches(self, queries: range, keys: range) -> bool:
        """Exact for ranges without gaps, for then there is every distance between two."""
        if not (queries and keys):
            return False
        nearest, furthest = keys[0] - queries[-1], keys[-1] - queries[0]
        begins = self.left is None or furthest >= -self.left
        return begins and (self.right is None or nearest <= self.right)

    def fills(self, queries: range, keys: range) -> bool:
        """Exact."""
        if not (queries and keys):
            return True
        nearest, furthest = keys[0] - queries[-1], keys[-1] - queries[0]
        begins = self.left is None or nearest >= -self.left
        return begins and (self.right is None or furthest <= self.right)

    def reachable(self, shape: Shape) -> Bool[Array, "*lead keys"] | None:
        *lead, num_queries, num_keys = shape
        begin = 0 if self.left is None else max(0, -self.left)
        end = num_keys if self.right is None else num_queries + self.right
        if num_queries == 0:
            end = 0
        if begin == 0 and end >= num_keys:
            return None
        keys = jnp.arange(num_keys, dtype=jnp.int32).reshape(*[1] * len(lead), num_keys)
        return (keys >= min(begin, num_keys)) & (keys < min(end, num_keys))

    def at(self, query_positions: QueryPositions, key_positions: KeyPositions) -> Mask:
        return located(self, query_positions, key_positions)


@register_dataclass
@dataclass(frozen=True)
class Causal(Span):
    """Query i may attend to keys j ≤ i + offset."""

    offset: int = static(default=0)

    left: ClassVar[None] = None

    @property
    def right(self) -> int:
        return self.offset


@register_dataclass
@dataclass(frozen=True)
class Window(Span):
    """Query i may attend to keys j with |i − j| ≤ width."""

    width: int = static()

    @property
    def left(self) -> int:
        return self.width

    @property
    def right(self) -> int:
        return self.width


@register_dataclass
@dataclass(frozen=True)
class Band(Span):
    """Query i may attend to keys j with i − left ≤ j ≤ i + right; a side of None has no end."""

    left: int | None = static()
    right: int | None = static()


@register_dataclass
@dataclass(frozen=True)
class OffsetCausal(Mask):
    """Query i may attend to keys j ≤ i + offset, with an offset that is an array.

    An offset that may be traced must not be a static field: in the caches of `jit`, the structures
    of other masks would be compared with it.
    """

    offset: Integer[Array, "*lead"]

    def __call__(self, query_index: QueryIndex, key_index: KeyIndex) -> Allowed:
        rows, columns = grid(query_index, key_index)
        ahead, offset = columns - rows, self.offset[..., None, None]
        lead = max(ahead.ndim, offset.ndim) - 2
        return align_left(ahead, lead) <= align_left(offset, lead)

    def reachable(self, shape: Shape) -> Bool[Array, "*lead keys"] | None:
        """What the last query may attend to."""
        if shape[-2] == 0:
            return super().reachable(shape)
        last, keys = jnp.full(1, shape[-2] - 1), jnp.arange(shape[-1])
        return self.evaluate(last, keys, len(shape) - 2)[..., 0, :]

    def at(self, query_positions: QueryPositions, key_positions: KeyPositions) -> Mask:
        return located(self, query_positions, key_positions)

    def check(self, shape: Shape) -> None:
        check_lead("the offsets", self.offset.shape, shape)


@register_dataclass
@dataclass(frozen=True)
class Located(Mask):
    """A mask that compares positions, where a position is not an index.

    Attributes:
      mask: the mask.
      query_positions: where the queries stand, or None where they stand at their indices.
      key_positions: where the keys stand, or None.
    """

    mask: Mask
    query_positions: QueryPositions
    key_positions: KeyPositions

    def __call__(self, query_index: QueryIndex, key_index: KeyIndex) -> Allowed:
        positions = self.query_positions, self.key_positions
        return self.mask(*positions_of(positions, query_index, key_index))

    def reachable(self, shape: Shape) -> Bool[Array, "*lead keys"] | None:
        """For a causal mask, what the query at the greatest position may attend to."""
        *lead, num_queries, num_keys = shape
        if num_queries == 0 or not isinstance(self.mask, Causal | OffsetCausal):
            return super().reachable(shape)
        queries, keys = self.query_positions, self.key_positions
        queries = jnp.arange(num_queries) if queries is None else queries
        keys = jnp.arange(num_keys) if keys is None else keys
        allowed = self.mask(jnp.max(queries, axis=-1, keepdims=True), keys)
        return align_left(allowed, len(lead))[..., 0, :]

    def check(self, shape: Shape) -> None:
        self.mask.check(shape)
        sides = zip(("query", "key"), (self.query_positions, self.key_positions), strict=True)
        for (side, positions), size in zip(sides, shape[-2:], strict=True):
            if positions is None:
                continue
            check_lead(f"the {side}_positions", positions.shape[:-1], shape)
            if positions.shape[-1] != size:
                raise ValueError(
                    f"{side}_positions of shape {positions.shape} do not fit scores of {shape}"
                )


def located(mask: Mask, query_positions: QueryPositions, key_positions: KeyPositions) -> Mask:
    """A mask that compares positions, told where queries and keys stand."""
    if query_positions is None and key_positions is None:
        return mask
    return Located(mask, query_positions, key_positions)


def causal(*, offset: int | np.integer | Integer[Array, "*lead"] | np.ndarray = 0) -> Mask:
    """Query i may attend to keys j ≤ i + offset (aligned top-left).

    Args:
      offset: a number, which lets blocks be skipped; or integers `[*lead]`, such as a number for
        each example of a batch, which may be traced.

    Raises:
      ValueError: the offset is no integer.
    """
    if not isinstance(offset, jax.Array | np.ndarray):
        return Causal(_whole("causal(offset={})", offset, -LARGEST))
    if not jnp.issubdtype(offset.dtype, jnp.integer):
        raise ValueError(f"causal(offset=…): must be integers, got {offset.dtype}")
    return OffsetCausal(jnp.asarray(offset, jnp.int32))


def window(width: int | None = None, *, left: int | None = None, right: int | None = None) -> Mask:
    """Query i may attend to keys j with |i − j| ≤ width, or with i − left ≤ j ≤ i + right.

    Args:
      width: on both sides.
      left: how many keys before the query. Left out, but not `right`, it is all of them.
      right: how many keys after the query. Left out, but not `left`, it is all of them:
        `window(left=2, right=0)` looks back only.

    Raises:
      ValueError: a width is no whole number of at least 0, or it is not clear which are given.
    """
    if (width is None) == (left is right is None):
        raise ValueError(
            f"window(width={width}, left={left}, right={right}): pass a width, or left and right,"
            " or one of these for a window that is open on the other side"
        )
    if width is not None:
        return Window(_whole("window(width={})", width, 0))
    sides = {"window(left={})": left, "window(right={})": right}
    return Band(*(None if n is None else _whole(call, n, 0) for call, n in sides.items()))


def _whole(call: str, number: Any, lowest: int) -> int:
    """A whole number that is known while a program is traced."""
    try:
        whole = operator.index(number)
    except (TypeError, jax.errors.TracerIntegerConversionError):
        whole = None
    if whole is None or not lowest <= whole <= LARGEST or isinstance(number, bool):
        raise ValueError(
            f"{call.format(repr(number))}: must be a whole number from {lowest} to {LARGEST}"
        )
    return whole
