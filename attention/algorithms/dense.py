"""The reference: every score, every weight, for any form, mask and normalizer.

Time and memory O(queries · keys).
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from attention.forms import Form
from attention.masks import Mask
from attention.normalizers import Normalizer


def attend(
    form: Form,
    values: Float[Array, "*lead keys value_dim"],
    mask: Mask | None,
    normalizer: Normalizer,
) -> tuple[Float[Array, "*lead queries value_dim"], Float[Array, "*lead queries keys"]]:
    """The context, and the weights it was mixed with."""
    lead = values.shape[:-2]
    scores = all_scores(form, lead)
    weights = normalizer(scores, where=allowed_pairs(mask, scores.shape))
    context = collapse(weights.astype(values.dtype), lead) @ collapse(values, lead)
    return context.reshape(*lead, *context.shape[1:]), weights


def all_scores(form: Form, lead: tuple[int, ...]) -> Float[Array, "*lead queries keys"]:
    """`form.scores()` under leading axes."""
    scores = jax.vmap(type(form).scores)(collapse(form, lead))
    return scores.reshape(*lead, *scores.shape[1:])


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
