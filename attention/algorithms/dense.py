"""The reference: every score, every weight, for any form, mask, bias and normalizer.

Time and memory O(queries · keys).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from attention.algorithms.request import Request
from attention.forms import Additive, Form, Pairwise, accumulator
from attention.masks import Mask

KEEPS_PAIRS = True  # the scores and the weights

# Whole arrays are the fastest as long as they stay in the caches. They leave them at so many
# pairs, all leading axes together; a Pairwise score may compute a long vector for each pair, and
# so leaves them sooner; an Additive score computes a term for each pair and hidden unit. Measured
# on a CPU, and used for every platform until somebody has measured there.
CACHED_PAIRS = 2**20
CACHED_PAIRWISE_PAIRS = 2**18
CACHED_TERMS = 2**22
# How much longer a pair takes beyond the caches, where each pass over the pairs waits for memory.
BEYOND_CACHES = 4.0


def obstacle(request: Request) -> None:
    """There is none: this algorithm serves every request."""


def cost(request: Request, platform: str) -> float:
    """A unit for every pair, by the definition of the unit, and more beyond the caches."""
    return request.pairs * (1.0 if _fits_caches(request) else BEYOND_CACHES)


def attend(request: Request) -> Float[Array, "*lead queries value_dim"]:
    """The context of every query."""
    return mix(scores, request)[0]


def attend_with_weights(
    request: Request,
) -> tuple[Float[Array, "*lead queries value_dim"], Float[Array, "*lead queries keys"]]:
    """The context of every query, and the weights it was mixed with."""
    return mix(scores, request)


def scores(form: Form) -> Float[Array, "batch queries keys"]:
    """`form.scores()` for each element of a batch."""
    if jax.tree.leaves(form)[0].shape[0] == 1:
        # Gradients reduced beside a batch axis of size 1 take XLA ten times longer on a CPU.
        return jax.tree.map(lambda leaf: leaf[0], form).scores()[None]
    return jax.vmap(lambda form: form.scores())(form)


def mix(
    scores_of: Callable[[Any], Array], request: Request
) -> tuple[Float[Array, "*lead queries value_dim"], Float[Array, "*lead queries keys"]]:
    """The context of every query and its weights, from all scores at once.

    Args:
      scores_of: from a form with a single leading axis to its scores, `[batch, queries, keys]`:
        the function `scores` above, or a faster one for a form it knows.
      request: what to attend to.
    """
    lead, values, shape = request.lead, request.values, request.shape
    query_index, key_index = all_indices(shape)
    pairs = scores_of(collapse(request.form, lead)).reshape(shape)
    if request.bias is not None:
        bias = jnp.broadcast_to(request.bias(query_index, key_index), shape)
        dtype = accumulator(pairs.dtype, bias.dtype)
        pairs = pairs.astype(dtype) + bias.astype(dtype)
    if request.score_mod is not None:
        pairs = request.score_mod(pairs, query_index, key_index).astype(pairs.dtype)
    weights = request.normalizer(pairs, where=allowed_pairs(request.mask, shape))
    if request.dropout is not None:
        weights = weights * request.dropout.factors(lead, query_index, key_index).astype(
            weights.dtype
        )
    context = mixed(collapse(weights, lead), collapse(values, lead)).astype(values.dtype)
    return context.reshape(*lead, *context.shape[1:]), weights


def mixed(
    weights: Float[Array, "batch queries keys"], values: Float[Array, "batch keys value_dim"]
) -> Float[Array, "batch queries value_dim"]:
    """The values mixed by the weights, in the dtype of the weights.

    Weights are not narrowed to the dtype of the values: in float16, a weight of one key among a
    million would lose most of its digits.
    """
    return jnp.matmul(weights, values.astype(weights.dtype))


def all_indices(shape: tuple[int, ...]) -> tuple[Int[Array, " queries"], Int[Array, " keys"]]:
    """The indices of all queries and of all keys, for scores of this shape."""
    num_queries, num_keys = shape[-2:]
    return jnp.arange(num_queries, dtype=jnp.int32), jnp.arange(num_keys, dtype=jnp.int32)


def allowed_pairs(
    mask: Mask | None, shape: tuple[int, ...]
) -> Bool[Array, "*lead queries keys"] | None:
    """The mask as an array that broadcasts against scores of this shape, or None for no mask."""
    if mask is None:
        return None
    return mask.evaluate(*all_indices(shape), len(shape) - 2)


def collapse(tree: PyTree, lead: tuple[int, ...]) -> PyTree:
    """All leading axes as a single axis: a product with several batch axes is slower on a CPU."""
    size = math.prod(lead)
    return jax.tree.map(lambda leaf: leaf.reshape(size, *leaf.shape[len(lead) :]), tree)


def _fits_caches(request: Request) -> bool:
    match request.form:
        case Additive(readout=readout):
            return request.pairs * readout.shape[-1] < CACHED_TERMS
        case Pairwise():
            return request.pairs < CACHED_PAIRWISE_PAIRS
        case _:
            return request.pairs < CACHED_PAIRS
