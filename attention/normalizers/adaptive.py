"""ASEntmax: a sparse normalizer that is as sharp as the query, and the number of keys, ask for."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PyTree

from attention.forms import accumulator
from attention.normalizers.contract import (
    Scores,
    Weights,
    Where,
    beside,
    count_allowed,
    over_allowed,
)
from attention.normalizers.sparse import entmax15_weights
from attention.pytrees import register_dataclass, static
from attention.sizes import check_size

# Between ±1/√d, for queries of d numbers: as in the authors' code, whose biases begin so too, but
# here at zero.
_projection = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


@register_dataclass
@dataclass(frozen=True)
class ScaledEntmax:
    """`entmax15((δ + β (log n)^γ) s)` for `n` allowed keys, `β` and `γ` given for each query.

    With a single key the weight is one, and no scale has an effect.

    Attributes:
      beta: how much the number of keys counts, not negative; its axes are the last axes of the
        scores before the keys.
      gamma: how fast the scale grows with that number; below zero, it shrinks.
      delta: the scale apart from that number, not negative.
    """

    beta: Float[Array, "*queries"]
    gamma: Float[Array, "*queries"]
    delta: float = static(default=1.0)

    __name__: ClassVar[str] = "asentmax"  # in messages

    def __call__(self, scores: Scores, where: Where = None) -> Weights:
        return over_allowed(self._weigh, scores, where)

    def _weigh(self, scores: Scores) -> Weights:
        lowest = jnp.finfo(scores.dtype).min
        best = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True, initial=lowest))
        # A shift of all scores changes nothing, so that the best may be 0, which no scale moves:
        # it cannot overflow to −inf. What is multiplied must be finite, for 0 · ∞ in the gradient
        # of the scale would be NaN; the product need not be.
        below = jnp.maximum(scores - best, lowest)
        scaled = self._scale(count_allowed(scores)) * below
        return entmax15_weights(jnp.where(scores == -jnp.inf, -jnp.inf, scaled))

    def _scale(self, num_keys: Float[Array, "*lead 1"]) -> Float[Array, "*lead 1"]:
        shape, dtype = num_keys.shape, num_keys.dtype
        beta = beside(self.beta.astype(dtype), "beta", shape)
        gamma = beside(self.gamma.astype(dtype), "gamma", shape)
        # The logarithm of 1 is 0, which has no negative power.
        log_log = jnp.log(jnp.log(jnp.maximum(num_keys, 2)))
        return self.delta + beta * jnp.exp(gamma * log_log)


class ASEntmax(nnx.Module):
    """`entmax15((δ + β (log n)^γ) s)`: for `n` keys, `β` and `γ` of the query (arXiv 2506.16640).

    `β = softplus(q · w_β + b_β)` and `γ = r tanh(q · w_γ + b_γ)`, the `w` and `b` learned for each
    head. `n` is the number of keys that the query may attend to; the authors' code takes
    `log(n + 1)`. The α of entmax is 1.5, as in their experiments.

    Args:
      query_dim: size of a query.
      heads: number of heads.
      delta: `δ`, the scale apart from the number of keys.
      gamma_range: `r`, the greatest power of `log n`.
      rngs: source of initial parameters.

    Raises:
      ValueError: a size is none, such as 0; or an option is negative.
    """

    def __init__(
        self,
        query_dim: int,
        heads: int,
        *,
        delta: float = 1.0,
        gamma_range: float = 2.0,
        rngs: nnx.Rngs,
    ):
        check_size("query_dim", query_dim)
        check_size("heads", heads)
        for name, value in {"delta": delta, "gamma_range": gamma_range}.items():
            if not value >= 0:
                raise ValueError(f"{name}={value}: must be at least 0")
        self.delta = delta
        self.gamma_range = gamma_range
        self.beta_weight = nnx.Param(_projection(rngs.params(), (query_dim, heads)))
        self.beta_bias = nnx.Param(jnp.zeros(heads))
        self.gamma_weight = nnx.Param(_projection(rngs.params(), (query_dim, heads)))
        self.gamma_bias = nnx.Param(jnp.zeros(heads))

    def reading(self, queries: PyTree) -> ScaledEntmax:
        """The normalizer of these queries.

        Args:
          queries: `[*batch, queries, query_dim]`; the leaves of the normalizer are then
            `[*batch, heads, queries]`, for scores `[*batch, heads, queries, keys]`.

        Raises:
          ValueError: the queries are not one array of vectors of `query_dim`.
        """
        beta = _linear(queries, self.beta_weight[...], self.beta_bias[...])
        gamma = _linear(queries, self.gamma_weight[...], self.gamma_bias[...])
        return ScaledEntmax(jax.nn.softplus(beta), self.gamma_range * jnp.tanh(gamma), self.delta)


def _linear(
    queries: PyTree, weight: Float[Array, "query_dim heads"], bias: Float[Array, " heads"]
) -> Float[Array, "*batch heads queries"]:
    if not isinstance(queries, jax.Array) or queries.shape[-1:] != weight.shape[:1]:
        got = getattr(queries, "shape", type(queries).__name__)
        raise ValueError(
            "normalizer='asentmax' reads queries that are an array [..., queries,"
            f" query_dim={weight.shape[0]}], got {got}"
        )
    dtype = accumulator(queries.dtype, weight.dtype)
    queries, weight, bias = (array.astype(dtype) for array in (queries, weight, bias))
    read = jnp.einsum("...qd,dh->...hq", queries, weight)
    return read + beside(bias, "bias", read.shape)
