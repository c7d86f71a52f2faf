"""Decoders: from the memory to the target, through attention.

Each has two ways to run. `logits` is for training and may see the target
(teacher forcing); `greedy` is for evaluation and may not.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from attention import masks
from attention.lab.models.cells import CELLS
from attention.lab.models.location import LocationDecoder
from attention.lab.models.positions import Positions, rotate, sinusoids
from attention.lab.models.recurrent import RecurrentDecoder
from attention.layers import Attention

Logits = Float[Array, "batch time vocabulary"]
Memory = Float[Array, "batch source_time dim"]
Tokens = Int[Array, "batch time"]
Questions = Float[Array, "batch time dim"]
Weights = Float[Array, "batch heads time source_time"]


@runtime_checkable
class Decoder(Protocol):
    """What a `Reconstructor` asks of its decoder."""

    def logits(self, memory: Memory, length: Int[Array, " batch"], target: Tokens) -> Logits:
        """Scores of every next token, given the target tokens before it."""
        ...

    def greedy(
        self, memory: Memory, length: Int[Array, " batch"], time: int
    ) -> tuple[Tokens, Weights | None]:
        """The likeliest tokens of `time` steps, and the weights they came with, if any."""
        ...


class ParallelDecoder(nnx.Module):
    """One query a target position, all at once; the logits are linear in the context.

    Where the task asks questions, they are added to the queries.

    Args:
      score: a score class or function, see `Attention`.
      vocabulary: number of tokens.
      time: number of target positions; of a shared query, any number can be asked for.
      dim: size of queries and of memory vectors.
      heads: number of heads.
      positions: `sinusoidal` adds sines to the queries, `rotary` turns queries and keys.
      queries: `learned`, one a position, or one that all positions share.
      embedding_std: standard deviation of the initial queries.
      rngs: source of initial parameters.
      **attention: further arguments of `Attention`, those of the score among them.
    """

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
        embedding_std: float = 0.5,
        rngs: nnx.Rngs,
        **attention: Any,
    ):
        self.positions = positions
        initial = jax.nn.initializers.normal(embedding_std)
        count = time if queries == "learned" else 1
        self.queries = nnx.Param(initial(rngs.params(), (count, dim)))
        self.attention = Attention(score, dim, dim, heads=heads, rngs=rngs, **attention)
        self.output = nnx.Linear(dim, vocabulary, rngs=rngs)

    def logits(
        self,
        memory: Memory,
        length: Int[Array, " batch"],
        target: Tokens,
        question: Questions | None = None,
    ) -> Logits:
        queries, keys = self._queries(target.shape[1], question), self._keys(memory)
        return self.output(self.attention(queries, keys, memory, mask=masks.lengths(length)))

    def greedy(
        self,
        memory: Memory,
        length: Int[Array, " batch"],
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


class PooledDecoder(nnx.Module):
    """The tutorial's decoder: one context for the whole sequence, read by one linear map.

    Args: as for `ParallelDecoder`. With as many heads as `dim`, each mixes one feature:
      one softmax over positions a feature.
    """

    def __init__(
        self,
        score: Callable[..., Any],
        vocabulary: int,
        time: int,
        dim: int,
        *,
        heads: int = 1,
        embedding_std: float = 0.5,
        rngs: nnx.Rngs,
        **attention: Any,
    ):
        self.time = time
        initial = jax.nn.initializers.normal(embedding_std)
        self.query = nnx.Param(initial(rngs.params(), (1, dim)))
        self.attention = Attention(score, dim, dim, heads=heads, rngs=rngs, **attention)
        self.output = nnx.Linear(dim, time * vocabulary, rngs=rngs)

    def logits(self, memory: Memory, length: Int[Array, " batch"], target: Tokens) -> Logits:
        del target  # positions are independent
        return self._read(self.attention(self.query[...], memory, mask=masks.lengths(length)))

    def greedy(
        self, memory: Memory, length: Int[Array, " batch"], time: int
    ) -> tuple[Tokens, Weights | None]:
        del time  # it has but one
        if self.time > 1:
            context = self.attention(self.query[...], memory, mask=masks.lengths(length))
            return jnp.argmax(self._read(context), axis=-1), None
        # Of a single step, one context is one context a step.
        context, weights = self.attention.with_weights(
            self.query[...], memory, mask=masks.lengths(length)
        )
        return jnp.argmax(self._read(context), axis=-1), weights

    def _read(self, context: Float[Array, "batch 1 dim"]) -> Logits:
        return self.output(context[:, 0]).reshape(context.shape[0], self.time, -1)


DECODERS: dict[str, Callable[..., Decoder]] = {
    "parallel": ParallelDecoder,
    "location": LocationDecoder,
    "pooled": PooledDecoder,
    **{name: partial(RecurrentDecoder, cell=name) for name in CELLS},
}
