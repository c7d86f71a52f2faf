"""The pooled decoder: one context for the whole sequence."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attention import masks
from attention.lab.models.decoder import Decoder, Lengths, Logits, Memory, Tokens, Weights
from attention.layers import Attention
from attention.normalizers import Normalizer


class PooledDecoder(Decoder):
    """The tutorial's decoder: a linear map reads the target from a single context.

    With as many heads as `dim`, each head mixes a single feature: every feature has its softmax
    over positions.

    Args:
      score: a score class or function, see `Attention`.
      vocabulary: number of tokens.
      time: number of target positions; the decoder can produce no other number.
      dim: size of the query and of memory vectors.
      heads: number of heads.
      normalizer: from scores to weights: a name or a function, see `Attention`.
      embedding_std: standard deviation of the initial query.
      rngs: source of initial parameters.
      **options: of the score.
    """

    @classmethod
    def any_length(cls, options: Mapping[str, Any]) -> bool:
        """Never: the number of target positions is fixed."""
        del options
        return False  # the linear map has parameters for every position

    @classmethod
    def num_queries(cls, time: int) -> int:
        """One, whose context is all that the target is read from."""
        del time
        return 1

    def __init__(
        self,
        score: Callable[..., Any],
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
        self.time = time
        initial = jax.nn.initializers.normal(embedding_std)
        self.query = nnx.Param(initial(rngs.params(), (1, dim)))
        self.attention = Attention(
            score, dim, dim, heads=heads, normalizer=normalizer, rngs=rngs, **options
        )
        self.output = nnx.Linear(dim, time * vocabulary, rngs=rngs)

    def logits(self, memory: Memory, length: Lengths, target: Tokens) -> Logits:
        del target  # no position depends on the tokens before it
        return self._read(self.attention(self.query[...], memory, mask=masks.lengths(length)))

    def greedy(self, memory: Memory, length: Lengths, time: int) -> tuple[Tokens, Weights | None]:
        del time  # the number of positions is fixed
        if self.time > 1:
            context = self.attention(self.query[...], memory, mask=masks.lengths(length))
            return jnp.argmax(self._read(context), axis=-1), None
        # A target of a single step has a context for each step, so there are weights to show.
        context, weights = self.attention.with_weights(
            self.query[...], memory, mask=masks.lengths(length)
        )
        return jnp.argmax(self._read(context), axis=-1), weights

    def _read(self, context: Float[Array, "batch 1 dim"]) -> Logits:
        return self.output(context[:, 0]).reshape(context.shape[0], self.time, -1)
