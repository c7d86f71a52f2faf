"""Biases: what positions alone add to a score, whichever score it is.

A bias is a function of query indices (`[n]`) and key indices (`[m]`). It returns an array of
axes `[n, m]` or `[heads, n, m]`, which is broadcast against the scores as NumPy does. Any pytree
that is such a function will do: it is evaluated tile by tile, never as an array of all pairs of
positions, and its learned parameters get their gradient. Locality is a mask, `masks.window`.
"""

from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

Bias = Callable[[Array, Array], Array]


class Alibi(nnx.Module):
    """`−slope_h |i − j|`, without parameters (Press et al., arXiv 2108.12409).

    The slopes of the heads are a geometric sequence that ends at `2⁻⁸`.

    Args:
      heads: number of heads.
      rngs: not used; every bias is made with it.
    """

    def __init__(self, heads: int, *, rngs: nnx.Rngs):
        del rngs  # nothing is learned
        self.heads = heads

    def __call__(
        self, query_index: Int[Array, " n"], key_index: Int[Array, " m"]
    ) -> Float[Array, "heads n m"]:
        """What to add to the score of each query and key, at these positions."""
        slopes = 2.0 ** (-8.0 * jnp.arange(1, self.heads + 1, dtype=jnp.float32) / self.heads)
        distance = jnp.abs(key_index[None, :] - query_index[:, None])
        return -slopes[:, None, None] * distance[None].astype(jnp.float32)


class RelativePosition(nnx.Module):
    """A learned scalar for each distance `j − i` and head (Shaw et al., arXiv 1803.02155).

    Args:
      heads: number of heads.
      clip: distances beyond ±clip count as ±clip, in positions.
      rngs: not used: all scalars are zero at the start.

    Raises:
      ValueError: the clip is negative.
    """

    def __init__(self, heads: int, *, clip: int = 16, rngs: nnx.Rngs):
        del rngs  # all scalars start at zero: no distance is preferred
        if clip < 0:
            raise ValueError(f"clip={clip}: must be at least 0")
        self.clip = clip
        self.table = nnx.Param(jnp.zeros((heads, 2 * clip + 1)))

    def __call__(
        self, query_index: Int[Array, " n"], key_index: Int[Array, " m"]
    ) -> Float[Array, "heads n m"]:
        """What to add to the score of each query and key, at these positions."""
        distance = key_index[None, :] - query_index[:, None]
        return self.table[...][:, jnp.clip(distance, -self.clip, self.clip) + self.clip]


BIASES: dict[str, Callable[..., Bias]] = {"alibi": Alibi, "relative": RelativePosition}
