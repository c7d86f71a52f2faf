"""Softmax attention for inner products, through `jax.nn.dot_product_attention`."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attention.algorithms import dense
from attention.algorithms.dense import all_indices, allowed_pairs
from attention.algorithms.request import Request
from attention.forms import InnerProduct, accumulator
from attention.normalizers import Softmax, normalizer_name

KEEPS_PAIRS = True  # the weights


def obstacle(request: Request) -> str | None:
    """The form must be `InnerProduct` and the normalizer softmax: no more does the kernel know."""
    if not isinstance(request.form, InnerProduct):
        return f"the form must be InnerProduct, not {type(request.form).__name__}"
    if request.score_mod is not None or request.dropout is not None:
        return "the kernel takes no score_mod and no dropout"
    if not isinstance(request.normalizer, Softmax):
        return f"the normalizer must be 'softmax', not {normalizer_name(request.normalizer)!r}"
    if _dtype(request.form, request.values) == jnp.float64:
        return "the kernel's softmax has the digits of float32, not those of float64"
    return None


def cost(request: Request, platform: str) -> float:
    """That of whole arrays: on a CPU the kernel is such a program, with transpositions on top."""
    factor = 1.25 if platform == "cpu" else 0.75
    return factor * dense.cost(request, platform)


def attend(request: Request) -> Float[Array, "*lead queries value_dim"]:
    """The context of every query. The query bias cancels in the softmax."""
    form, values, lead, shape = request.form, request.values, request.lead, request.shape
    assert isinstance(form, InnerProduct)
    dtype = _dtype(form, values)
    value_dim = values.shape[-1]
    width = max(
        value_dim, form.queries.shape[-1]
    )  # the kernel wants queries, keys and values of equal width
    bias, allowed = _bias_and_allowed(form, request)
    # Widened: in half precision the kernel would round the weights to it.
    wide = (_pad(array.astype(dtype), width) for array in (form.queries, form.keys, values))
    queries, keys, mixed = (_time_major(array) for array in wide)
    context = jax.nn.dot_product_attention(
        queries,
        keys,
        mixed,
        bias=None if bias is None else _four_axes(bias.astype(dtype), lead),
        mask=None if allowed is None else _four_axes(allowed, lead),
        scale=1.0,
    )
    context = jnp.moveaxis(context, 2, 1)[..., :value_dim].astype(values.dtype)
    context = context.reshape(*lead, *context.shape[-2:])
    if allowed is None:
        return context
    # The kernel gives a row with no allowed key the mean of all values.
    some = jnp.any(jnp.broadcast_to(allowed, shape), axis=-1, keepdims=True)
    return jnp.where(some, context, 0.0)


def _dtype(form: InnerProduct, values: Array) -> jnp.dtype:
    return accumulator(form.queries.dtype, form.keys.dtype, values.dtype)


def _bias_and_allowed(form: InnerProduct, request: Request) -> tuple[Array | None, Array | None]:
    """What to add to the inner products, and which of them count; None for nothing, and for all.

    The kernel fills masked scores with a large negative number, and a bias must not fall below
    it: a bias of −∞ becomes a mask, and a lower bound is put to all others.
    """
    bias, allowed = request.bias, allowed_pairs(request.mask, request.shape)
    biases = [] if form.key_bias is None else [form.key_bias[..., None, :]]
    if bias is not None:
        biases.append(jnp.broadcast_to(bias(*all_indices(request.shape)), request.shape))
    if not biases:
        return None, allowed
    dtype = accumulator(*(bias.dtype for bias in biases))
    total = functools.reduce(jnp.add, (bias.astype(dtype) for bias in biases))
    exists = total > -jnp.inf
    lowest = jnp.finfo(jnp.float32).min / 4
    return jnp.maximum(total, lowest), exists if allowed is None else exists & allowed


def _pad(array: Array, width: int) -> Array:
    padding = width - array.shape[-1]
    return jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, padding)]) if padding else array


def _time_major(array: Array) -> Array:
    """`[*lead, time, dim]` as the kernel's `[batch, time, heads, dim]`."""
    return jnp.moveaxis(_collapsed(array), 1, 2)


def _four_axes(array: Array, lead: tuple[int, ...]) -> Array:
    """`[*lead, queries, keys]` with every leading axis at full size, as `[batch, heads, …]`."""
    return _collapsed(jnp.broadcast_to(array, (*lead, *array.shape[-2:])))


def _collapsed(array: Array) -> Array:
    """All leading axes but the last as a single axis: `[batch, heads, rows, columns]`."""
    heads = array.shape[-3] if array.ndim > 2 else 1
    return array.reshape(-1, heads, *array.shape[-2:])
