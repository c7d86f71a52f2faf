"""Problems: attention by a score, as this library is given it and as a person writes it in JAX."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from attention import Additive, InnerProduct, KeyOnly, Pairwise, attend, masks

DIM = 64  # of queries, keys and values
HIDDEN = 64  # hidden units of the score `mlp`
OWN_HIDDEN = 32  # hidden units of the score `own`


@dataclass(frozen=True)
class Problem:
    """Attention by one score.

    Attributes:
      shapes: of the numbers batch, queries and keys: the shape and the standard deviation of
        every array but the values, the queries' array first.
      form: the library's form, of these arrays.
      plain: the context by plain JAX, of these arrays and the values.
      implementations: the names of the implementations of `attend` that serve the form.
      rivals: more contenders in JAX: a name, and the context as `plain` gives it.
      mask: of `attend`.
    """

    shapes: Callable[[int, int, int], list[tuple[tuple[int, ...], float]]]
    form: Callable[..., Any]
    plain: Callable[..., Array]
    implementations: tuple[str, ...]
    rivals: tuple[tuple[str, Callable[..., Array]], ...] = ()
    mask: masks.Mask | None = None

    def attend(self, implementation: Any, *arrays: Array) -> Array:
        """The context by this library; the implementation None is its pick."""
        form = self.form(*arrays[:-1])
        return attend(form, arrays[-1], mask=self.mask, implementation=implementation)


def mlp_plain(queries: Array, keys: Array, readout: Array, values: Array) -> Array:
    """The context of the score `mlp`, by the tanh of every pair and hidden unit."""
    hidden = jnp.tanh(queries[:, :, None] + keys[:, None])
    return jax.nn.softmax(jnp.einsum("bnmh,h->bnm", hidden, readout)) @ values


def dot_plain(queries: Array, keys: Array, values: Array) -> Array:
    """The context of the score `dot`."""
    return jax.nn.softmax(jnp.einsum("bnd,bmd->bnm", queries, keys)) @ values


def dot_kernel(*arrays: Array) -> Array:
    """The context of the score `dot`, by the function that JAX has for it."""
    queries, keys, values = (array[:, :, None] for array in arrays)  # one head
    return jax.nn.dot_product_attention(queries, keys, values, scale=1.0)[:, :, 0]


def own_score(weights: Array, query: Array, key: Array) -> Array:
    """A user's score, of which nothing is known: the squared distance through an MLP."""
    distance = jnp.mean(jnp.square(query - key))
    return jnp.tanh(distance * weights[0] + weights[1]) @ weights[2]


def own_form(queries: Array, keys: Array, weights: Array) -> Pairwise:
    """The form of `own_score`, batched."""
    return jax.vmap(functools.partial(Pairwise, Partial(own_score, weights)))(queries, keys)


def own_plain(queries: Array, keys: Array, weights: Array, values: Array) -> Array:
    """The context of `own_score`, by the score of every pair."""
    over_keys = jax.vmap(functools.partial(own_score, weights), in_axes=(None, 0))
    scores = jax.vmap(jax.vmap(over_keys, in_axes=(0, None)))(queries, keys)
    return jax.nn.softmax(scores) @ values


def pooling_plain(logits: Array, values: Array) -> Array:
    """The context of a score that ignores the query, for a single query."""
    return jax.nn.softmax(logits)[:, None] @ values


def causal_plain(logits: Array, values: Array) -> Array:
    """The contexts of a score that ignores the query, for each key the context up to it."""
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))[..., None]
    return jnp.cumsum(weights * values, axis=1) / jnp.cumsum(weights, axis=1)


PROBLEMS = {
    "mlp": Problem(
        lambda b, n, m: [((b, n, HIDDEN), 1.0), ((b, m, HIDDEN), 1.0), ((HIDDEN,), HIDDEN**-0.5)],
        jax.vmap(Additive, in_axes=(0, 0, None)),
        mlp_plain,
        ("dense", "additive", "streaming"),
    ),
    "dot": Problem(
        lambda b, n, m: [((b, n, DIM), DIM**-0.5), ((b, m, DIM), 1.0)],
        InnerProduct,
        dot_plain,
        ("dense", "inner_product", "streaming"),
        rivals=(("jax.nn.dot_product_attention", dot_kernel),),
    ),
    "own": Problem(
        lambda b, n, m: [
            ((b, n, DIM), 1.0),
            ((b, m, DIM), 1.0),
            ((3, OWN_HIDDEN), OWN_HIDDEN**-0.5),
        ],
        own_form,
        own_plain,
        ("dense", "streaming"),
    ),
    "linear": Problem(
        lambda b, n, m: [((b, m), 1.0)],
        functools.partial(KeyOnly, num_queries=1),
        pooling_plain,
        ("dense", "key_only", "streaming"),
    ),
    "linear, causal": Problem(
        lambda b, n, m: [((b, m), 1.0)],
        lambda logits: KeyOnly(logits, num_queries=logits.shape[-1]),
        causal_plain,
        ("dense", "prefix", "streaming"),
        mask=masks.causal(),
    ),
}


def ignores_query(name: str) -> bool:
    """Whether the first array of a problem has no axis of queries: its score sees keys alone."""
    return name.startswith("linear")
