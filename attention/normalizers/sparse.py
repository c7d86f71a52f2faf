"""Normalizers under which a key may have weight zero: its score is below a threshold of all keys.

The threshold asks for all scores of a query at once, so that these are served by algorithms that
hold them all.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from attention.normalizers.contract import (
    Scores,
    Weights,
    Where,
    over_allowed,
    over_rows_with_keys,
)


def sparsemax(scores: Scores, where: Where = None) -> Weights:
    """`[s_j − τ]₊`, with `τ` such that they sum to one (arXiv 1602.02068).

    It is the point of the simplex nearest to the scores, and often on its boundary: keys
    far enough below the best have weight zero.
    """
    return over_allowed(lambda s: over_rows_with_keys(_sparsemax, s), scores, where)


def entmax15(scores: Scores, where: Where = None) -> Weights:
    """`[s_j/2 − τ]₊²`, with `τ` such that they sum to one (arXiv 1905.05702).

    Tsallis entmax with α = 3/2, halfway between softmax (1) and sparsemax (2).
    """
    return over_allowed(entmax15_weights, scores, where)


@jax.custom_jvp
def _sparsemax(scores: Scores) -> Weights:
    x = _below_best(scores)

    def rise(state: tuple[Array, Array]) -> tuple[Array, Array]:
        threshold, _ = state
        above = (x > threshold).astype(x.dtype)
        total, count = (jnp.sum(a, axis=-1, keepdims=True) for a in (x * above, above))
        higher = jnp.maximum(threshold, (total - 1) / count)
        return higher, jnp.any(higher > threshold)

    # Michelot (1986): of the keys above a threshold that is too low, the threshold is higher, but
    # not too high; it is right when no key falls out. A few such turns cost far less than a sort.
    lowest = jnp.full_like(x[..., :1], -1)
    threshold, _ = jax.lax.while_loop(lambda state: state[1], rise, (lowest, jnp.array(True)))
    return jnp.maximum(x - threshold, 0)


@_sparsemax.defjvp
def _sparsemax_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """`dp_j = ds_j − (mean of ds over the support)`, on the support."""
    weights = _sparsemax(*primals)
    return weights, _less_mean(*tangents, (weights > 0).astype(weights.dtype))


def entmax15_weights(scores: Scores) -> Weights:
    """`entmax15` of scores that are −inf where masked."""
    return over_rows_with_keys(lambda s: jnp.square(_entmax15_roots(s)), scores)


@jax.custom_jvp
def _entmax15_roots(scores: Scores) -> Weights:
    """The square roots `[s_j/2 − τ]₊` of the weights: unlike a root, a square is smooth at 0."""
    x = _below_best(scores / 2)
    # τ(k) = mean − √((1 − scatter) / k) solves (x₁ − τ)² + … + (x_k − τ)² = 1. The threshold
    # is the greatest of those that leave their k keys above them.
    best, counts = jnp.sort(x, axis=-1, descending=True), _counts(x)
    mean = jnp.cumsum(best, axis=-1) / counts
    scatter = jnp.cumsum(best**2, axis=-1) - counts * mean**2
    thresholds = mean - jnp.sqrt(jnp.maximum(1 - scatter, 0) / counts)
    threshold = jnp.max(thresholds, -1, keepdims=True, initial=-1, where=thresholds <= best)
    # The scatter has suffered from cancellation: one step of Newton's method repairs that.
    roots = jnp.maximum(x - threshold, 0)
    slope = 2 * jnp.sum(roots, axis=-1, keepdims=True)
    excess = jnp.sum(roots**2, axis=-1, keepdims=True) - 1
    return jnp.maximum(x - threshold - excess / slope, 0)


@_entmax15_roots.defjvp
def _entmax15_roots_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """`2 dr_j = ds_j − (mean of ds, weighted by the roots)`, on the support."""
    roots = _entmax15_roots(*primals)
    return roots, _less_mean(*tangents, roots) / 2


def _less_mean(tangent: Array, measure: Array) -> Array:
    """The tangent less its mean under `measure`, where that is positive; zero elsewhere."""
    tangent = jnp.where(measure > 0, tangent, 0)  # elsewhere it may be infinite
    mean = jnp.average(tangent, axis=-1, weights=measure, keepdims=True)
    return jnp.where(measure > 0, tangent - mean, 0)


def _below_best(x: Scores) -> Scores:
    """`x` less its maximum. What falls below −1 becomes −1: `τ` is no less, its weight zero."""
    return jnp.maximum(x - jnp.max(x, axis=-1, keepdims=True, initial=-jnp.inf), -1)


def _counts(x: Scores) -> Scores:
    """1, 2, … along the last axis."""
    return jax.lax.broadcasted_iota(x.dtype, x.shape, x.ndim - 1) + 1
