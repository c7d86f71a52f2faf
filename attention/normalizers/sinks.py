"""Softmax with a sink: a further term in the denominator, so that a query may attend to nothing."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PyTree

from attention.normalizers.contract import Scores, Weights, Where, beside, over_allowed
from attention.pytrees import register_dataclass
from attention.sizes import check_size


@register_dataclass
@dataclass(frozen=True)
class SoftmaxWithSink:
    """`exp(s_j) / (exp(sink) + Σ exp(s_j))`, the sink 0 unless told: a term of 1 for no key.

    As if there were a further key, its score `sink` and its value zero; the weights of a row sum
    to less than one. With a sink of 0 it is the "zero sink" of arXiv 2309.17453, also known as
    softmax off by one.

    A context is that of a softmax, times `share`. So an algorithm can go through the keys as for
    a softmax, and multiply at the end.

    Attributes:
      sink: finite: a number, or an array whose axes are the last leading axes of the scores, which
        are then `[..., queries, keys]`: `[heads]`, say.
    """

    sink: Float[Array, "*heads"] | float = 0.0

    __name__: ClassVar[str] = "softmax_sink"  # in messages

    def __call__(self, scores: Scores, where: Where = None) -> Weights:
        def weigh(scores: Array) -> Array:
            sink = self._beside(scores, behind=2)
            best = jnp.maximum(jnp.max(scores, axis=-1, keepdims=True, initial=-jnp.inf), sink)
            best = jax.lax.stop_gradient(best)
            terms = jnp.exp(scores - best)
            return terms / (jnp.exp(sink - best) + jnp.sum(terms, axis=-1, keepdims=True))

        return over_allowed(weigh, scores, where)

    def share(self, log_normalizer: Float[Array, "*lead queries"]) -> Float[Array, "*lead queries"]:
        """What the weights of a query sum to; the rest is the sink's.

        Args:
          log_normalizer: `log Σ exp s_j` over the allowed keys; −inf where there are none.
        """
        return jax.nn.sigmoid(log_normalizer - self._beside(log_normalizer, behind=1))

    def _beside(self, array: Array, behind: int) -> Array:
        sink = jnp.asarray(self.sink, array.dtype)
        return beside(sink, "sink", array.shape, behind) if sink.ndim else sink


class LearnedSink(nnx.Module):
    """`exp(s_j) / (exp(sink_h) + Σ exp(s_j))`, the sink of each head learned (arXiv 2309.17453).

    A sink starts at 0. Its gradient is that of a key without a value.

    Args:
      query_dim: not used; every normalizer with parameters is made with it.
      heads: number of heads.
      rngs: not used.
    """

    def __init__(self, query_dim: int, heads: int, *, rngs: nnx.Rngs):
        del query_dim, rngs
        check_size("heads", heads)
        self.sink = nnx.Param(jnp.zeros(heads))

    def reading(self, queries: PyTree) -> SoftmaxWithSink:
        """The normalizer of these queries: of any."""
        del queries
        return SoftmaxWithSink(self.sink[...])
