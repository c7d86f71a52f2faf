"""Caches: what a layer keeps of the keys and values before, to attend step by step.

A `KeyCache` holds what the form of a score keeps of each key, projected and rotated, so that a step
computes with its own key alone. Where the score ignores the query, nothing of a single key is
needed any more: a `StateCache` holds what all keys amount to, in a size that does not grow.

Both are pytrees of arrays whose shapes never change: they go through `jax.jit`, which compiles a
step once, and through `jax.lax.scan`. Each batch element counts its own keys.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PyTree

from attention import recurrence
from attention.forms import Form, KeyOnly, by_key
from attention.masks import Mask
from attention.pytrees import register_dataclass


@register_dataclass
@dataclass(frozen=True)
class KeyCache:
    """What is kept of every key, and the values.

    Attributes:
      keys: `[*batch, heads, length, …]`, by the names of the fields that the form has for each
        key.
      values: `[*batch, kv_heads, length, head_dim]`.
      positions: how many keys there are, which is the index of the next key.
    """

    keys: dict[str, PyTree]
    values: Float[Array, "*batch kv_heads length head_dim"]
    positions: Int[Array, "*batch"]

    @property
    def length(self) -> int:
        """How many keys there is room for."""
        return self.values.shape[-2]

    def has_room_for(self, form: Form, values: Float[Array, "*batch kv_heads n head_dim"]) -> bool:
        """Whether what these keys and values are kept as has the sizes that the cache has."""
        axis = self.positions.ndim + 1

        def without_time(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda leaf: leaf.shape[:axis] + leaf.shape[axis + 1 :], tree)

        held = without_time((self.keys, self.values))
        return held == without_time((by_key(form), values))

    def append(
        self, form: Form, values: Float[Array, "*batch kv_heads n head_dim"]
    ) -> tuple["KeyCache", Form]:
        """The cache with `n` keys more, and the form of the new queries with all keys of the cache.

        Keys that there is no room for are left out, but counted.

        Args:
          form: of the new queries and the new keys, `n` of each.
          values: of the new keys.
        """
        new = by_key(form), values
        keys, kept_values = jax.tree.map(self._written, (self.keys, self.values), new)
        cache = KeyCache(keys, kept_values, self.positions + values.shape[-2])
        return cache, dataclasses.replace(form, **keys)

    def reset(self, which: Bool[Array, "*batch"]) -> "KeyCache":
        """The cache without the keys of these batch elements, each of which begins anew."""
        return dataclasses.replace(self, positions=_zero_where(which, self.positions))

    def check_room(self, count: int) -> None:
        """Refuses more keys than there is room for, where it can be seen: outside `jax.jit`.

        Raises:
          ValueError: naming the length.
        """
        is_seen = not isinstance(self.positions, jax.core.Tracer)
        used = int(np.max(np.asarray(self.positions), initial=0)) if is_seen else 0
        if used + count > self.length:
            raise ValueError(
                f"a cache of length={self.length} with {used} keys has no room for {count} more:"
                " make it longer in init_cache, or begin anew by cache.reset(…)"
            )

    def nan_beyond(
        self, context: Float[Array, "*batch heads n head_dim"]
    ) -> Float[Array, "*batch heads n head_dim"]:
        """The context, but NaN where there was no room for a key: some of it is missing."""
        is_beyond = jnp.expand_dims(self.positions > self.length, (-3, -2, -1))
        return jnp.where(is_beyond, jnp.asarray(jnp.nan, context.dtype), context)

    def _written(self, kept: Array, new: Array) -> Array:
        """`new`, `[*batch, heads, n, …]`, from each batch element's position on."""
        count = new.shape[self.positions.ndim + 1]

        def write(kept: Array, new: Array, position: Array) -> Array:
            slots = position + jnp.arange(count, dtype=position.dtype)
            return kept.at[:, slots].set(new.astype(kept.dtype), mode="drop")

        for _ in range(self.positions.ndim):
            write = jax.vmap(write)
        return write(kept, new, self.positions)


