"""Softmax attention for inner products in half precision, by the flash attention of cuDNN.

Time O(queries · keys), memory O(queries + keys), on NVIDIA GPUs. The kernel has reverse mode only.
Name `implementation="streaming"` for forward mode and Hessian-vector products, and where a program
is exported or lowered for several platforms at once.
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attention.algorithms.request import Request
from attention.forms import InnerProduct
from attention.masks import Both, Causal, Lengths, Mask, Window
from attention.normalizers import Softmax, normalizer_name

KEEPS_PAIRS = False

DTYPES = ("float16", "bfloat16")
WIDTH_MULTIPLE, MAX_WIDTH = 8, 128  # of queries, keys and values; 256 from Hopper on only
MIN_CAPABILITY = 8  # Ampere


# A pair takes this part of the time of a pair in a whole array that fits into the caches.
PAIR_COST = 0.25


def obstacle(request: Request) -> str | None:
    """What the kernel has no words for, or else why there is no such kernel here."""
    return request_obstacle(request) or platform_obstacle()


def cost(request: Request, platform: str) -> float:
    """A part of the cost of a pair in a whole array, and on NVIDIA GPUs only."""
    return PAIR_COST * request.pairs if platform == "cuda" else math.inf


def request_obstacle(request: Request) -> str | None:
    """Why cuDNN cannot serve this request on any device, or None if it can."""
    form, values, mask = request.form, request.values, request.mask
    if not isinstance(form, InnerProduct):
        return f"the form must be InnerProduct, not {type(form).__name__}"
    if not isinstance(request.normalizer, Softmax):
        return f"the normalizer must be 'softmax', not {normalizer_name(request.normalizer)!r}"
    if request.depends_on_pairs:
        return "it takes no bias of positions, no score_mod and no dropout of ours"
    dtypes = {array.dtype.name for array in (form.queries, form.keys, values)}
    if len(dtypes) > 1 or not dtypes.issubset(DTYPES):
        return f"all arrays must be {', or all '.join(DTYPES)}, not {', '.join(sorted(dtypes))}"
    if _width(form, values) > MAX_WIDTH:
        return (
            f"at most {MAX_WIDTH} features (a key bias is one more) and dimensions of a value fit,"
            f" not {form.queries.shape[-1] + (form.key_bias is not None)} and {values.shape[-1]}"
        )
    num_queries, num_keys = request.num_queries, request.num_keys
    if not (num_queries and num_keys):
        return f"there must be queries and keys, not {num_queries} and {num_keys}"
    parts = _parts(mask)
    if parts is None or (parts.lengths is not None and parts.lengths.ndim > len(request.lead)):
        return "the mask must be causal(), lengths(n), both, or causal() & window(w)"
    if parts.causal and num_queries != num_keys:
        return f"a causal mask must be square, not {num_queries} queries by {num_keys} keys"
    return None


def platform_obstacle() -> str | None:
    """Why cuDNN cannot be used here, or None if it can.

    Asked while tracing, not lowering: where there is no cuDNN, its tracing raises already.
    """
    if jax.default_backend() != "gpu":
        return f"it needs an NVIDIA GPU, and this is {jax.default_backend()}"
    device = jax.local_devices()[0]
    if "cuda" not in device.client.platform_version.lower():
        return f"it needs an NVIDIA GPU, and this is {device.device_kind}"
    if int(device.compute_capability.split(".")[0]) < MIN_CAPABILITY:
        return (
            f"it needs compute capability {MIN_CAPABILITY}.0,"
            f" and {device.device_kind} has {device.compute_capability}"
        )
    return None


def attend(
    request: Request, kernel: Literal["cudnn", "xla"] = "cudnn"
) -> Float[Array, "*lead queries value_dim"]:
    """The context of every query, where there is no `obstacle`. The query bias cancels.

    Args:
      request: what to attend to.
      kernel: `implementation` of `jax.nn.dot_product_attention`; "xla" is for tests.
    """
    form, values, mask = request.form, request.values, request.mask
    assert isinstance(form, InnerProduct)
    *lead, num_keys, value_dim = values.shape
    queries, keys, width = form.queries, form.keys, _width(form, values)
    if form.key_bias is not None:  # as a bias of pairs it would be an array of pairs
        queries = jnp.concatenate([queries, jnp.ones_like(queries[..., :1])], axis=-1)
        keys = jnp.concatenate([keys, form.key_bias[..., None].astype(keys.dtype)], axis=-1)
    parts = _parts(mask)
    assert parts is not None
    lengths = None if parts.lengths is None else _lengths_of_batch(parts.lengths, lead, num_keys)
    context = jax.nn.dot_product_attention(
        *(_as_batch(array, width) for array in (queries, keys, values)),
        scale=1.0,
        is_causal=parts.causal,
        # Never empty: what the kernel makes of no key at all is not said.
        key_value_seq_lengths=None if lengths is None else jnp.maximum(lengths, 1),
        local_window_size=None if parts.window is None else (parts.window, 0),
        implementation=kernel,
    )
    if lengths is not None:
        context = jnp.where(lengths[:, None, None, None] > 0, context, 0.0)
    return context[..., :value_dim].reshape(*lead, queries.shape[-2], value_dim)


class _Parts(NamedTuple):
    """A mask in the words of the kernel."""

    causal: bool = False
    window: int | None = None
    lengths: Int[Array, "*lead"] | None = None


def _parts(mask: Mask | None) -> _Parts | None:
    """What the mask is made of, or None if the kernel has no words for it.

    The kernel is given windows that look back only, so a window must come with `causal()`. A
    window and lengths together are left to others: they may leave a query with no key.
    """
    match sorted(_flat(mask), key=lambda part: type(part).__name__):
        case []:
            return _Parts()
        case [Causal(offset=0)]:
            return _Parts(causal=True)
        case [Lengths(lengths=lengths)]:
            return _Parts(lengths=lengths)
        case [Causal(offset=0), Lengths(lengths=lengths)]:
            return _Parts(causal=True, lengths=lengths)
        case [Causal(offset=0), Window(width=width)]:
            return _Parts(causal=True, window=width)
    return None


def _flat(mask: Mask | None) -> list[Mask]:
    if mask is None:
        return []
    return [*_flat(mask.left), *_flat(mask.right)] if isinstance(mask, Both) else [mask]


def _width(form: InnerProduct, values: Array) -> int:
    """The width that queries, keys and values all have for the kernel, padded with zeros."""
    features = form.queries.shape[-1] + (form.key_bias is not None)
    return -(-max(features, values.shape[-1]) // WIDTH_MULTIPLE) * WIDTH_MULTIPLE


def _lengths_of_batch(lengths: Array, lead: list[int], num_keys: int) -> Int[Array, " batch"]:
    """How many keys every element of the batch has: from zero to all, so that none is read past."""
    lengths = lengths.reshape(*lengths.shape, *[1] * (len(lead) - lengths.ndim))
    lengths = jnp.clip(jnp.broadcast_to(lengths, tuple(lead)).reshape(-1), 0, num_keys)
    return lengths.astype(jnp.int32)


def _as_batch(array: Array, width: int) -> Array:
    """`[*lead, time, dim]` as `[batch, time, 1, width]`: heads are batch, nothing is transposed."""
    padding = [(0, 0)] * (array.ndim - 1) + [(0, width - array.shape[-1])]
    return jnp.pad(array, padding).reshape(-1, array.shape[-2], 1, width)
