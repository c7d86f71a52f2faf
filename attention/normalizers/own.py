"""A user's own normalizer."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array

from attention.forms import name_of
from attention.normalizers.contract import (
    Normalizer,
    Scores,
    Weights,
    Where,
    over_allowed,
    over_rows_with_keys,
)


@dataclass(frozen=True)
class Guarded:
    """A user's own normalizer, made to keep the contract of this package under every mask.

    Whatever the function returns for a masked key becomes a weight of zero, with gradient zero.

    Attributes:
      function: from scores, in float32 or better, and a mask of the same shape to weights. All
        scores are finite: those of masked keys arrive as the lowest number of their dtype, and
        allowed scores, −inf being masked, are raised to half of that number where they are below
        it; so no allowed score is as low as a masked one. A row with no allowed key arrives as
        zeros and as a row that allows all its keys, so that no sum over allowed keys is empty.
    """

    function: Normalizer

    def __call__(self, scores: Scores, where: Where = None) -> Weights:
        return over_allowed(lambda s: over_rows_with_keys(self._weigh, s), scores, where)

    def _weigh(self, scores: Array) -> Array:
        allowed, lowest = scores != -jnp.inf, jnp.finfo(scores.dtype).min
        finite = jnp.where(allowed, jnp.maximum(scores, lowest / 2), lowest)
        weights = self.function(finite, where=allowed)
        if weights.shape != scores.shape:
            raise ValueError(
                f"a normalizer must return one weight for each score, shape {scores.shape};"
                f" {name_of(self.function)} returned shape {weights.shape}"
            )
        return jnp.where(allowed, weights, 0.0)
