"""The parallel decoder: all positions of the target at once."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attention import masks
from attention.biases import Bias
from attention.lab.models.decoder import (
    Decoder,
    Lengths,
    Logits,
    Memory,
    Questions,
    Tokens,
    Weights,
)
from attention.lab.models.positions import Positions, sinusoids
from attention.layers import Attention
from attention.normalizers import Normalizer
from attention.rotary import rotate


class ParallelDecoder(Decoder):
    """A query for each target position, all at once; the logits are linear in the context.

    Where the task asks questions, the embedded questions are added to the queries.

    Args:
      score: a score class or function, see `Attention`.
      vocabulary: number of tokens.
      time: number of target positions; with a shared query, any number can be asked for.
      dim: size of queries and of memory vectors.
      heads: number of heads.
      positions: `sinusoidal` adds sines to the queries, `rotary` turns queries and keys.
      queries: `learned`, a query for each position, or `shared`, a query for all positions.
      normalizer: from scores to weights: a name or a function, see `Attention`.
      bias: what positions add to the scores, see `Attention`.
      embedding_std: standard deviation of the initial queries.
      rngs: source of initial parameters.
      **options: of the score.
    """

    answers_questions = True
    turns_positions = True

    @classmethod
    def any_length(cls, options: Mapping[str, Any]) -> bool:
        """Whether all positions share a query."""
        return options["queries"] == "shared"

    def __init__(
        self,
        score: Callable[..., Any],
        vocabulary: int,
        time: int,
        dim: int,
        *,
        heads: int = 1,
        positions: Positions = "learned",
        queries: Literal["learned", "shared"] = "learned",
        normalizer: str | Normalizer = "softmax",
        bias: Callable[..., Bias] | None = None,
        embedding_std: float = 0.5,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        self.positions = positions
        initial = jax.nn.initializers.normal(embedding_std)
        count = time if queries == "learned" else 1
        self.queries = nnx.Param(initial(rngs.params(), (count, dim)))
        self.attention = Attention(
            score,
            dim,
            dim,
            heads=heads,
            normalizer=normalizer,
            bias=bias,
            rngs=rngs,
            **options,
        )
        self.output = nnx.Linear(dim, vocabulary, rngs=rngs)

    def logits(
        self,
        memory: Memory,
        length: Lengths,
        target: Tokens,
        question: Questions | None = None,
    ) -> Logits:
        queries, keys = self._queries(target.shape[1], question), self._keys(memory)
        return self.output(self.attention(queries, keys, memory, mask=masks.lengths(length)))

    def greedy(
        self,
        memory: Memory,
        length: Lengths,
        time: int,
        question: Questions | None = None,
    ) -> tuple[Tokens, Weights]:
        queries, keys = self._queries(time, question), self._keys(memory)
        context, weights = self.attention.with_weights(
            queries, keys, memory, mask=masks.lengths(length)
        )
        return jnp.argmax(self.output(context), axis=-1), weights

    def _queries(
        self, time: int, question: Questions | None
    ) -> Questions | Float[Array, "time dim"]:
        queries = jnp.broadcast_to(self.queries[...], (time, self.queries.shape[1]))
        if self.positions == "sinusoidal":
            queries = queries + sinusoids(*queries.shape)
        if self.positions == "rotary":
            queries = rotate(queries)
        return queries if question is None else queries[None] + question

    def _keys(self, memory: Memory) -> Memory:
        return rotate(memory) if self.positions == "rotary" else memory
