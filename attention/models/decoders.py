"""Decoders: from the memory to the target, through attention.

Each has two ways to run. `logits` is for training and may see the target
(teacher forcing); `greedy` is for evaluation and may not.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from attention import masks
from attention.layers import Attention
from attention.tasks.batch import PAD, before

Logits = Float[Array, "batch time vocabulary"]
Memory = Float[Array, "batch source_time dim"]
Tokens = Int[Array, "batch time"]
Weights = Float[Array, "batch heads time source_time"]


@runtime_checkable
class Decoder(Protocol):
    """What a `Reconstructor` asks of its decoder."""

    def logits(self, memory: Memory, length: Int[Array, " batch"], target: Tokens) -> Logits:
        """Scores of every next token, given the target tokens before it."""
        ...

    def greedy(self, memory: Memory, length: Int[Array, " batch"]) -> tuple[Tokens, Weights | None]:
        """The likeliest tokens, and the weights they came with (None: not one a step)."""
        ...


class ParallelDecoder(nnx.Module):
    """One learned query a target position; the logits are linear in the context.

    Args:
      score: a score class or function, see `Attention`.
      vocabulary: number of tokens.
      time: number of target positions.
      dim: size of queries and of memory vectors.
      heads: number of heads.
      embedding_std: standard deviation of the initial queries.
      attention: further arguments of `Attention`, those of the score among them.
      rngs: source of initial parameters.
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
        initial = jax.nn.initializers.normal(embedding_std)
        self.queries = nnx.Param(initial(rngs.params(), (time, dim)))
        self.attention = Attention(score, dim, dim, heads=heads, rngs=rngs, **attention)
        self.output = nnx.Linear(dim, vocabulary, rngs=rngs)

    def logits(self, memory: Memory, length: Int[Array, " batch"], target: Tokens) -> Logits:
        del target  # positions are independent
        mask = masks.lengths(length)
        return self.output(self.attention(self.queries[...], memory, mask=mask))

    def greedy(self, memory: Memory, length: Int[Array, " batch"]) -> tuple[Tokens, Weights]:
        context, weights = self.attention.with_weights(
            self.queries[...], memory, mask=masks.lengths(length)
        )
        return jnp.argmax(self.output(context), axis=-1), weights


class GRUDecoder(nnx.Module):
    """Autoregressive GRU whose state is the query (Bahdanau et al., arXiv 1409.0473).

    At each step the state before it asks the memory; the GRU takes in the context and
    the token before, and the logits are linear in new state, context and that token.

    Args: as for `ParallelDecoder`; `embedding_std` is that of the target embeddings.
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
        self.embedding = nnx.Param(initial(rngs.params(), (vocabulary, dim)))
        self.attention = Attention(score, dim, dim, heads=heads, rngs=rngs, **attention)
        self.start = nnx.Linear(dim, dim, rngs=rngs)
        self.cell = nnx.GRUCell(2 * dim, dim, rngs=rngs)
        self.output = nnx.Linear(3 * dim, vocabulary, rngs=rngs)

    def logits(self, memory: Memory, length: Int[Array, " batch"], target: Tokens) -> Logits:
        previous = jnp.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=PAD)
        mask = masks.lengths(length)

        def step(state, token):
            context = self.attention(state[:, None], memory, mask=mask)[:, 0]
            return self._advance(state, context, self.embedding[...][token])

        _, features = jax.lax.scan(step, self._first_state(memory, length), previous.T)
        return self.output(jnp.moveaxis(features, 0, 1))

    def greedy(self, memory: Memory, length: Int[Array, " batch"]) -> tuple[Tokens, Weights]:
        mask = masks.lengths(length)

        def step(carry, _):
            state, token = carry
            context, weights = self.attention.with_weights(state[:, None], memory, mask=mask)
            state, features = self._advance(state, context[:, 0], self.embedding[...][token])
            token = jnp.argmax(self.output(features), axis=-1)
            return (state, token), (token, weights[:, :, 0])

        first = jnp.full(memory.shape[0], PAD)
        start = (self._first_state(memory, length), first)
        _, (tokens, weights) = jax.lax.scan(step, start, length=self.time)
        return tokens.T, jnp.moveaxis(weights, 0, 2)

    def _first_state(self, memory: Memory, length: Int[Array, " batch"]) -> Array:
        counts = before(length, memory.shape[1])[..., None]
        mean = jnp.sum(jnp.where(counts, memory, 0.0), axis=1) / jnp.maximum(length, 1)[:, None]
        return jnp.tanh(self.start(mean))

    def _advance(self, state: Array, context: Array, embedded: Array) -> tuple[Array, Array]:
        """The new state, and the features that the output reads."""
        state, _ = self.cell(state, jnp.concatenate([embedded, context], axis=-1))
        return state, jnp.concatenate([state, context, embedded], axis=-1)


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

    def greedy(self, memory: Memory, length: Int[Array, " batch"]) -> tuple[Tokens, Weights | None]:
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
    "gru": GRUDecoder,
    "pooled": PooledDecoder,
}
