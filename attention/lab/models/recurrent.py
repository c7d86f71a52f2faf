"""The recurrent decoder: that of Bahdanau et al.; without attention, plain sequence to sequence."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree

from attention import masks
from attention.lab.models.cells import CELLS, CellName, carry_of, state_of
from attention.lab.models.decoder import Decoder, Lengths, Logits, Memory, Tokens, Weights
from attention.lab.tasks.batch import PAD, before
from attention.layers import Attention
from attention.normalizers import Normalizer


class RecurrentDecoder(Decoder):
    """An autoregressive cell whose state is the query (Bahdanau et al., arXiv 1409.0473).

    At each step, the state left by the step before is the query. The cell takes in the context and
    the previous token; the logits are linear in the new state, the context and the previous token.
    Without a score there is no context: all that the decoder knows of the source is in the first
    state (Sutskever et al., arXiv 1409.3215).

    The first state is tanh of a linear map of three vectors: the mean of the memory, and its first
    and last vector, where cells that read the source from both ends have seen all of it.

    Args:
      score: a score class or function, see `Attention`; None for no attention.
      vocabulary: number of tokens.
      time: number of target positions; no parameter depends on it, so targets may be longer.
      dim: size of queries and of memory vectors.
      heads: number of heads.
      normalizer: from scores to weights: a name or a function, see `Attention`.
      embedding_std: standard deviation of the initial target embeddings.
      rngs: source of initial parameters.
      **options: of the score.

    Attributes:
      cell_name: name of the kind of cell.
    """

    cell_name: ClassVar[CellName]
    needs_attention = False

    def __init__(
        self,
        score: Callable[..., Any] | None,
        vocabulary: int,
        time: int,
        dim: int,
        *,
        heads: int = 1,
        normalizer: str | Normalizer = "softmax",
        embedding_std: float = 0.5,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        del time  # no parameter belongs to a position
        initial = jax.nn.initializers.normal(embedding_std)
        self.embedding = nnx.Param(initial(rngs.params(), (vocabulary, dim)))
        self.attention = nnx.data(
            None
            if score is None
            else Attention(
                score, dim, dim, heads=heads, normalizer=normalizer, rngs=rngs, **options
            )
        )
        inputs = dim if score is None else 2 * dim
        self.start = nnx.Linear(3 * dim, dim, rngs=rngs)
        self.cell = CELLS[self.cell_name](inputs, dim, rngs=rngs)
        self.output = nnx.Linear(inputs + dim, vocabulary, rngs=rngs)

    def logits(self, memory: Memory, length: Lengths, target: Tokens) -> Logits:
        previous = jnp.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=PAD)

        def step(carry, token):
            contexts = self._contexts(carry, memory, length, weighed=False)[0]
            return self._advance(carry, contexts, token)

        _, features = jax.lax.scan(step, self._first_carry(memory, length), previous.T)
        return self.output(jnp.moveaxis(features, 0, 1))

    def greedy(self, memory: Memory, length: Lengths, time: int) -> tuple[Tokens, Weights | None]:
        def step(carry_and_token, _):
            carry, token = carry_and_token
            contexts, weights = self._contexts(carry, memory, length, weighed=True)
            carry, features = self._advance(carry, contexts, token)
            token = jnp.argmax(self.output(features), axis=-1)
            return (carry, token), (token, weights)

        start = self._first_carry(memory, length), jnp.full(memory.shape[0], PAD)
        _, (tokens, weights) = jax.lax.scan(step, start, length=time)
        return tokens.T, None if weights is None else jnp.moveaxis(weights, 0, 2)

    def _first_carry(self, memory: Memory, length: Lengths) -> PyTree:
        counts = before(length, memory.shape[1])[..., None]
        mean = jnp.sum(jnp.where(counts, memory, 0.0), axis=1) / jnp.maximum(length, 1)[:, None]
        rows = jnp.arange(memory.shape[0])
        ends = memory[:, 0], memory[rows, jnp.maximum(length - 1, 0)]
        state = jnp.tanh(self.start(jnp.concatenate([mean, *ends], axis=-1)))
        return carry_of(self.cell, state)

    def _contexts(
        self, carry: PyTree, memory: Memory, length: Lengths, *, weighed: bool
    ) -> tuple[list[Array], Float[Array, "batch heads source_time"] | None]:
        """The context that the state asks for, and the weights if `weighed`.

        The context comes in a list, which is empty without attention.
        """
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
        """The new carry, and the features that the linear map to the logits reads."""
        embedded = self.embedding[...][token]
        carry, state = self.cell(carry, jnp.concatenate([embedded, *contexts], axis=-1))
        return carry, jnp.concatenate([state, *contexts, embedded], axis=-1)


class ElmanDecoder(RecurrentDecoder):
    """The recurrent decoder with a plain cell, `tanh(W x + U h)`.

    Elman, Cognitive Science 14:2, 1990.
    """

    cell_name = "elman"


class GRUDecoder(RecurrentDecoder):
    """The recurrent decoder with a gated recurrent unit (Cho et al., arXiv 1406.1078)."""

    cell_name = "gru"


class LSTMDecoder(RecurrentDecoder):
    """The recurrent decoder with a long short-term memory.

    Hochreiter and Schmidhuber, Neural Computation 9:8, 1997.
    """

    cell_name = "lstm"
