"""Encoders: from tokens to the memory that attention reads."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from attention.lab.models.cells import Bidirectional
from attention.lab.models.positions import Positions, sinusoids
from attention.lab.tasks.batch import Source

Mixer = Literal["none", "feedforward", "convolution", "elman", "gru", "lstm"]


class Encoder(nnx.Module):
    """Token embeddings plus positions, optionally mixed.

    Args:
      vocabulary: number of tokens.
      time: number of positions.
      dim: size of a memory vector; even where a cell mixes.
      positions: what is added at each position: `learned` vectors, `sinusoidal` ones, or
        nothing (`none`; `rotary`, which is the decoder's affair).
      mixer: `none`; `feedforward`, a residual two-layer network at each position;
        `convolution`, in which each position sees its two neighbours; or a cell, `elman`,
        `gru` or `lstm`, over the sequence from both ends.
      embedding_std: standard deviation of initial embeddings and positions. It decides
        whether attention learns: too large saturates the softmax at the start.
      dropout: rate on the memory, in training.
      rngs: source of initial parameters.
    """

    def __init__(
        self,
        vocabulary: int,
        time: int,
        dim: int,
        *,
        positions: Positions = "learned",
        mixer: Mixer = "none",
        embedding_std: float = 0.5,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        initial = jax.nn.initializers.normal(embedding_std)
        self.embedding = nnx.Param(initial(rngs.params(), (vocabulary, dim)))
        learned = positions == "learned"
        self.positions = nnx.Param(initial(rngs.params(), (time, dim))) if learned else None
        self.sinusoidal = positions == "sinusoidal"
        self.mixer = nnx.data(_make_mixer(mixer, dim, rngs))
        self.dropout = nnx.Dropout(dropout)

    def __call__(
        self,
        source: Source,
        mask: Bool[Array, "batch time"],
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch time dim"]:
        """The memory; `mask` is `True` at the tokens that count."""
        memory = self._embed(source)
        if self.positions is not None:
            memory = memory + self.positions[...][None]
        if self.sinusoidal:
            memory = memory + sinusoids(*memory.shape[1:])[None]
        if self.mixer is not None:
            memory = self.mixer(memory, mask)
        return self.dropout(memory, deterministic=dropout_key is None, rngs=dropout_key)

    def _embed(self, source: Int[Array, "batch time"]) -> Float[Array, "batch time dim"]:
        return self.embedding[...][source]


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


def _make_mixer(mixer: Mixer, dim: int, rngs: nnx.Rngs) -> nnx.Module | None:
    match mixer:
        case "feedforward":
            return FeedForward(dim, rngs=rngs)
        case "convolution":
            return Convolution(dim, rngs=rngs)
        case "elman" | "gru" | "lstm":
            return Bidirectional(mixer, dim, rngs=rngs)
        case "none":
            return None
