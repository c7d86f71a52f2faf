"""Scores: equations on two vectors.

A score says how well a key answers a query. It is an `nnx.Module` made by
`Score(query_dim, key_dim, *, rngs, **options)` and called on *single* vectors;
everything else (all pairs, heads, batches) follows by `jax.vmap`. A score that can
promise structure overrides `form`, and is then served by a cheaper algorithm; the two
must agree, which a test checks for every score there is. Where a class derived from such a
score has another equation, it promises nothing until it overrides `form` again.

Write a score in row form, `query @ W`, not `W @ query`: under `vmap` the row form
becomes a single matrix product over all queries, and the projection is done once for
every query instead of once for every pair.

Scores are float32 at the least: sums, squares and norms of vectors in half precision are taken in
float32. The features of inner products keep the dtype of the vectors, which a platform's kernel
may ask for.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PyTree

from attention.forms import (
    Additive,
    Form,
    InnerProduct,
    KeyOnly,
    Pairwise,
    SquaredDistance,
    accumulator,
    product,
)
from attention.names import find_named
from attention.promises import promises
from attention.sizes import check_size

# Rows of length d keep the variance of what they are multiplied with.
_projection = jax.nn.initializers.lecun_normal()


class Score(nnx.Module):
    """A score function `score(query, key) -> scalar` on two single vectors."""

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        # Another equation does not have the structure that the one before it promised.
        if not promises(cls, "form"):
            cls.form = Score.form  # type: ignore[method-assign]

    def __call__(self, query: PyTree, key: PyTree) -> Float[Array, ""]:
        raise NotImplementedError(f"{type(self).__name__} must define __call__(query, key)")

    def form(self, queries: PyTree, keys: PyTree) -> Form:
        """The scores of all pairs, with the structure this score promises (none, by default)."""
        return Pairwise(self, queries, keys)


class Uniform(Score):
    """`0`: every key weighs the same, and the context is the mean. What others must beat."""

    def __init__(self, query_dim: int, key_dim: int, *, rngs: nnx.Rngs):
        del query_dim, key_dim, rngs  # nothing is learned

    def __call__(
        self, query: Float[Array, " query_dim"], key: Float[Array, " key_dim"]
    ) -> Float[Array, ""]:
        return jnp.zeros((), accumulator(key.dtype))

    def form(
        self, queries: Float[Array, "queries query_dim"], keys: Float[Array, "keys key_dim"]
    ) -> KeyOnly:
        logits = jnp.zeros(keys.shape[0], accumulator(keys.dtype))
        return KeyOnly(logits, num_queries=queries.shape[0])


class Linear(Score):
    """`wᵀk`: the tutorial's score. It ignores the query, so every query gets the same weights."""

    def __init__(self, query_dim: int, key_dim: int, *, rngs: nnx.Rngs):
        del query_dim  # the query plays no part
        self.weight = nnx.Param(_projection(rngs.params(), (key_dim, 1))[:, 0])

    def __call__(
        self, query: Float[Array, " query_dim"], key: Float[Array, " key_dim"]
    ) -> Float[Array, ""]:
        return product(key, self.weight[...])

    def form(
        self, queries: Float[Array, "queries query_dim"], keys: Float[Array, "keys key_dim"]
    ) -> KeyOnly:
        return KeyOnly(product(keys, self.weight[...]), num_queries=queries.shape[0])


class MLPPooling(Score):
    """`vᵀ tanh(k W + b)`: pooling by a network that ignores the query (arXiv 1802.04712).

    Args:
      hidden: number of hidden units.

    Raises:
      ValueError: the number of hidden units is no size, such as 0.
    """

    def __init__(self, query_dim: int, key_dim: int, *, hidden: int = 64, rngs: nnx.Rngs):
        del query_dim  # the query plays no part
        check_size("hidden", hidden)
        self.key_weight = nnx.Param(_projection(rngs.params(), (key_dim, hidden)))
        self.bias = nnx.Param(jnp.zeros(hidden))
        self.readout = nnx.Param(_projection(rngs.params(), (hidden, 1))[:, 0])

    def __call__(
        self, query: Float[Array, " query_dim"], key: Float[Array, " key_dim"]
    ) -> Float[Array, ""]:
        hidden = _sum(product(key, self.key_weight[...]), self.bias[...])
        return product(jnp.tanh(hidden), self.readout[...])

    def form(
        self, queries: Float[Array, "queries query_dim"], keys: Float[Array, "keys key_dim"]
    ) -> KeyOnly:
        hidden = _sum(product(keys, self.key_weight[...]), self.bias[...][None, :])
        logits = product(jnp.tanh(hidden), self.readout[...])
        return KeyOnly(logits, num_queries=queries.shape[0])


