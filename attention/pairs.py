"""Pairs of a query and a key: their indices, and arrays of all pairs aligned with the scores."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Integer

Shape = tuple[Any, ...]  # whole numbers; in a program for export, symbols too
ARRAYS = (jax.Array, np.ndarray, np.generic)


def grid(
    queries: Integer[Array, "*batch n"], keys: Integer[Array, "*other m"]
) -> tuple[Int[Array, "*lead n 1"], Int[Array, "*more 1 m"]]:
    """Numbers of queries and of keys, in axes of their own; batch axes aligned from the left."""
    lead = max(queries.ndim, keys.ndim) - 1
    rows, columns = queries[..., :, None], keys[..., None, :]
    return align_left(rows.astype(jnp.int32), lead), align_left(columns.astype(jnp.int32), lead)


def positions_of(
    positions: tuple[Integer[Array, "..."] | None, Integer[Array, "..."] | None],
    query_index: Int[Array, " n"],
    key_index: Int[Array, " m"],
) -> tuple[Integer[Array, "*batch n"], Int[Array, "*batch m"]]:
    """Where the queries and the keys of these indices stand, both with the same batch axes.

    Args:
      positions: of all queries and of all keys, `[*batch, time]`, with batch axes that broadcast,
        aligned from the left; None where they stand at their indices.
      query_index: of queries.
      key_index: of keys.
    """
    queries, keys = (
        (index if where is None else where[..., index]).astype(jnp.int32)
        for where, index in zip(positions, (query_index, key_index), strict=True)
    )
    lead = max(queries.ndim, keys.ndim) - 1
    queries, keys = align_left(queries, lead, 1), align_left(keys, lead, 1)
    batch = np.broadcast_shapes(queries.shape[:-1], keys.shape[:-1])
    return (
        jnp.broadcast_to(queries, (*batch, query_index.size)),
        jnp.broadcast_to(keys, (*batch, key_index.size)),
    )


def align_left(array: Array, lead: int, rest: int = 2) -> Array:
    """With axes of size 1 before the last `rest`, so that there are `lead` axes before them."""
    return jnp.expand_dims(array, tuple(range(array.ndim - rest, lead)))


def align_right(array: Array, ndim: int) -> Array:
    """With axes of size 1 in front, so that there are `ndim` axes."""
    return jnp.expand_dims(array, tuple(range(ndim - array.ndim)))


def entries(array: Array, query_index: Int[Array, " n"], key_index: Int[Array, " m"]) -> Array:
    """`array[..., i, j]` for all pairs; an axis of size 1 holds for every index, and stays."""
    rows, columns = (
        index if size != 1 else jnp.zeros(1, index.dtype)
        for index, size in zip((query_index, key_index), array.shape[-2:], strict=True)
    )
    return array[..., rows[:, None], columns[None, :]]


def aligned(name: str, array: Array, shape: Shape) -> Array:
    """An array of pairs with as many axes as the scores have.

    It must broadcast to the scores as NumPy does it. But `[batch, queries, keys]` goes with scores
    `[batch, heads, queries, keys]` too, unless its first axis could be the heads as well.

    Args:
      name: of the array, for messages.
      array: `[..., queries, keys]`; axes may be of size 1, or left out in front.
      shape: of the scores, `(*lead, queries, keys)`.

    Raises:
      ValueError: the array does not fit the scores, or fits them in two ways.
    """
    lead, sides, own = shape[:-2], (1, 1, *array.shape)[-2:], array.shape[:-2]
    if not _broadcasts(sides, shape[-2:]):
        raise ValueError(
            f"{name} of shape {array.shape} does not fit {shape[-2]} queries and {shape[-1]} keys"
            + _remedy(name, array, shape)
        )
    ones = (1,) * (len(lead) - len(own))
    ways = {way for way in ((*ones, *own), (*own, *ones)) if _broadcasts(way, lead)}
    if not ways:
        raise ValueError(
            f"{name} of shape {array.shape} does not broadcast to scores of shape {shape}"
        )
    if len(ways) > 1:
        raise ValueError(
            f"{name} of shape {array.shape} fits scores of shape {shape} in two ways: pass"
            f" {name}[:, None] if its first axis is that of the batch, {name}[None] if that of the"
            " heads"
        )
    return array.reshape(*ways.pop(), *sides)


def _broadcasts(own: Shape, sizes: Shape) -> bool:
    return len(own) == len(sizes) and all(a in (1, b) for a, b in zip(own, sizes, strict=True))


def _remedy(name: str, array: Array, shape: Shape) -> str:
    """For an array of the keys of each example, which lacks the axis of the queries."""
    if len(shape) == 2 or array.shape != (shape[0], shape[-1]):
        return ""
    if array.dtype == bool:
        return f": for the keys of each example pass masks.keys({name}), or masks.lengths(n)"
    return f": for the keys of each example pass {name}[:, None, None]"
