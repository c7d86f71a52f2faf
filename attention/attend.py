"""`attend`: from a form to its context, by the algorithm that serves it best."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from attention.algorithms import (
    additive,
    cudnn,
    dense,
    inner_product,
    key_only,
    prefix,
    sharded,
    streaming,
)
from attention.biases import Bias
from attention.forms import (
    Additive,
    Form,
    InnerProduct,
    KeyOnly,
    Pairwise,
    as_pytree,
    size_of,
)
from attention.masks import Both, Causal, Mask
from attention.normalizers import NORMALIZERS, Normalizer
from attention.pytrees import field_names

Implementation = Literal[
    "dense", "streaming", "additive", "inner_product", "cudnn", "key_only", "prefix"
]

# From so many pairs on, in all, tiles are faster than whole arrays, which leave the caches.
STREAMING_PAIRS = 2**20
# A Pairwise score may compute a long vector a pair: whole arrays of those leave them sooner.
STREAMING_PAIRWISE_PAIRS = 2**18
# From so many terms on, in all, the loops that save arrays of them cost less than those.
ADDITIVE_TERMS = 2**22


def attend(
    form: Form,
    values: Float[Array, "*lead keys value_dim"],
    *,
    mask: Mask | None = None,
    bias: Bias | None = None,
    normalizer: str = "softmax",
    implementation: Implementation | None = None,
) -> Float[Array, "*lead queries value_dim"]:
    """The context of every query: the values, mixed by the normalized scores.

    Every leaf of `form` carries the same leading axes as `values`, such as
    `[batch, heads]`; so may the leaves of `mask`, aligned from the left.

    Args:
      form: the scores of all pairs.
      values: what is mixed.
      mask: which query may attend to which key. A query that may attend to none gets a
        context of zero.
      bias: what positions add to the scores, see `attention.biases`.
      normalizer: a key of `NORMALIZERS`.
      implementation: None picks; a name forces an algorithm, and one that cannot serve
        this request says so. All are exact; `attention.algorithms` has one a file. On an
        NVIDIA GPU None picks "cudnn" for inner products in half precision where it can: that
        has reverse mode only, so name "streaming" for forward mode.

    Raises:
      ValueError: shapes do not fit, or the request is impossible; the message names what
        was given and what is possible.
    """
    _check(form, values, mask)
    normalize = _find_normalizer(normalizer)
    possible = _possible(form, mask, bias, normalizer)
    no_cudnn = cudnn.obstacle(form, values, mask, bias, normalizer) or cudnn.platform_obstacle()
    possible += ["cudnn"] if no_cudnn is None else []
    if implementation is None and no_cudnn is None:
        return _cudnn_by_platform(form, values, mask)
    if implementation is None:
        chosen = _best(possible, form, values)
    elif implementation in possible:
        chosen = implementation
    else:
        reason = f" ({no_cudnn})" if implementation == "cudnn" else ""
        raise ValueError(
            f"implementation={implementation!r} cannot serve {type(form).__name__} with"
            f" mask={type(mask).__name__}, bias={type(bias).__name__} and"
            f" normalizer={normalizer!r}{reason}; possible here: {', '.join(possible)}"
        )
    if not all(size_of(form, values.ndim - 2)):
        return _nothing(form, values)
    match chosen:
        case "streaming":
            return streaming.attend(form, values, mask, bias, normalizer)
        case "additive":
            return dense.mix(additive.scores, form, values, mask, bias, normalize)[0]
        case "inner_product" if implementation is None:
            assert isinstance(form, InnerProduct)
            return _inner_product_by_platform(form, values, mask, bias, normalize)
        case "inner_product":
            assert isinstance(form, InnerProduct)
            return inner_product.attend(form, values, mask, bias)
        case "cudnn":
            assert isinstance(form, InnerProduct)
            return cudnn.attend(form, values, mask)
        case "key_only":
            assert isinstance(form, KeyOnly)
            return key_only.attend(form, values, mask, normalize)
        case "prefix":
            assert isinstance(form, KeyOnly)
            return _attend_prefixes(form, values, mask)
    return dense.attend(form, values, mask, bias, normalize)[0]


def attend_with_weights(
    form: Form,
    values: Float[Array, "*lead keys value_dim"],
    *,
    mask: Mask | None = None,
    bias: Bias | None = None,
    normalizer: str = "softmax",
) -> tuple[Float[Array, "*lead queries value_dim"], Float[Array, "*lead queries keys"]]:
    """`attend`, and the weights; there being weights to return, always dense."""
    _check(form, values, mask)
    normalize = _find_normalizer(normalizer)
    return dense.attend(form, values, mask, bias, normalize)


def attend_sharded(
    form: Form,
    values: Float[Array, "*lead keys value_dim"],
    *,
    mesh: Mesh,
    axis: str,
    mask: Mask | None = None,
    bias: Bias | None = None,
    normalizer: str = "softmax",
) -> Float[Array, "*lead queries value_dim"]:
    """`attend`, with the keys and values in equal shares on the devices along a mesh axis.

    For keys too many for one device: see `attention.algorithms.sharded`. Queries, parameters,
    mask and bias are on every device along that axis, and so is the context.
    Any number of keys will do, but only one that the devices divide can arrive in shares.

    Args:
      form: the scores of all pairs.
      values: what is mixed.
      mesh: of devices; leading axes may be sharded over other axes of it.
      axis: of the mesh, for the keys.
      mask: which query may attend to which key, by their indices among all.
      bias: what positions add to the scores, by their indices among all.
      normalizer: `softmax` or `sigmoid`.

    Raises:
      ValueError: shapes do not fit, or the request is impossible; the message names what
        was given and what is possible.
    """
    _check(form, values, mask)
    if axis not in mesh.axis_names:
        raise ValueError(f"axis={axis!r} is not of the mesh; choose {', '.join(mesh.axis_names)}")
    if normalizer not in sharded.NORMALIZERS:
        raise ValueError(
            f"normalizer={normalizer!r} cannot be merged over devices;"
            f" choose {', '.join(sharded.NORMALIZERS)}"
        )
    if not all(size_of(form, values.ndim - 2)):
        return _nothing(form, values)
    return sharded.attend(form, values, mask, bias, normalizer, mesh, axis)


def _nothing(form: Form, values: Array) -> Array:
    """The context of queries that have no key, or of no query."""
    num_queries = size_of(form, values.ndim - 2)[0]
    return jnp.zeros((*values.shape[:-2], num_queries, values.shape[-1]), values.dtype)


def _possible(
    form: Form, mask: Mask | None, bias: Bias | None, normalizer: str
) -> list[Implementation]:
    """The algorithms that serve this request; first, what only this form has."""
    possible: list[Implementation] = []
    if isinstance(form, KeyOnly) and bias is None:
        if mask is None or mask.keys_only:
            possible.append("key_only")
        elif normalizer == "softmax" and _causal_parts(mask) is not None:
            possible.append("prefix")
    if isinstance(form, InnerProduct) and normalizer == "softmax":
        possible.append("inner_product")
    if isinstance(form, Additive):
        possible.append("additive")
    if normalizer in ("softmax", "sigmoid"):
        possible.append("streaming")
    return [*possible, "dense"]


def _best(possible: list[Implementation], form: Form, values: Array) -> Implementation:
    """Linear time where it can be had, whole arrays where they are small, else tiles."""
    if possible[0] in ("key_only", "prefix"):
        return possible[0]
    lead = values.shape[:-2]
    pairs = math.prod((*lead, *size_of(form, len(lead))))
    match form:
        case Additive():
            small = pairs * form.readout.shape[-1] < ADDITIVE_TERMS
        case Pairwise():
            small = pairs < STREAMING_PAIRWISE_PAIRS
        case _:
            small = pairs < STREAMING_PAIRS
    if small:
        return "inner_product" if "inner_product" in possible else "dense"
    ranking: list[Implementation] = ["streaming", "additive", "dense"]
    return next(name for name in ranking if name in possible)


def _inner_product_by_platform(
    form: InnerProduct,
    values: Array,
    mask: Mask | None,
    bias: Bias | None,
    normalize: Normalizer,
) -> Array:
    """On a CPU the kernel is the dense algorithm too, with transpositions on top."""

    def on_cpu(form: InnerProduct, values: Array, mask: Mask | None, bias: Bias | None) -> Array:
        return dense.attend(form, values, mask, bias, normalize)[0]

    if bias is not None:  # what it has closed over must come with it
        bias = as_pytree(bias, *(jnp.arange(size) for size in size_of(form, values.ndim - 2)))
    return jax.lax.platform_dependent(
        form, values, mask, bias, cpu=on_cpu, default=inner_product.attend
    )


def _cudnn_by_platform(form: Form, values: Array, mask: Mask | None) -> Array:
    """A machine with a GPU may compile for its CPU too: tiles leave no pairs behind there."""

    def elsewhere(form: Form, values: Array, mask: Mask | None) -> Array:
        return streaming.attend(form, values, mask, None, "softmax")

    return jax.lax.platform_dependent(form, values, mask, cuda=cudnn.attend, default=elsewhere)


def _attend_prefixes(form: KeyOnly, values: Array, mask: Mask | None) -> Array:
    parts = _causal_parts(mask)
    assert parts is not None
    causal, on_keys = parts
    where = None if on_keys is None else on_keys.on_keys(values.shape[-2], values.ndim - 2)
    return prefix.attend_causal(form, values, where, causal.offset)


def _causal_parts(mask: Mask | None) -> tuple[Causal, Mask | None] | None:
    """A causal mask and one on keys alone, if that is what `mask` is made of."""
    if isinstance(mask, Causal):
        return mask, None
    if isinstance(mask, Both):
        for causal, other in ((mask.left, mask.right), (mask.right, mask.left)):
            if isinstance(causal, Causal) and other.keys_only:
                return causal, other
    return None


def _check(form: Form, values: Array, mask: Mask | None) -> None:
    if values.ndim < 2 or not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(
            "values must be a floating array [..., keys, value_dim],"
            f" got {values.dtype} of shape {values.shape}"
        )
    lead = values.shape[:-2]
    for leaf in jax.tree.leaves([getattr(form, name) for name in form.per_key]):
        if leaf.shape[: len(lead) + 1] != values.shape[:-1]:
            raise ValueError(f"keys of shape {leaf.shape} do not fit values of {values.shape}")
    num_queries, num_keys = size_of(form, len(lead))
    for leaf in jax.tree.leaves([getattr(form, name) for name in form.per_query]):
        if leaf.shape[: len(lead) + 1] != (*lead, num_queries):
            raise ValueError(
                f"queries of shape {leaf.shape} do not fit {num_queries} queries"
                f" and values of {values.shape}"
            )
    if not isinstance(form, Pairwise):
        _check_features(form)
    if mask is not None:
        mask.check(num_queries, num_keys)


def _check_features(form: Form) -> None:
    arrays = {name: getattr(form, name) for name in field_names(type(form), static=False)}
    for name, array in arrays.items():
        if array is not None and not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(
                f"{name} of {type(form).__name__} must be floating, got {array.dtype} of shape"
                f" {array.shape}"
            )
    vectors = [name for name in ("queries", "keys", "readout") if name in arrays]
    if len({arrays[name].shape[-1] for name in vectors}) > 1:
        shapes = ", ".join(f"{name} {arrays[name].shape}" for name in vectors)
        raise ValueError(f"the last axes of {type(form).__name__} must agree, got {shapes}")


def _find_normalizer(name: str) -> Normalizer:
    if name not in NORMALIZERS:
        raise ValueError(f"normalizer={name!r} is unknown; choose {', '.join(NORMALIZERS)}")
    return NORMALIZERS[name]