@register_dataclass
@dataclass(frozen=True)
class StateCache:
    """What the keys of a score that ignores the query amount to, under a softmax.

    Attributes:
      state: for each batch element and head.
      positions: how many keys there were.
    """

    state: recurrence.State
    positions: Int[Array, "*batch"]

    def has_room_for(self, form: Form, values: Float[Array, "*batch heads n head_dim"]) -> bool:
        """Whether the state is of such keys, and of values of this size."""
        *lead, _, head_dim = values.shape
        return isinstance(form, KeyOnly) and self.state.context.shape == (*lead, head_dim)

    def append(
        self,
        logits: Float[Array, "*batch heads n"],
        values: Float[Array, "*batch heads n head_dim"],
    ) -> tuple["StateCache", Float[Array, "*batch heads n head_dim"]]:
        """The cache with `n` keys more, and the context of each of the `n` queries."""
        by_time = jnp.moveaxis(logits, -1, 0), jnp.moveaxis(values, -2, 0)
        state, contexts = jax.lax.scan(
            lambda state, key: recurrence.step(state, *key), self.state, by_time
        )
        return StateCache(state, self.positions + logits.shape[-1]), jnp.moveaxis(contexts, 0, -2)

    def reset(self, which: Bool[Array, "*batch"]) -> "StateCache":
        """The cache without the keys of these batch elements, each of which begins anew."""
        *lead, value_dim = self.state.context.shape
        empty = recurrence.start(tuple(lead), value_dim, self.state.context.dtype)

        def begin(new: Array, old: Array) -> Array:
            return jnp.where(jnp.expand_dims(which, tuple(range(which.ndim, old.ndim))), new, old)

        state = jax.tree.map(begin, empty, self.state)
        return StateCache(state, _zero_where(which, self.positions))


Cache = KeyCache | StateCache


@register_dataclass
@dataclass(frozen=True)
class UpTo(Mask):
    """Query i may attend to the keys up to its own position.

    Attributes:
      positions: of the queries.
    """

    positions: Int[Array, "*batch queries"]

    def __call__(self, query_index: Array, key_index: Array) -> Array:
        positions = self.positions[..., query_index, None]
        return key_index.reshape((1,) * (positions.ndim - 1) + (-1,)) <= positions

    def at(self, query_positions: Array | None, key_positions: Array | None) -> Mask:
        """The mask as it is: it knows the positions."""
        return self

    def reachable(self, shape: tuple[int, ...]) -> None:
        """All keys: where a cache holds none its content is finite, and stays without a copy.

        To replace it would take as long as to attend.
        """


def empty_keys(
    form: Form, batch: tuple[int, ...], length: int, kv_heads: int, head_dim: int, dtype: DTypeLike
) -> KeyCache:
    """A cache without keys.

    Args:
      form: of a single query and key, with an axis of heads. What it keeps of the key fills the
        cache.
      batch: the batch axes.
      length: how many keys there is room for.
      kv_heads: number of heads of the values.
      head_dim: size of a value of a head.
      dtype: of the values.
    """

    def fill(leaf: Array) -> Array:
        heads, _, *rest = leaf.shape
        leaf = jnp.expand_dims(leaf, tuple(range(len(batch))))
        return jnp.broadcast_to(leaf, (*batch, heads, length, *rest))

    keys = jax.tree.map(fill, by_key(form))
    values = jnp.zeros((*batch, kv_heads, length, head_dim), dtype)
    return KeyCache(keys, values, jnp.zeros(batch, jnp.int32))


def empty_states(batch: tuple[int, ...], heads: int, head_dim: int, dtype: DTypeLike) -> StateCache:
    """A cache without keys, for values of this size and dtype."""
    state = recurrence.start((*batch, heads), head_dim, dtype)
    return StateCache(state, jnp.zeros(batch, jnp.int32))


def next_positions(cache: Cache, count: int) -> Int[Array, "*batch count"]:
    """Where the next keys stand."""
    positions = cache.positions
    steps = jnp.arange(count, dtype=positions.dtype)
    return positions[..., None] + jnp.expand_dims(steps, tuple(range(positions.ndim)))


def with_time(
    query: PyTree, key: PyTree, value: Any, batch_axes: int
) -> tuple[PyTree, PyTree, Any, bool]:
    """Query, key and value with an axis of time, and whether they came without."""
    for name, given in {"key": key, "value": value}.items():
        if isinstance(given, KeyCache | StateCache):
            raise ValueError(f"{name} is a cache; say cache=")
    mixed = next(each for each in (value, key, query) if each is not None)
    axes = getattr(mixed, "ndim", None)
    if axes is None:
        raise ValueError("a key that is not one array cannot be the value too: pass value")
    if axes == batch_axes + 2:
        return query, key, value, False
    if axes != batch_axes + 1:
        name = "query" if mixed is query else "key" if mixed is key else "value"
        raise ValueError(
            f"{name} must have the {batch_axes} batch axes of the cache, perhaps an axis of time,"
            f" and one of its size; got shape {mixed.shape}"
        )
    query, key, value = jax.tree.map(
        lambda leaf: jnp.expand_dims(leaf, batch_axes), (query, key, value)
    )
    return query, key, value, True


def _zero_where(which: Bool[Array, "*batch"], positions: Int[Array, "*batch"]) -> Array:
    return jnp.where(which, jnp.zeros((), positions.dtype), positions)
