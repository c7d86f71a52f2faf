"""Mixers: what an encoder does to the embedded sequence before attention reads it."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from attention.lab.models.cells import Bidirectional

Mixer = Literal["none", "feedforward", "convolution", "elman", "gru", "lstm"]


class FeedForward(nnx.Module):
    """`x + W₂ gelu(W₁ x)` at each position."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        self.expand = nnx.Linear(dim, 2 * dim, rngs=rngs)
        self.contract = nnx.Linear(2 * dim, dim, rngs=rngs)

    def __call__(
        self, inputs: Float[Array, "batch time dim"], mask: Bool[Array, "batch time"]
    ) -> Float[Array, "batch time dim"]:
        del mask  # positions do not mix
        return inputs + self.contract(jax.nn.gelu(self.expand(inputs)))


class Convolution(nnx.Module):
    """`x_t + W₋₁ x_{t−1} + W₀ x_t + W₁ x_{t+1}`: each position knows its neighbours.

    Short convolutions bind a value to the key before it in models that recall
    (arXiv 2312.04927).
    """

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        self.window = nnx.Linear(3 * dim, dim, rngs=rngs)

    def __call__(
        self, inputs: Float[Array, "batch time dim"], mask: Bool[Array, "batch time"]
    ) -> Float[Array, "batch time dim"]:
        inputs = jnp.where(mask[..., None], inputs, 0.0)
        padded = jnp.pad(inputs, ((0, 0), (1, 1), (0, 0)))
        # One matrix product: in a loop XLA takes 20 times longer for a convolution on a CPU.
        window = jnp.concatenate([padded[:, :-2], inputs, padded[:, 2:]], axis=-1)
        return inputs + self.window(window)


def make_mixer(mixer: Mixer, dim: int, rngs: nnx.Rngs) -> nnx.Module | None:
    """The mixer of a name, for vectors of size `dim`; None for `none`."""
    match mixer:
        case "feedforward":
            return FeedForward(dim, rngs=rngs)
        case "convolution":
            return Convolution(dim, rngs=rngs)
        case "elman" | "gru" | "lstm":
            return Bidirectional(mixer, dim, rngs=rngs)
        case "none":
            return None