class MLP(Score):
    """`vᵀ tanh(q W_q + k W_k + b)`: additive attention (Bahdanau et al., arXiv 1409.0473).

    Args:
      hidden: number of hidden units.

    Raises:
      ValueError: the number of hidden units is no size, such as 0.
    """

    def __init__(self, query_dim: int, key_dim: int, *, hidden: int = 64, rngs: nnx.Rngs):
        check_size("hidden", hidden)
        self.query_weight = nnx.Param(_projection(rngs.params(), (query_dim, hidden)))
        self.key_weight = nnx.Param(_projection(rngs.params(), (key_dim, hidden)))
        self.bias = nnx.Param(jnp.zeros(hidden))
        self.readout = nnx.Param(_projection(rngs.params(), (hidden, 1))[:, 0])

    def __call__(
        self, query: Float[Array, " query_dim"], key: Float[Array, " key_dim"]
    ) -> Float[Array, ""]:
        return product(jnp.tanh(self._hidden(query, key)), self.readout[...])

    def form(
        self, queries: Float[Array, "queries query_dim"], keys: Float[Array, "keys key_dim"]
    ) -> Additive:
        keys = product(keys, self.key_weight[...])
        return Additive(
            product(queries, self.query_weight[...]),
            _sum(keys, self.bias[...][None, :]),
            self.readout[...].astype(keys.dtype),
        )

    def _hidden(
        self, query: Float[Array, " query_dim"], key: Float[Array, " key_dim"]
    ) -> Float[Array, " hidden"]:
        query, key = product(query, self.query_weight[...]), product(key, self.key_weight[...])
        return _sum(query, key, self.bias[...])


class GATv2(MLP):
    """`vᵀ leaky_relu(q W_q + k W_k + b)`: dynamic graph attention (arXiv 2105.14491)."""

    def __call__(
        self, query: Float[Array, " query_dim"], key: Float[Array, " key_dim"]
    ) -> Float[Array, ""]:
        return product(_leaky_relu(self._hidden(query, key)), self.readout[...])

    def form(
        self, queries: Float[Array, "queries query_dim"], keys: Float[Array, "keys key_dim"]
    ) -> Additive:
        return replace(super().form(queries, keys), activation=_leaky_relu)


class Bilinear(Score):
    """`qᵀ W k`: the general score (Luong et al., arXiv 1508.04025)."""

    def __init__(self, query_dim: int, key_dim: int, *, rngs: nnx.Rngs):
        self.weight = nnx.Param(_projection(rngs.params(), (query_dim, key_dim)))

    def __call__(
        self, query: Float[Array, " query_dim"], key: Float[Array, " key_dim"]
    ) -> Float[Array, ""]:
        return product(_project(query, self.weight[...]), key)

    def form(
        self, queries: Float[Array, "queries query_dim"], keys: Float[Array, "keys key_dim"]
    ) -> InnerProduct:
        return InnerProduct(_project(queries, self.weight[...]), keys)


class Dot(Score):
    """`qᵀk` (Luong et al., arXiv 1508.04025). Query and key must have the same size."""

    def __init__(self, query_dim: int, key_dim: int, *, rngs: nnx.Rngs):
        del rngs  # no parameters
        _require_same_size(type(self).__name__, query_dim, key_dim)

    def __call__(self, query: Float[Array, " dim"], key: Float[Array, " dim"]) -> Float[Array, ""]:
        return product(query, key)

    def form(
        self, queries: Float[Array, "queries dim"], keys: Float[Array, "keys dim"]
    ) -> InnerProduct:
        return InnerProduct(queries, keys)


