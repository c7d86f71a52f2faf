"""Queries, keys and values as they are given to a layer, and the batch that they share."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from attention.layer_arguments import check_no_mask
from attention.prepare import Positions
from attention.reach import replaced
from attention.rotary import rotate


@dataclass(frozen=True)
class Inputs:
    """Queries, keys and values that fit each other.

    Attributes:
      queries, keys: arrays `[*lead, n, dim]`, or pytrees of arrays `[*lead, n, …]`. Their leading
        axes may be fewer than the batch axes, or of size 1: then the batch shares them.
      values: `[*batch, keys, value_dim]`.
      query_lead, key_lead: the leading axes of queries and of keys.
      batch: the batch axes.
      num_queries, num_keys: how many.
    """

    queries: PyTree
    keys: PyTree
    values: Array
    query_lead: tuple[int, ...]
    key_lead: tuple[int, ...]
    batch: tuple[int, ...]
    num_queries: int
    num_keys: int

    @property
    def is_empty(self) -> bool:
        """Whether there is no pair of a query and a key."""
        return 0 in (*self.batch, self.num_queries, self.num_keys)

    def with_reachable(
        self, reachable: Bool[Array, "*lead keys"] | None, *, by_copies: bool = True
    ) -> "Inputs":
        """With keys that no query may attend to replaced by others.

        So what they hold reaches neither scores nor the gradient of a score's parameters.

        Args:
          reachable: for each batch element and head; axes of size 1 stand for any size.
          by_copies: as for `replaced`.
        """
        if reachable is None:
            return self
        reachable = jnp.any(reachable, axis=-2)  # by some head
        unneeded = reachable.ndim - 1 - len(self.key_lead)
        reachable = jnp.any(reachable, axis=tuple(range(unneeded)))
        shared = [axis for axis, size in enumerate(self.key_lead) if size == 1]
        reachable = jnp.any(reachable, axis=shared, keepdims=True)
        return dataclasses.replace(self, keys=replaced(self.keys, reachable, by_copies=by_copies))

    def rotated(self, positions: Positions) -> "Inputs":
        """With queries and keys rotated by their positions."""
        queries = _rotated("queries", self.queries, positions.queries, len(self.batch))
        keys = _rotated("keys", self.keys, positions.keys, len(self.batch))
        return dataclasses.replace(
            self,
            queries=queries,
            keys=keys,
            query_lead=queries.shape[:-2],
            key_lead=keys.shape[:-2],
        )

    def map(self, form_of: Callable[[PyTree, PyTree], PyTree]) -> PyTree:
        """`form_of(queries, keys)` for every element of the batch.

        What the batch shares is not copied: it is computed with once.
        """
        queries, query_axes = _shared(self.queries, self.query_lead, self.batch)
        keys, key_axes = _shared(self.keys, self.key_lead, self.batch)
        axes = list(zip(self.batch, query_axes, key_axes, strict=True))
        for size, *in_axes in reversed(axes):
            form_of = jax.vmap(form_of, in_axes=tuple(in_axes), axis_size=size)
        return form_of(queries, keys)


def read_inputs(
    queries: PyTree, keys: PyTree | None, values: Any | None, query_dim: int, key_dim: int
) -> Inputs:
    """Queries, keys and values, checked.

    Args:
      queries: `[*batch, queries, query_dim]`, or a pytree.
      keys: `[*batch, keys, key_dim]`, or a pytree; the queries where not given.
      values: `[*batch, keys, value_dim]`; the keys where not given.
      query_dim: what the size of a query must be.
      key_dim: what the size of a key must be.

    Raises:
      ValueError: they do not fit; the message names which.
    """
    check_no_mask(queries=queries, keys=keys, values=values)
    queries, keys, values = jax.tree.map(jnp.asarray, (queries, keys, values))
    keys = queries if keys is None else keys
    _check_size("queries", queries, "query_dim", query_dim)
    _check_size("keys", keys, "key_dim", key_dim)
    if values is None:
        if not isinstance(keys, jax.Array):
            raise ValueError("keys that are not one array cannot be the values too: pass values")
        values = keys
    if not isinstance(values, jax.Array) or values.ndim < 2:
        shape = getattr(values, "shape", f"of a {type(values).__name__}")
        raise ValueError(f"values must be one array [..., keys, value_dim], got shape {shape}")
    query_axes = _axes_of("queries", queries, values.ndim - 2)
    key_axes = _axes_of("keys", keys, values.ndim - 2)
    query_lead, num_queries = query_axes[:-1], query_axes[-1]
    key_lead, num_keys = key_axes[:-1], key_axes[-1]
    leads = {"queries": query_lead, "keys": key_lead, "values": values.shape[:-2]}
    if values.shape[-2] != num_keys:
        raise ValueError(f"values of shape {values.shape} do not fit {num_keys} keys")
    try:
        batch = jnp.broadcast_shapes(*leads.values())
    except ValueError:
        given = ", ".join(f"{name} {lead}" for name, lead in leads.items())
        raise ValueError(f"the batch axes do not fit each other: {given}") from None
    values = jnp.broadcast_to(values, (*batch, *values.shape[-2:]))
    return Inputs(queries, keys, values, query_lead, key_lead, batch, num_queries, num_keys)


def _rotated(name: str, vectors: PyTree, positions: Array | None, batch_axes: int) -> Array:
    if not isinstance(vectors, jax.Array):
        raise ValueError(f"rotary=True rotates arrays, not {name} of {type(vectors).__name__}")
    if positions is None or positions.ndim == 1:
        return rotate(vectors, positions)
    lead = positions.shape[:-1]
    lead = (*lead, *(1,) * (batch_axes - len(lead)))
    whole = jnp.broadcast_shapes(vectors.shape[:-2], lead)
    return rotate(
        jnp.broadcast_to(vectors, (*whole, *vectors.shape[-2:])),
        jnp.broadcast_to(positions.reshape(*lead, -1), (*whole, positions.shape[-1])),
    )


def _check_size(name: str, vectors: PyTree, dim: str, size: int) -> None:
    if not isinstance(vectors, jax.Array):
        return  # a pytree, of whose leaves only the score knows the sizes
    if vectors.ndim < 2 or vectors.shape[-1] != size:
        raise ValueError(
            f"{name} must be [..., {name}, {dim}] with {dim}={size}, got shape {vectors.shape}"
        )


def _axes_of(name: str, tree: PyTree, batch_axes: int) -> tuple[int, ...]:
    """The leading axes, and the number of vectors; of a pytree they are one more than the batch's.

    Raises:
      ValueError: the arrays of a pytree do not agree on them.
    """
    if isinstance(tree, jax.Array):
        return tree.shape[:-1]
    shapes = dict.fromkeys(leaf.shape for leaf in jax.tree.leaves(tree))
    found = {shape[: batch_axes + 1] for shape in shapes}
    if len(found) != 1 or len(*found) <= batch_axes:
        axes = "no batch axes" if batch_axes == 0 else f"the {batch_axes} batch axes of the values"
        raise ValueError(
            f"{name} must be one array, or a pytree of arrays [..., {name}, …] with {axes}; got a"
            f" {type(tree).__name__} of arrays of shapes {', '.join(map(str, shapes)) or 'none'}"
        )
    return found.pop()


def _shared(
    tree: PyTree, lead: tuple[int, ...], batch: tuple[int, ...]
) -> tuple[PyTree, list[int | None]]:
    """A tree without leading axes that the batch shares, and the `vmap` axis of each batch axis."""
    missing = len(batch) - len(lead)
    own = [size == whole for size, whole in zip(lead, batch[missing:], strict=True)]
    unneeded = tuple(axis for axis, is_own in enumerate(own) if not is_own)
    tree = jax.tree.map(lambda leaf: jnp.squeeze(leaf, unneeded), tree)
    return tree, [None] * missing + [0 if is_own else None for is_own in own]
