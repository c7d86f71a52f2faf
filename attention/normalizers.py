"""Normalizers: from scores to weights, over the last axis."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Normalizer = Callable[..., Array]


def softmax(
    scores: Float[Array, "*lead keys"], where: Bool[Array, "*#lead #keys"] | None = None
) -> Float[Array, "*lead keys"]:
    """`exp(s_j) / Σ exp(s_j)` over the keys allowed by `where`.

    A row with no allowed key has weights zero and gradient zero.
    """
    if where is None:
        return jax.nn.softmax(scores, axis=-1)
    # The lowest finite number, not −inf: a row of −inf would be NaN, forward or backward.
    scores = jnp.where(where, scores, jnp.finfo(scores.dtype).min)
    return jnp.where(where, jax.nn.softmax(scores, axis=-1), 0.0)


NORMALIZERS: dict[str, Normalizer] = {"softmax": softmax}
