"""Pooling for scores that ignore the query: all queries share their weights. Time O(keys)."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attention.algorithms.request import Request
from attention.forms import KeyOnly, accumulator
from attention.normalizers import ScaledEntmax

KEEPS_PAIRS = False

PAIRS_DIFFER = "a bias, a score_mod or a dropout may differ from query to query"


def obstacle(request: Request) -> str | None:
    """Nothing may depend on the query: no score, no mask, no bias, no normalizer."""
    if not isinstance(request.form, KeyOnly):
        return f"the form must be KeyOnly, not {type(request.form).__name__}"
    if request.depends_on_pairs:
        return PAIRS_DIFFER
    if isinstance(request.normalizer, ScaledEntmax):
        return "the normalizer may differ from query to query"
    if request.mask is not None and not request.mask.keys_only:
        return "the mask must be on keys alone, such as lengths(n)"
    return None


def cost(request: Request, platform: str) -> float:
    """A unit for every key, whose weight all queries share."""
    return float(math.prod(request.values.shape[:-1]))


def attend(request: Request) -> Float[Array, "*lead queries value_dim"]:
    """The context of every query, where there is no `obstacle`."""
    form, values, mask = request.form, request.values, request.mask
    assert isinstance(form, KeyOnly)
    where = None if mask is None else mask.on_keys(values.shape[-2], values.ndim - 2)
    dtype = accumulator(form.logits.dtype, values.dtype)
    # With an axis of one query: a normalizer may have parameters for heads, or for queries.
    where = None if where is None else where[..., None, :]
    weights = request.normalizer(form.logits.astype(dtype)[..., None, :], where=where)
    *lead, num_keys, value_dim = values.shape
    # Beside axes of size 1, XLA computes the sum below seventy times slower on a CPU.
    axes = [size for size in lead if size != 1]
    weights, values = weights.reshape(*axes, num_keys), values.reshape(*axes, num_keys, value_dim)
    context = _mix(weights, values.astype(dtype)).astype(values.dtype)
    context = context.reshape(*lead, 1, value_dim)
    return jnp.broadcast_to(context, (*lead, form.num_queries, value_dim))


@jax.custom_jvp
def _mix(
    weights: Float[Array, "*lead keys"], values: Float[Array, "*lead keys value_dim"]
) -> Float[Array, "*lead value_dim"]:
    # Not a product of matrices: with a single row, that reads the values at a third of the speed.
    return jnp.sum(weights[..., None] * values, axis=-2)


@_mix.defjvp
def _mix_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """Products: their transposes are fast; the transpose of the sum fills `[keys, value_dim]`."""
    (weights, values), (d_weights, d_values) = primals, tangents
    return _mix(weights, values), _product(d_weights, values) + _product(weights, d_values)


def _product(weights: Array, values: Array) -> Array:
    # Of full precision, like the sum: by default some platforms round the factors.
    return jnp.einsum("...m,...mv->...v", weights, values, precision="highest")
