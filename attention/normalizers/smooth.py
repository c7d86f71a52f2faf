"""Normalizers under which every allowed key has a weight above zero: softmax and sigmoid.

They are classes, for more is known of them than of a function: by their type an algorithm sees
that keys can be taken tile by tile, or device by device.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from attention.normalizers.contract import Scores, Weights, Where, count_allowed, over_allowed


@dataclass(frozen=True)
class Softmax:
    """`exp(s_j) / Σ exp(s_j)`.

    Contexts of some keys and of others can be merged by the logarithms of their sums: that is
    how `streaming`, `prefix` and `sharded` go through the keys part by part.
    """

    def __call__(self, scores: Scores, where: Where = None) -> Weights:
        return over_allowed(_softmax, scores, where)


@dataclass(frozen=True)
class Sigmoid:
    """`σ(s_j − log n)` for `n` allowed keys (arXiv 2409.04431).

    Each key is weighed by itself: the weights of a row do not sum to one, though thanks to
    `log n` they come near it at scores near zero. So contexts of some keys and of others can be
    added, once `n` is known: `among` takes it from whoever has counted.
    """

    def __call__(self, scores: Scores, where: Where = None) -> Weights:
        return over_allowed(lambda s: self.among(s, count_allowed(s)), scores, where)

    def among(self, scores: Scores, num_keys: Shaped[Array, "*#lead 1"]) -> Weights:
        """`σ(s_j − log n)` with `n` given, for whoever sees a part of the keys; `n = 0` will do."""
        return jax.nn.sigmoid(scores - jnp.log(jnp.maximum(num_keys, 1).astype(scores.dtype)))


@jax.custom_jvp
def _softmax(scores: Scores) -> Weights:
    best = jnp.max(scores, axis=-1, keepdims=True, initial=jnp.finfo(scores.dtype).min)
    terms = jnp.exp(scores - best)
    # The best term is 1, and a sum below 1 is that of no key.
    return terms / jnp.maximum(jnp.sum(terms, axis=-1, keepdims=True), 1)


@_softmax.defjvp
def _softmax_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """`dp_j = p_j (ds_j − (mean of ds, weighted by p))`."""
    (weights,) = map(_softmax, primals)
    (tangent,) = tangents
    mean = jnp.sum(weights * tangent, axis=-1, keepdims=True)
    return weights, weights * (tangent - mean)


softmax = Softmax()
sigmoid = Sigmoid()
