"""Positions for any length, as sinusoids to add to vectors; `attention.rotary` turns vectors."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from attention.rotary import rotary_angles

Positions = Literal["none", "learned", "sinusoidal", "rotary"]


def sinusoids(time: int, dim: int) -> Float[Array, "time dim"]:
    """Sines, then cosines, of the step at falling frequencies (Vaswani et al., arXiv 1706.03762).

    Args:
      time: number of steps.
      dim: size of the vector of a step; even.

    Raises:
      ValueError: the dimension is odd.
    """
    if dim % 2:
        raise ValueError(f"dim={dim}: must be even, half are sines and half cosines")
    angles = rotary_angles(jnp.arange(time, dtype=jnp.float32), dim)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
