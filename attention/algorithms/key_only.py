"""Pooling for scores that ignore the query: one softmax for all queries. Time O(keys)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from attention.forms import KeyOnly, accumulator
from attention.masks import Mask
from attention.normalizers import Normalizer


def attend(
    form: KeyOnly,
    values: Float[Array, "*lead keys value_dim"],
    mask: Mask | None,
    normalizer: Normalizer,
) -> Float[Array, "*lead queries value_dim"]:
    """The context of every query; the mask, if any, must be on keys alone."""
    where = None if mask is None else mask.on_keys(values.shape[-2], values.ndim - 2)
    dtype = accumulator(form.logits.dtype, values.dtype)
    weights = normalizer(form.logits.astype(dtype), where=where)
    # Not a product of matrices: with one row that reads the values at a third of the speed.
    context = jnp.sum(weights[..., :, None] * values.astype(dtype), axis=-2, keepdims=True)
    context = context.astype(values.dtype)
    return jnp.broadcast_to(context, (*values.shape[:-2], form.num_queries, values.shape[-1]))
