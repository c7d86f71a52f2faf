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
    """What a model made of its input, without seeing the target.

    Attributes:
      tokens: the output, `PAD` after its first `END`.
      weights: how much attention each head paid to each source position at each output step;
        None where the model has one context for all steps, or no attention.
    """

    tokens: Int[Array, "batch time"]
    weights: Float[Array, "batch heads time source_time"] | None


class Reconstructor(nnx.Module):
    """An encoder and a decoder, joined to a model.

    Args:
      encoder: from source to memory.
      decoder: from memory to target.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder):
        self.encoder = encoder
        self.decoder = decoder

    def logits(
        self, batch: Batch, dropout_key: Key[Array, ""] | None = None
    ) -> Float[Array, "batch time vocabulary"]:
        """Scores of every token at every target step, for training.

        Args:
          batch: the examples.
          dropout_key: source of randomness for dropout; None for no dropout.
        """
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
        """The output for a source, where the decoder chooses every token itself.

        The decoder also decides where to stop: what follows its first `END` becomes padding.

        Args:
          source: tokens, or real vectors.
          source_length: how many positions of the source count.
          time: the number of target steps.
          question: the token that each target step asks with; None if the task asks nothing.
        """
        memory = self._memory(source, source_length, None)
        tokens, weights = self.decoder.greedy(memory, source_length, time, *self._asked(question))
        ended_before = jnp.cumsum(tokens == END, axis=1) - (tokens == END) > 0
        return Reconstruction(jnp.where(ended_before, PAD, tokens), weights)

    def _asked(self, question: Array | None) -> tuple[Array, ...]:
        """The embedded questions, if any: a further argument of decoders that answer questions."""
        return () if question is None else (self.encoder.embed_tokens(question),)

    def _memory(self, source: Array, length: Array, dropout_key: Array | None) -> Array:
        return self.encoder(source, before(length, source.shape[1]), dropout_key)
