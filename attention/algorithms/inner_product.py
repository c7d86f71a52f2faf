"""Softmax attention for inner products, through `jax.nn.dot_product_attention`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attention.algorithms import dense
from attention.algorithms.dense import all_biases, allowed_pairs
from attention.algorithms.request import Request
from attention.forms import InnerProduct
from attention.normalizers import Softmax, normalizer_name

KEEPS_PAIRS = True  # the weights


def obstacle(request: Request) -> str | None:
    """The form must be `InnerProduct` and the normalizer softmax: no more does the kernel know."""
    if not isinstance(request.form, InnerProduct):
        return f"the form must be InnerProduct, not {type(request.form).__name__}"
    if not isinstance(request.normalizer, Softmax):
        return f"the normalizer must be 'softmax', not {normalizer_name(request.normalizer)!r}"
    return None


def cost(request: Request, platform: str) -> float:
    """That of whole arrays: on a CPU the kernel is such a program, with transpositions on top."""
    factor = 1.25 if platform == "cpu" else 0.75
    return factor * dense.cost(request, platform)


def attend(request: Request) -> Float[Array, "*lead queries value_dim"]:
    """The context of every query. The query bias cancels in the softmax."""
    form, values, mask, bias = request.form, request.values, request.mask, request.bias
    assert isinstance(form, InnerProduct)
    value_dim = values.shape[-1]
    width = max(
        value_dim, form.queries.shape[-1]
    )  # the kernel wants queries, keys and values of equal width
    lead = values.shape[:-2]
    shape = (*form.queries.shape[:-1], values.shape[-2])
    allowed = allowed_pairs(mask, shape)
    biases = [] if form.key_bias is None else [form.key_bias[..., None, :]]
    biases += [] if bias is None else [all_biases(bias, shape).astype(form.queries.dtype)]
    context = jax.nn.dot_product_attention(
        _time_major(_pad(form.queries, width)),
        _time_major(_pad(form.keys, width)),
        _time_major(_pad(values, width)),
        bias=_four_axes(sum(biases[1:], biases[0]), lead) if biases else None,
        mask=None if allowed is None else _four_axes(allowed, lead),
        scale=1.0,
    )
    context = jnp.moveaxis(context, 2, 1)[..., :value_dim]
    context = context.reshape(*lead, *context.shape[-2:])
    if allowed is None:
        return context
    # The kernel gives a row with no allowed key the mean of all values.
    return jnp.where(jnp.any(allowed, axis=-1, keepdims=True), context, 0.0)


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
