"""Positions for any length: sinusoids to add to vectors, or angles to rotate vectors by."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

Positions = Literal["none", "learned", "sinusoidal", "rotary"]


def sinusoids(time: int, dim: int) -> Float[Array, "time dim"]:
    """Sines, then cosines, of the step at falling frequencies (Vaswani et al., arXiv 1706.03762).

    Args:
      time: number of steps.
      dim: size of the vector of a step; even.

    Raises:
      ValueError: the dimension is odd.
    """
    angles = _angles(time, dim)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def rotate(vectors: Float[Array, "*batch time dim"]) -> Float[Array, "*batch time dim"]:
    """Each vector turned by its step, pair by pair of features (RoPE; Su et al., arXiv 2104.09864).

    The inner product of two turned vectors depends on the distance between their steps, not on the
    steps themselves.

    Raises:
      ValueError: the dimension is odd.
    """
    time, dim = vectors.shape[-2:]
    angles = _angles(time, dim)
    sine, cosine = jnp.sin(angles), jnp.cos(angles)
    left, right = jnp.split(vectors, 2, axis=-1)
    return jnp.concatenate([left * cosine - right * sine, right * cosine + left * sine], axis=-1)


def _angles(time: int, dim: int) -> Float[Array, "time half_dim"]:
    if dim % 2:
        raise ValueError(f"dim={dim}: must be even, half are sines and half cosines")
    frequencies = 10_000.0 ** (-jnp.arange(0, dim, 2, dtype=jnp.float32) / dim)
    return jnp.arange(time, dtype=jnp.float32)[:, None] * frequencies
