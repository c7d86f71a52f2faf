"""Masks as people give them: arrays, plain functions, names."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from attention.forms import name_of
from attention.masks.mask import (
    Allowed,
    KeyIndex,
    KeyPositions,
    Mask,
    QueryIndex,
    QueryPositions,
)
from attention.masks.positions import causal, located
from attention.pairs import ARRAYS, Shape, aligned, entries
from attention.plain_functions import OfPairs, of_pairs, value_of
from attention.pytrees import register_dataclass

# What `attend` takes for a mask.
GivenMask = Mask | jax.Array | np.ndarray | np.generic | str | Callable[..., Any] | None


@register_dataclass
@dataclass(frozen=True)
class Dense(Mask):
    """Query i may attend to key j where an array of booleans says so.

    An axis of size 1 holds for all queries, or for all keys.
    """

    allowed: Bool[Array, "*lead queries keys"]

    @property
    def keys_only(self) -> bool:  # type: ignore[override]
        return self.allowed.shape[-2] == 1

    def __call__(self, query_index: QueryIndex, key_index: KeyIndex) -> Allowed:
        return entries(self.allowed, query_index, key_index)

    def reachable(self, shape: Shape) -> Bool[Array, "*lead keys"] | None:
        if self.keys_only or shape[-2] == 0:
            return super().reachable(shape)
        own = Dense(jnp.any(self.allowed, axis=-2, keepdims=True))
        return own.on_keys(shape[-1], len(shape) - 2)

    def check(self, shape: Shape) -> None:
        aligned("mask", self.allowed, shape)

    def aligned(self, shape: Shape) -> Mask:
        return Dense(aligned("mask", self.allowed, shape))


@register_dataclass
@dataclass(frozen=True)
class FunctionMask(Mask):
    """Query i may attend to key j where a function of their positions says so."""

    function: OfPairs

    def __call__(self, query_index: QueryIndex, key_index: KeyIndex) -> Allowed:
        return self.function(query_index, key_index)

    def at(self, query_positions: QueryPositions, key_positions: KeyPositions) -> Mask:
        return located(self, query_positions, key_positions)


def dense(allowed: Any) -> Mask:
    """Query i may attend to key j where `allowed[..., i, j]`.

    The array broadcasts to the scores, `[batch, heads, queries, keys]`, as in NumPy and Flax. A
    single leading axis may be that of the batch, too, where it is not as large as that of the
    heads.

    Raises:
      ValueError: it is no array of booleans.
    """
    allowed = jnp.asarray(allowed)
    if allowed.dtype != bool:
        remedy = "for zeros and ones pass mask == 1"
        if jnp.issubdtype(allowed.dtype, jnp.floating):
            remedy += " or mask.astype(bool); what is added to the scores is a bias"
        raise ValueError(
            "a mask must be a boolean array [..., queries, keys], True where a query may attend,"
            f" got {allowed.dtype} of shape {allowed.shape}: {remedy}"
        )
    return Dense(allowed.reshape((1, 1, *allowed.shape)[min(allowed.ndim, 2) :]))


def function(allows: Callable[..., Any]) -> Mask:
    """Query i may attend to key j where `allows(i, j)`, a plain function of two numbers.

    It is traced: write `&`, `|`, `~` and `jnp.where`, not `and`, `or`, `not` and `if`. It may close
    over arrays, traced ones too. i and j are the positions of the query and the key, if there are
    positions, or else their indices.

    Raises:
      ValueError: it takes or returns something else.
    """
    value = value_of("mask", allows)
    if value.dtype != bool or value.shape:
        raise ValueError(
            f"mask={name_of(allows)} must return one boolean, True where query i may attend to"
            f" key j, and returned {value.dtype} of shape {value.shape}"
            + ("" if value.dtype == bool else ": compare, as in … == 1")
        )
    return FunctionMask(of_pairs(allows, value, bool))


def as_mask(mask: GivenMask, shape: Shape) -> Mask | None:
    """A mask for scores of this shape, from whatever people give for it.

    Args:
      mask: a mask; an array of booleans that broadcasts to the scores, see `dense`; `"causal"`;
        a plain function, see `function`; or None for no mask.
      shape: of the scores, `(*lead, queries, keys)`.

    Raises:
      ValueError: it is none of these, or does not fit the scores.
    """
    if mask is None:
        return None
    if isinstance(mask, ARRAYS):
        mask = dense(mask)
    elif isinstance(mask, str) and mask == "causal":
        mask = causal()
    elif not isinstance(mask, Mask) and callable(mask):
        mask = function(mask)
    if not isinstance(mask, Mask):
        raise ValueError(
            f"mask={mask!r:.40} is no mask: choose 'causal', a boolean array that broadcasts to"
            f" {shape}, a mask of attention.masks, or a function (i, j) -> bool"
        )
    mask.check(shape)
    return mask.aligned(shape)
