"""The reference: every score, every weight, for any form, mask and normalizer.

Time and memory O(queries · keys).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from attention.biases import Bias
from attention.forms import Form, accumulator
from attention.masks import Mask
from attention.normalizers import Normalizer


def attend(
    form: Form,
    values: Float[Array, "*lead keys value_dim"],
    mask: Mask | None,
    bias: Bias | None,
    normalizer: Normalizer,
) -> tuple[Float[Array, "*lead queries value_dim"], Float[Array, "*lead queries keys"]]:
    """The context, and the weights it was mixed with."""
    return mix(scores, form, values, mask, bias, normalizer)


def scores(form: Form) -> Float[Array, "batch queries keys"]:
    """`form.scores()` for each element of a batch."""
    if len(jax.tree.leaves(form)[0]) == 1:
        # Gradients reduced beside a batch axis of one take XLA ten times longer on a CPU.
        return jax.tree.map(lambda leaf: leaf[0], form).scores()[None]
    return jax.vmap(lambda form: form.scores())(form)


def mix(
    scores_of: Callable[[Any], Array],
    form: Form,
    values: Float[Array, "*lead keys value_dim"],
    mask: Mask | None,
    bias: Bias | None,
    normalizer: Normalizer,
) -> tuple[Float[Array, "*lead queries value_dim"], Float[Array, "*lead queries keys"]]:
    """The same, by a function that computes the scores of a form with one leading axis."""
    lead = values.shape[:-2]
    pairs = scores_of(collapse(form, lead))
    shape = (*lead, *pairs.shape[1:])
    if bias is not None:
        pairs = pairs + collapse(all_biases(bias, shape), lead).astype(pairs.dtype)
    allowed = allowed_pairs(mask, shape)
    if allowed is not None:
        allowed = collapse(jnp.broadcast_to(allowed, shape), lead)
    weights = normalizer(pairs, where=allowed)
    context = jnp.matmul(
        weights.astype(values.dtype),
        collapse(values, lead),
        preferred_element_type=accumulator(values.dtype),
    ).astype(values.dtype)
    return context.reshape(*lead, *context.shape[1:]), weights.reshape(shape)


def all_biases(bias: Bias, shape: tuple[int, ...]) -> Float[Array, "*lead queries keys"]:
    """The bias of scores of this shape."""
    return jnp.broadcast_to(bias(jnp.arange(shape[-2]), jnp.arange(shape[-1])), shape)


def allowed_pairs(
    mask: Mask | None, shape: tuple[int, ...]
) -> Bool[Array, "*lead queries keys"] | None:
    """The mask as an array that broadcasts against scores of this shape, or None."""
    if mask is None:
        return None
    return mask.evaluate(jnp.arange(shape[-2]), jnp.arange(shape[-1]), len(shape) - 2)


def collapse(tree: PyTree, lead: tuple[int, ...]) -> PyTree:
    """All leading axes as one: a product with several batch axes is slower on a CPU."""
    size = math.prod(lead)
    return jax.tree.map(lambda leaf: leaf.reshape(size, *leaf.shape[len(lead) :]), tree)
