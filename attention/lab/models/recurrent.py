"""The recurrent decoder: with attention that of Bahdanau et al., without it a plain seq2seq."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree

from attention import masks
from attention.lab.models.cells import CELLS, CellName, carry_of, state_of
from attention.lab.tasks.batch import PAD, before
from attention.layers import Attention

Logits = Float[Array, "batch time vocabulary"]
Memory = Float[Array, "batch source_time dim"]
Tokens = Int[Array, "batch time"]
Weights = Float[Array, "batch heads time source_time"]


class RecurrentDecoder(nnx.Module):
    """Autoregressive cell whose state is the query (Bahdanau et al., arXiv 1409.0473).

    At each step the state before it asks the memory; the cell takes in the context and the
    token before, and the logits are linear in new state, context and that token. Without a
    score there is no context: what the first state holds is all it knows of the source
    (Sutskever et al., arXiv 1409.3215).

    The first state is linear in the mean of the memory and in its first and last vector,
    where cells that read the source from both ends have seen all of it.

    Args:
      score: a score class or function, see `Attention`; None for no attention.
      vocabulary: number of tokens.
      time: number of target positions; any number can be asked for.
      dim: size of queries and of memory vectors.
      cell: name of the cell.
      heads: number of heads.
      embedding_std: standard deviation of the initial target embeddings.
      rngs: source of initial parameters.
      **attention: further arguments of `Attention`, those of the score among them.
    """

    def __init__(
        self,
        score: Callable[..., Any] | None,
        vocabulary: int,
        time: int,
        dim: int,
        *,
        cell: CellName,
        heads: int = 1,
        embedding_std: float = 0.5,
        rngs: nnx.Rngs,
        **attention: Any,
    ):
        del time  # there is no parameter a position
        initial = jax.nn.initializers.normal(embedding_std)
        self.embedding = nnx.Param(initial(rngs.params(), (vocabulary, dim)))
        self.attention = nnx.data(
            None
            if score is None
            else Attention(score, dim, dim, heads=heads, rngs=rngs, **attention)
        )
        inputs = dim if score is None else 2 * dim
        self.start = nnx.Linear(3 * dim, dim, rngs=rngs)
        self.cell = CELLS[cell](inputs, dim, rngs=rngs)
        self.output = nnx.Linear(inputs + dim, vocabulary, rngs=rngs)

    def logits(self, memory: Memory, length: Int[Array, " batch"], target: Tokens) -> Logits:
        previous = jnp.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=PAD)

        def step(carry, token):
            contexts = self._contexts(carry, memory, length, weighed=False)[0]
            return self._advance(carry, contexts, token)

        _, features = jax.lax.scan(step, self._first_carry(memory, length), previous.T)
        return self.output(jnp.moveaxis(features, 0, 1))

    def greedy(
        self, memory: Memory, length: Int[Array, " batch"], time: int
    ) -> tuple[Tokens, Weights | None]:
        def step(carry_and_token, _):
            carry, token = carry_and_token
            contexts, weights = self._contexts(carry, memory, length, weighed=True)
            carry, features = self._advance(carry, contexts, token)
            token = jnp.argmax(self.output(features), axis=-1)
            return (carry, token), (token, weights)

        start = self._first_carry(memory, length), jnp.full(memory.shape[0], PAD)
        _, (tokens, weights) = jax.lax.scan(step, start, length=time)
        return tokens.T, None if weights is None else jnp.moveaxis(weights, 0, 2)

    def _first_carry(self, memory: Memory, length: Int[Array, " batch"]) -> PyTree:
        counts = before(length, memory.shape[1])[..., None]
        mean = jnp.sum(jnp.where(counts, memory, 0.0), axis=1) / jnp.maximum(length, 1)[:, None]
        rows = jnp.arange(memory.shape[0])
        ends = memory[:, 0], memory[rows, jnp.maximum(length - 1, 0)]
        state = jnp.tanh(self.start(jnp.concatenate([mean, *ends], axis=-1)))
        return carry_of(self.cell, state)

    def _contexts(
        self, carry: PyTree, memory: Memory, length: Int[Array, " batch"], *, weighed: bool
    ) -> tuple[list[Array], Float[Array, "batch heads source_time"] | None]:
        """The context that the state asks for, in a list that is empty without attention."""
        if self.attention is None:
            return [], None
        query, mask = state_of(self.cell, carry)[:, None], masks.lengths(length)
        if not weighed:
            return [self.attention(query, memory, mask=mask)[:, 0]], None
        context, weights = self.attention.with_weights(query, memory, mask=mask)
        return [context[:, 0]], weights[:, :, 0]

    def _advance(
        self, carry: PyTree, contexts: list[Array], token: Int[Array, " batch"]
    ) -> tuple[PyTree, Array]:
        """The new carry, and the features that the output reads."""
        embedded = self.embedding[...][token]
        carry, state = self.cell(carry, jnp.concatenate([embedded, *contexts], axis=-1))
        return carry, jnp.concatenate([state, *contexts, embedded], axis=-1)
