"""`attend`: from a form to its context, by the algorithm that serves it best."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attention.algorithms import dense, inner_product, key_only
from attention.forms import Form, InnerProduct, KeyOnly
from attention.masks import Mask
from attention.normalizers import NORMALIZERS, Normalizer

Implementation = Literal["dense", "key_only", "inner_product"]


def attend(
    form: Form,
    values: Float[Array, "*lead keys value_dim"],
    *,
    mask: Mask | None = None,
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
      normalizer: a key of `NORMALIZERS`.
      implementation: None picks; a name forces an algorithm, and one that cannot serve
        this form, mask and normalizer says so. All are exact.

    Raises:
      ValueError: shapes do not fit, or the request is impossible; the message names what
        was given and what is possible.
    """
    _check(form, values, mask)
    normalize = _find_normalizer(normalizer)
    possible = _possible(form, mask, normalizer)
    chosen = possible[0] if implementation is None else implementation
    if chosen not in possible:
        raise ValueError(
            f"implementation={chosen!r} cannot serve {type(form).__name__} with"
            f" mask={type(mask).__name__} and normalizer={normalizer!r};"
            f" possible here: {', '.join(possible)}"
        )
    if chosen == "key_only":
        assert isinstance(form, KeyOnly)
        return key_only.attend(form, values, mask, normalize)
    if chosen == "inner_product":
        assert isinstance(form, InnerProduct)
        if implementation is None:
            return _inner_product_by_platform(form, values, mask, normalize)
        return inner_product.attend(form, values, mask)
    return dense.attend(form, values, mask, normalize)[0]


def _inner_product_by_platform(
    form: InnerProduct, values: Array, mask: Mask | None, normalize: Normalizer
) -> Array:
    """On a CPU the kernel is the dense algorithm too, with transpositions on top."""

    def on_cpu(form: InnerProduct, values: Array, mask: Mask | None) -> Array:
        return dense.attend(form, values, mask, normalize)[0]

    return jax.lax.platform_dependent(form, values, mask, cpu=on_cpu, default=inner_product.attend)


def attend_with_weights(
    form: Form,
    values: Float[Array, "*lead keys value_dim"],
    *,
    mask: Mask | None = None,
    normalizer: str = "softmax",
) -> tuple[Float[Array, "*lead queries value_dim"], Float[Array, "*lead queries keys"]]:
    """`attend`, and the weights; there being weights to return, always dense."""
    _check(form, values, mask)
    return dense.attend(form, values, mask, _find_normalizer(normalizer))


def _possible(form: Form, mask: Mask | None, normalizer: str) -> list[Implementation]:
    """The algorithms that serve this request, best first."""
    if isinstance(form, KeyOnly) and (mask is None or mask.keys_only):
        return ["key_only", "dense"]
    if isinstance(form, InnerProduct) and normalizer == "softmax":
        return ["inner_product", "dense"]
    return ["dense"]


def _check(form: Form, values: Array, mask: Mask | None) -> None:
    if values.ndim < 2 or not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(
            "values must be a floating array [..., keys, value_dim],"
            f" got {values.dtype} of shape {values.shape}"
        )
    lead, num_keys = values.ndim - 2, values.shape[-2]
    for leaf in jax.tree.leaves(form.logits if isinstance(form, KeyOnly) else form.keys):
        if leaf.shape[: lead + 1] != values.shape[:-1]:
            raise ValueError(f"keys of shape {leaf.shape} do not fit values of {values.shape}")
    if mask is not None:
        mask.check(_num_queries(form, lead), num_keys)


def _num_queries(form: Form, lead: int) -> int:
    if isinstance(form, KeyOnly):
        return form.num_queries
    return jax.tree.leaves(form.queries)[0].shape[lead]


def _find_normalizer(name: str) -> Normalizer:
    if name not in NORMALIZERS:
        raise ValueError(f"normalizer={name!r} is unknown; choose {', '.join(NORMALIZERS)}")
    return NORMALIZERS[name]
