"""Keys that no query may attend to: whatever they hold must reach neither a value nor a gradient.

A weight of zero is not enough for that, since zero times NaN is NaN, and since what a score makes
of an infinite key may have no derivative. So such keys are replaced before anything is computed.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, PyTree

from attention.biases import Bias, is_finite
from attention.masks import Mask

BLOCK = 128  # queries whose biases are looked at together


def reachable_keys(
    mask: Mask | None, bias: Bias | None, shape: tuple[int, ...]
) -> Bool[Array, "*lead keys"] | None:
    """Which keys some query may attend to; None for all.

    Args:
      mask: which query may attend to which key.
      bias: what positions add to the scores; −∞ means that the query may not attend to the key.
      shape: of all scores, `(*lead, queries, keys)`. The leading axes of the result may be of
        size 1.
    """
    if bias is None or is_finite(bias):
        return None if mask is None else mask.reachable(shape)
    *lead, num_queries, num_keys = shape

    def allowed(query_index: Array, key_index: Array) -> Array:
        added = jnp.broadcast_to(bias(query_index, key_index), (*lead, query_index.size, num_keys))
        seen = added > -jnp.inf
        return seen if mask is None else seen & mask.evaluate(query_index, key_index, len(lead))

    return _any_query(allowed, num_queries, num_keys, tuple(lead))


def _any_query(
    allowed: Callable[[Array, Array], Array], num_queries: int, num_keys: int, lead: tuple
) -> Bool[Array, "*lead keys"]:
    keys = jnp.arange(num_keys, dtype=jnp.int32)
    starts = jnp.arange(0, num_queries, BLOCK, dtype=jnp.int32)

    def add(seen: Array, start: Array) -> tuple[Array, None]:
        queries = jnp.minimum(start + jnp.arange(BLOCK, dtype=jnp.int32), num_queries - 1)
        return seen | jnp.any(allowed(queries, keys), axis=-2), None

    return lax.scan(add, jnp.zeros((*lead, num_keys), bool), starts)[0]


def replaced(
    tree: PyTree, reachable: Bool[Array, "*lead keys"] | None, *, by_copies: bool = True
) -> PyTree:
    """Arrays in which every row that is not reachable is a copy of the first that is.

    A copy, for of a row of zeros a score need not have a derivative. Where no row is reachable, all
    are ones.

    Args:
      tree: arrays `[*lead, keys, …]`.
      reachable: which rows some query may attend to; axes of size 1 stand for any size. None
        for all.
      by_copies: whether to take copies; if not, all rows out of reach are ones. To find a row
        among keys that several devices share would take all of them together.
    """
    if reachable is None:
        return tree
    if not by_copies:
        return jax.tree.map(functools.partial(_or_ones, reachable), tree)
    first = jnp.argmax(reachable, axis=-1, keepdims=True)
    some = jnp.any(reachable, axis=-1, keepdims=True)
    axis = reachable.ndim - 1

    def replace(leaf: Array) -> Array:
        rest = tuple(range(reachable.ndim, leaf.ndim))
        where, index, exists = (jnp.expand_dims(a, rest) for a in (reachable, first, some))
        row = lax.stop_gradient(jnp.take_along_axis(leaf, index, axis=axis))
        return jnp.where(where, leaf, jnp.where(exists, row, jnp.ones((), leaf.dtype)))

    return jax.tree.map(replace, tree)


def _or_ones(reachable: Bool[Array, "*lead keys"], leaf: Array) -> Array:
    where = jnp.expand_dims(reachable, tuple(range(reachable.ndim, leaf.ndim)))
    return jnp.where(where, leaf, jnp.ones((), leaf.dtype))
