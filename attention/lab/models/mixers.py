"""Mixers: what an encoder does to the embedded sequence before attention reads it."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from attention.lab.models.cells import Bidirectional

Mixer = Literal["none", "feedforward", "convolution", "elman", "gru", "lstm"]


class FeedForward(nnx.Module):
    """`x + W₂ gelu(W₁ x)` at each position.

    Args:
      dim: size of inputs and of outputs.
      rngs: source of initial parameters.
    """

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        self.expand = nnx.Linear(dim, 2 * dim, rngs=rngs)
        self.contract = nnx.Linear(2 * dim, dim, rngs=rngs)

    def __call__(
        self, inputs: Float[Array, "batch time dim"], mask: Bool[Array, "batch time"]
    ) -> Float[Array, "batch time dim"]:
        """The mixed inputs; positions do not mix, so the mask is ignored."""
        del mask
        return inputs + self.contract(jax.nn.gelu(self.expand(inputs)))


class Convolution(nnx.Module):
    """`x_t + W₋₁ x_{t−1} + W₀ x_t + W₁ x_{t+1}`: each position knows its two neighbours.

    In models that recall values by their keys, short convolutions bind a value to the key before
    it (arXiv 2312.04927).

    Args:
      dim: size of inputs and of outputs.
      rngs: source of initial parameters.
    """

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        self.window = nnx.Linear(3 * dim, dim, rngs=rngs)

    def __call__(
        self, inputs: Float[Array, "batch time dim"], mask: Bool[Array, "batch time"]
    ) -> Float[Array, "batch time dim"]:
        """The mixed inputs; where `mask` is `False`, an input counts as zero."""
        inputs = jnp.where(mask[..., None], inputs, 0.0)
        padded = jnp.pad(inputs, ((0, 0), (1, 1), (0, 0)))
        # A matrix product: XLA takes 20 times longer for a convolution inside a loop on a CPU.
        window = jnp.concatenate([padded[:, :-2], inputs, padded[:, 2:]], axis=-1)
        return inputs + self.window(window)


def make_mixer(mixer: Mixer, dim: int, rngs: nnx.Rngs) -> nnx.Module | None:
    """The mixer of this name; None for `none`.

    Every mixer is called with inputs (axes `batch time dim`) and a mask of the steps that count.

    Args:
      mixer: name of the mixer.
      dim: size of the vectors.
      rngs: source of initial parameters.
    """
    match mixer:
        case "feedforward":
            return FeedForward(dim, rngs=rngs)
        case "convolution":
            return Convolution(dim, rngs=rngs)
        case "elman" | "gru" | "lstm":
            return Bidirectional(mixer, dim, rngs=rngs)
        case "none":
            return None
