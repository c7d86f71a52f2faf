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
    *lead, num_keys, value_dim = values.shape
    # Beside axes of one, XLA computes the sum below seventy times slower on a CPU.
    axes = [size for size in lead if size > 1]
    weights, values = weights.reshape(*axes, num_keys), values.reshape(*axes, num_keys, value_dim)
    # Not a product of matrices: with one row that reads the values at a third of the speed.
    context = jnp.sum(weights[..., None] * values.astype(dtype), axis=-2).astype(values.dtype)
    context = context.reshape(*lead, 1, value_dim)
    return jnp.broadcast_to(context, (*lead, form.num_queries, value_dim))