class ScaledDot(Dot):
    """`qᵀk / √dim` (Vaswani et al., arXiv 1706.03762)."""

    def __call__(self, query: Float[Array, " dim"], key: Float[Array, " dim"]) -> Float[Array, ""]:
        return product(query / query.shape[-1] ** 0.5, key)

    def form(
        self, queries: Float[Array, "queries dim"], keys: Float[Array, "keys dim"]
    ) -> InnerProduct:
        return InnerProduct(queries / queries.shape[-1] ** 0.5, keys)


class Cosine(Score):
    """`β qᵀk / ‖q‖‖k‖` with a learned sharpness β (Graves et al., arXiv 1410.5401).

    A zero vector has cosine zero, and gradient zero, with everything.

    Args:
      sharpness: β at the start. The score never leaves ±β, so with a small β it cannot select.
    """

    def __init__(self, query_dim: int, key_dim: int, *, sharpness: float = 8.0, rngs: nnx.Rngs):
        del rngs  # nothing random
        _require_same_size("Cosine", query_dim, key_dim)
        self.sharpness = nnx.Param(jnp.asarray(sharpness, jnp.float32))

    def __call__(self, query: Float[Array, " dim"], key: Float[Array, " dim"]) -> Float[Array, ""]:
        cosine = product(_unit(query), _unit(key))
        return self.sharpness[...].astype(cosine.dtype) * cosine

    def form(
        self, queries: Float[Array, "queries dim"], keys: Float[Array, "keys dim"]
    ) -> InnerProduct:
        units, sharpness = _unit(queries), self.sharpness[...]
        return InnerProduct(
            _rounded(sharpness.astype(units.dtype) * units, queries, sharpness),
            _rounded(_unit(keys), keys),
        )


class RBF(Score):
    """`−γ ‖q − k‖²` with a learned γ > 0: under a softmax, kernel regression (Nadaraya, 1964).

    Args:
      gamma: γ at the start; its logarithm is learned.
    """

    def __init__(self, query_dim: int, key_dim: int, *, gamma: float = 0.5, rngs: nnx.Rngs):
        del rngs  # nothing random
        _require_same_size("RBF", query_dim, key_dim)
        if gamma <= 0:
            raise ValueError(f"gamma={gamma}: must be positive")
        self.log_gamma = nnx.Param(jnp.asarray(math.log(gamma), jnp.float32))

    def __call__(self, query: Float[Array, " dim"], key: Float[Array, " dim"]) -> Float[Array, ""]:
        dtype = accumulator(query.dtype, key.dtype)
        difference = query.astype(dtype) - key.astype(dtype)
        return -self._gamma().astype(dtype) * (difference @ difference)

    def form(
        self, queries: Float[Array, "queries dim"], keys: Float[Array, "keys dim"]
    ) -> SquaredDistance:
        return SquaredDistance(queries, keys, self._gamma())

    def _gamma(self) -> Float[Array, ""]:
        log_gamma = self.log_gamma[...]
        return jnp.exp(log_gamma.astype(accumulator(log_gamma.dtype)))


class Trilinear(Score):
    """`q w_q + k w_k + (q ∘ k) w`: the score of BiDAF (Seo et al., arXiv 1611.01603)."""

    def __init__(self, query_dim: int, key_dim: int, *, rngs: nnx.Rngs):
        _require_same_size("Trilinear", query_dim, key_dim)
        self.query_weight = nnx.Param(_projection(rngs.params(), (query_dim, 1))[:, 0])
        self.key_weight = nnx.Param(_projection(rngs.params(), (key_dim, 1))[:, 0])
        self.weight = nnx.Param(_projection(rngs.params(), (key_dim, 1))[:, 0])

    def __call__(self, query: Float[Array, " dim"], key: Float[Array, " dim"]) -> Float[Array, ""]:
        return _sum(
            product(query, self.query_weight[...]),
            product(key, self.key_weight[...]),
            product(_scaled(query, self.weight[...]), key),
        )

    def form(
        self, queries: Float[Array, "queries dim"], keys: Float[Array, "keys dim"]
    ) -> InnerProduct:
        return InnerProduct(
            _scaled(queries, self.weight[...][None, :]),
            keys,
            query_bias=product(queries, self.query_weight[...]),
            key_bias=product(keys, self.key_weight[...]),
        )


