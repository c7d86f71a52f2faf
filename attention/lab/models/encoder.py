"""The encoder: from tokens to the memory that attention reads.

Keyword arguments of an encoder that have a default become fields of a config.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key
from pydantic import Field

from attention.lab.fields import options_of
from attention.lab.models.mixers import Mixer, make_mixer
from attention.lab.models.positions import Positions, sinusoids
from attention.lab.tasks.batch import Source


class Encoder(nnx.Module):
    """Token embeddings plus positions, optionally mixed.

    Args:
      vocabulary: number of tokens.
      time: number of source positions, `END` and padding included.
      dim: size of a memory vector; even where the mixer is a cell.
      positions: what is added to the embedding at each position: `learned` or `sinusoidal`
        vectors, or nothing (`none`; also `rotary`, which concerns the decoder alone).
      mixer: `none`; `feedforward`, a residual two-layer network at each position;
        `convolution`, in which each position sees its two neighbours; or a cell, `elman`,
        `gru` or `lstm`, over the sequence from both ends.
      embedding_std: standard deviation of initial embeddings and positions. It decides
        whether attention learns: too large saturates the softmax at the start.
      dropout: share of the memory's features that are set to zero, in training.
      rngs: source of initial parameters.
    """

    @classmethod
    def any_length(cls, options: Mapping[str, Any]) -> bool:
        """Whether the encoder can read sources of any length.

        It can if none of its parameters belongs to a position.

        Args:
          options: the settings of the model.
        """
        return "positions" not in options_of(cls) or options["positions"] != "learned"

    @classmethod
    def leaves_positions(cls, options: Mapping[str, Any]) -> bool:
        """Whether positions are left to the decoder, which must turn queries and keys by them.

        Args:
          options: the settings of the model.
        """
        return options.get("positions") == "rotary"

    def __init__(
        self,
        vocabulary: int,
        time: int,
        dim: int,
        *,
        positions: Positions = "learned",
        mixer: Mixer = "none",
        embedding_std: float = 0.5,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        rngs: nnx.Rngs,
    ):
        initial = jax.nn.initializers.normal(embedding_std)
        self.embedding = nnx.Param(initial(rngs.params(), (vocabulary, dim)))
        learned = positions == "learned"
        self.positions = nnx.Param(initial(rngs.params(), (time, dim))) if learned else None
        self.sinusoidal = positions == "sinusoidal"
        self.mixer = nnx.data(make_mixer(mixer, dim, rngs))
        self.dropout = nnx.Dropout(dropout)

    def __call__(
        self,
        source: Source,
        mask: Bool[Array, "batch time"],
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch time dim"]:
        """The memory that attention reads.

        Args:
          source: tokens, or real vectors.
          mask: `True` at the positions that count.
          dropout_key: source of randomness for dropout; None for no dropout.
        """
        memory = self._embed(source)
        if self.positions is not None:
            memory = memory + self.positions[...][None]
        if self.sinusoidal:
            memory = memory + sinusoids(*memory.shape[1:])[None]
        if self.mixer is not None:
            memory = self.mixer(memory, mask)
        return self.dropout(memory, deterministic=dropout_key is None, rngs=dropout_key)

    def embed_tokens(self, tokens: Int[Array, "batch time"]) -> Float[Array, "batch time dim"]:
        """The embedding of tokens without positions, which a decoder is asked questions with."""
        return self.embedding[...][tokens]

    def _embed(self, source: Int[Array, "batch time"]) -> Float[Array, "batch time dim"]:
        return self.embedding[...][source]
