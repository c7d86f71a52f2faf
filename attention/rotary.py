"""Rotary positions: vectors turned by where they stand (RoPE; Su et al., arXiv 2104.09864)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from attention.forms import accumulator

BASE = 10_000.0


def rotate(
    vectors: Float[Array, "*lead time dim"],
    positions: Real[Array | np.ndarray, "*batch time"] | None = None,
    *,
    base: float = BASE,
) -> Float[Array, "*lead time dim"]:
    """Each vector turned by its position, pair by pair of features.

    The inner product of two turned vectors depends on the distance between their positions, not on
    the positions themselves. A pair is a feature of the first half and its like in the second.

    Args:
      vectors: with any leading axes, such as `[batch, heads]`.
      positions: of the vectors, `[time]`, or `[*batch, time]` where they differ along the first
        leading axes; the further ones, such as heads, share them. None counts from 0.
      base: the slowest of many pairs turns by a radian in about so many positions.

    Raises:
      ValueError: the dimension is odd, or the positions do not fit.
    """
    *lead, time, dim = vectors.shape
    if dim % 2:
        raise ValueError(f"dim={dim}: must be even, rotary positions turn features in pairs")
    dtype = accumulator(vectors.dtype)
    positions = jnp.arange(time) if positions is None else jnp.asarray(positions)
    _check(positions, vectors)
    angles = rotary_angles(positions.astype(dtype), dim, base=base)
    shared = tuple(range(positions.ndim - 1, len(lead)))
    sine, cosine = (jnp.expand_dims(wave(angles), shared) for wave in (jnp.sin, jnp.cos))
    left, right = jnp.split(vectors.astype(dtype), 2, axis=-1)
    turned = [left * cosine - right * sine, right * cosine + left * sine]
    return jnp.concatenate(turned, axis=-1).astype(vectors.dtype)


def rotary_angles(
    positions: Float[Array, "*time"], dim: int, *, base: float = BASE
) -> Float[Array, "*time half_dim"]:
    """The angle of every position and pair of features; the first pair turns the fastest."""
    frequencies = base ** (-jnp.arange(0, dim, 2, dtype=positions.dtype) / dim)
    return positions[..., None] * jnp.expand_dims(frequencies, tuple(range(positions.ndim)))


def _check(positions: Array, vectors: Array) -> None:
    *lead, time, _ = vectors.shape
    fits = positions.shape[-1:] == (time,) and positions.ndim - 1 <= len(lead)
    pairs = zip(positions.shape[:-1], lead, strict=False)
    if not fits or any(size not in (1, full) for size, full in pairs):
        raise ValueError(
            f"positions of shape {positions.shape} do not fit vectors of shape {vectors.shape}:"
            " they must be [time] or [*batch, time]"
        )
