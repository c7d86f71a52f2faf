"""Softmax attention for inner products in half precision, by the flash attention of cuDNN.

Time O(queries · keys), memory O(queries + keys), on NVIDIA GPUs. It has reverse mode only: for
forward mode and Hessian-vector products there is `implementation="streaming"`, and so there is
where a program is exported or lowered for several platforms at once.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attention.biases import Bias
from attention.forms import Form, InnerProduct, size_of
from attention.masks import Both, Causal, Lengths, Mask, Window

DTYPES = ("float16", "bfloat16")
WIDTH_MULTIPLE, MAX_WIDTH = 8, 128  # of queries, keys and values; 256 from Hopper on only
MIN_CAPABILITY = 8  # Ampere


def obstacle(
    form: Form, values: Array, mask: Mask | None, bias: Bias | None, normalizer: str
) -> str | None:
    """Why this request is none for cuDNN, or None if it is one."""
    if not isinstance(form, InnerProduct):
        return f"the form must be InnerProduct, not {type(form).__name__}"
    if normalizer != "softmax":
        return f"the normalizer must be 'softmax', not {normalizer!r}"
    if bias is not None:
        return "it takes no bias of positions"
    arrays = [form.queries, form.keys, values]
    arrays += [] if form.key_bias is None else [form.key_bias]
    dtypes = {array.dtype.name for array in arrays}
    if len(dtypes) > 1 or not dtypes.issubset(DTYPES):
        return f"all arrays must be {', or all '.join(DTYPES)}, not {', '.join(sorted(dtypes))}"
    if _width(form, values) > MAX_WIDTH:
        return (
            f"at most {MAX_WIDTH} features (a key bias is one more) and dimensions of a value fit,"
            f" not {form.queries.shape[-1] + (form.key_bias is not None)} and {values.shape[-1]}"
        )
    lead = values.ndim - 2
    num_queries, num_keys = size_of(form, lead)
    if not (num_queries and num_keys):
        return f"there must be queries and keys, not {num_queries} and {num_keys}"
    parts = _parts(mask)
    if parts is None or (parts.lengths is not None and parts.lengths.ndim > lead):
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
    form: InnerProduct,
    values: Float[Array, "*lead keys value_dim"],
    mask: Mask | None,
    kernel: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "*lead queries value_dim"]:
    """The context of every query, where there is no `obstacle`. The query bias cancels.

    Args:
      form: the scores.
      values: what is mixed.
      mask: which query may attend to which key.
      kernel: `implementation` of `jax.nn.dot_product_attention`; "xla" is for tests.
    """
    *lead, num_keys, value_dim = values.shape
    queries, keys, width = form.queries, form.keys, _width(form, values)
    if form.key_bias is not None:  # as a bias of pairs it would be an array of pairs
        queries = jnp.concatenate([queries, jnp.ones_like(queries[..., :1])], axis=-1)
        keys = jnp.concatenate([keys, form.key_bias[..., None]], axis=-1)
    parts = _parts(mask)
    assert parts is not None
    lengths = None if parts.lengths is None else _of_each(parts.lengths, lead, num_keys)
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

    Its window looks back only. A window and lengths may leave a query with no key.
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
    """One for queries, keys and values, which zeros pad."""
    features = form.queries.shape[-1] + (form.key_bias is not None)
    return -(-max(features, values.shape[-1]) // WIDTH_MULTIPLE) * WIDTH_MULTIPLE


def _of_each(lengths: Array, lead: list[int], num_keys: int) -> Int[Array, " batch"]:
    """The length of each element of a batch, from 0 to all keys: none reads past them."""
    lengths = lengths.reshape(*lengths.shape, *[1] * (len(lead) - lengths.ndim))
    lengths = jnp.clip(jnp.broadcast_to(lengths, tuple(lead)).reshape(-1), 0, num_keys)
    return lengths.astype(jnp.int32)


def _as_batch(array: Array, width: int) -> Array:
    """`[*lead, time, dim]` as `[batch, time, 1, width]`: heads are batch, nothing is transposed."""
    padding = [(0, 0)] * (array.ndim - 1) + [(0, width - array.shape[-1])]
    return jnp.pad(array, padding).reshape(-1, array.shape[-2], 1, width)
