"""The center of keys, from which their distances to queries keep their digits."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float


def center_of(
    keys: Float[Array, "*lead keys features"], reachable: Bool[Array, "*lead keys"]
) -> Float[Array, "*lead 1 features"]:
    """A point in the midst of the keys that some query may attend to; zero where there is none.

    It is their mean, in which a key weighs less with the square of its distance from the first of
    them. Under a causal mask every query may attend to that one, and the mean stays with what is
    near it: later keys, however many and however far, cost the earlier queries no digits. Where
    all others are far from the first, as from a mark of the beginning, they weigh alike.

    Args:
      keys: what those out of reach hold, be it NaN, does not matter.
      reachable: the keys that some query may attend to.
    """
    # Keys whose squares overflow have a score of −inf wherever the center is.
    limit = float(jnp.finfo(keys.dtype).max) ** 0.5 / max(1, keys.shape[-1])
    counts = reachable & jnp.all(jnp.abs(keys) < limit, axis=-1)
    is_first = counts & (jnp.cumsum(counts, axis=-1) == 1)
    first = jnp.sum(jnp.where(is_first[..., None], keys, 0), axis=-2, keepdims=True)
    keys = jnp.where(counts[..., None], keys, first)
    weights = _weights(jnp.max(jnp.abs(keys - first), axis=-1, keepdims=True, initial=0))
    total = jnp.sum(weights, axis=-2, keepdims=True)

    def mean(terms: Array) -> Array:
        return jnp.sum(weights * terms, axis=-2, keepdims=True) / jnp.maximum(total, 1)

    center = jnp.where(total > 0, mean(keys), first)
    spread = jnp.max(mean(jnp.abs(keys - center)), axis=-1, keepdims=True, initial=0)
    return _rounded(center, spread)


def _weights(distances: Float[Array, "*lead keys 1"]) -> Float[Array, "*lead keys 1"]:
    """The inverse squares of distances, 1 for the least that is not 0; 0 for those that are 0."""
    apart = distances > 0
    least = jnp.min(jnp.where(apart, distances, jnp.inf), axis=-2, keepdims=True, initial=jnp.inf)
    return jnp.where(apart, (least / jnp.where(apart, distances, 1)) ** 2, 0)


def _rounded(
    center: Float[Array, "*lead 1 features"], spread: Float[Array, "*lead 1 1"]
) -> Float[Array, "*lead 1 features"]:
    """The center as a multiple of a power of two, about an eighth of what the keys are apart.

    As few digits as a key of half precision has, so few has its difference from such a center:
    squares are exact, and keys at equal distances get equal scores.
    """
    unit = lax.reduce_precision(spread, jnp.finfo(spread.dtype).nexp, 0) / 8
    return jnp.where(unit > 0, jnp.round(center / jnp.where(unit > 0, unit, 1)) * unit, center)
