"""The model of the experiment: encode the source, attend, produce the target."""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from attention.lab.models.decoder import Decoder
from attention.lab.models.encoder import Encoder
from attention.lab.tasks.batch import END, PAD, Batch, Source, before
from attention.pytrees import register_dataclass


@register_dataclass
@dataclass(frozen=True)
class Reconstruction:
    """What a model made of its input, on its own.

    Attributes:
      tokens: the output, `PAD` after its first `END`.
      weights: where each output step looked, a head; None where the model has one
        context for all steps.
    """

    tokens: Int[Array, "batch time"]
    weights: Float[Array, "batch heads time source_time"] | None


class Reconstructor(nnx.Module):
    """An encoder and a decoder."""

    def __init__(self, encoder: Encoder, decoder: Decoder):
        self.encoder = encoder
        self.decoder = decoder

    def logits(
        self, batch: Batch, dropout_key: Key[Array, ""] | None = None
    ) -> Float[Array, "batch time vocabulary"]:
        """Scores of the next token at every target step; with dropout if given a key."""
        memory = self._memory(batch.source, batch.source_length, dropout_key)
        return self.decoder.logits(
            memory, batch.source_length, batch.target, *self._asked(batch.question)
        )

    def reconstruct(
        self,
        source: Source,
        source_length: Int[Array, " batch"],
        time: int,
        question: Int[Array, "batch target_time"] | None = None,
    ) -> Reconstruction:
        """The output of `time` steps for a source, by the decoder's own choices.

        It decides where to stop: what follows its `END` is padding.
        """
        memory = self._memory(source, source_length, None)
        tokens, weights = self.decoder.greedy(memory, source_length, time, *self._asked(question))
        ended_before = jnp.cumsum(tokens == END, axis=1) - (tokens == END) > 0
        return Reconstruction(jnp.where(ended_before, PAD, tokens), weights)

    def _asked(self, question: Array | None) -> tuple[Array, ...]:
        """What the decoder is passed besides: only one that answers questions knows of any."""
        return () if question is None else (self.encoder.embedding[...][question],)

    def _memory(self, source: Array, length: Array, dropout_key: Array | None) -> Array:
        return self.encoder(source, before(length, source.shape[1]), dropout_key)