SCORES: dict[str, type[Score]] = {
    "uniform": Uniform,
    "linear": Linear,
    "mlp_pooling": MLPPooling,
    "mlp": MLP,
    "gatv2": GATv2,
    "bilinear": Bilinear,
    "dot": Dot,
    "scaled_dot": ScaledDot,
    "cosine": Cosine,
    "rbf": RBF,
    "trilinear": Trilinear,
}


def find_score(name: str) -> Callable[..., Any]:
    """The score class, or plain score function, of a name.

    Args:
      name: a key of `SCORES`, or the dotted path of a user's own score, `my_lab.scores:MyScore`.

    Raises:
      ValueError: there is no such score; the message lists the choices.
    """
    score = find_named("score", SCORES, name)
    if not callable(score):
        raise ValueError(f"score {name!r} is a {type(score).__name__}, not a class or function")
    return score


def check_score(score: Callable[..., Any]) -> None:
    """Refuses a score with a state that calls change, such as that of dropout.

    What shows only in a call, such as sowing, is refused there.

    Raises:
      ValueError: the score, or a module in it, keeps random state or running statistics.
    """
    variables = jax.tree.leaves_with_path(score, is_leaf=lambda x: isinstance(x, nnx.Variable))
    for path, variable in variables:
        for kind, (what, remedy) in _STATES.items():
            if isinstance(variable, kind):
                where = jax.tree_util.keystr(path, simple=True, separator=".")
                raise ValueError(
                    f"the score {type(score).__name__} holds {what}, {where}"
                    f" ({type(variable).__name__}), but a score changes nothing as it is called:"
                    f" it is traced for all pairs at once; {remedy}"
                )


# What a variable of Flax says about its module, and what serves instead of that module.
_STATES: dict[type, tuple[str, str]] = {
    nnx.RngState: ("random state", "dropout of the weights is dropout_rate= of the layer"),
    nnx.BatchStat: ("running statistics", "nnx.LayerNorm and nnx.RMSNorm need none"),
}


def _leaky_relu(hidden: Float[Array, "*lead hidden"]) -> Float[Array, "*lead hidden"]:
    return jax.nn.leaky_relu(hidden, negative_slope=0.2)


def _unit(vectors: Float[Array, "*lead dim"]) -> Float[Array, "*lead dim"]:
    """Vectors of length 1, or zero, in float32 at the least."""
    vectors = vectors.astype(accumulator(vectors.dtype))
    # The largest entry as the unit of length: squares neither overflow nor vanish. It cancels.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(vectors), axis=-1, keepdims=True))
    vectors = vectors / jnp.where(largest == 0, 1.0, largest)
    squares = jnp.sum(vectors * vectors, axis=-1, keepdims=True)
    # The inner `where` keeps the root away from zero, where its derivative is infinite.
    is_zero = squares == 0
    return jnp.where(is_zero, 0.0, vectors * jax.lax.rsqrt(jnp.where(is_zero, 1.0, squares)))


def _sum(*terms: Float[Array, "..."]) -> Float[Array, "..."]:
    """The sum of terms, in their accumulator."""
    dtype = accumulator(*(term.dtype for term in terms))
    first, *others = (term.astype(dtype) for term in terms)
    return sum(others, first)


def _project(vectors: Array, weight: Array) -> Array:
    return _rounded(product(vectors, weight), vectors, weight)


def _scaled(vectors: Array, weight: Array) -> Array:
    dtype = accumulator(vectors.dtype, weight.dtype)
    return _rounded(vectors.astype(dtype) * weight.astype(dtype), vectors, weight)


def _rounded(features: Array, *sources: Array) -> Array:
    """In half precision, where all that the features were made of is in that precision."""
    dtypes = {source.dtype for source in sources}
    halves = {jnp.dtype(jnp.float16), jnp.dtype(jnp.bfloat16)}
    return features.astype(dtypes.pop()) if len(dtypes) == 1 and dtypes <= halves else features


def _require_same_size(name: str, query_dim: int, key_dim: int) -> None:
    if query_dim != key_dim:
        raise ValueError(f"{name} needs query_dim == key_dim, got {query_dim} and {key_dim}")
