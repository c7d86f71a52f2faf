"""Problems: attention by a score, as this library is given it and as a person writes it in JAX."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial

from attention import Additive, InnerProduct, KeyOnly, Pairwise, attend, masks
from attention.dropout import Dropout
from attention.score_mods import SoftCap

DIM = 64  # of queries, keys and values
HIDDEN = 64  # hidden units of the score `mlp`
OWN_HIDDEN = 32  # hidden units of the score `own`
DROPOUT_RATE = 0.1  # of the weights
CAP = 2.0  # of the scores, where they are capped

Given = dict[str, Any]  # what a problem has beside its arrays, by names; none of it has a gradient
BY_QUERY = ("rows", "bias", "mask")  # those whose first axis is that of the queries


def nothing(random: np.random.Generator, queries: int, keys: int) -> Given:
    """Nothing beside the arrays."""
    return {}


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
      given: of random numbers and the numbers of queries and keys: more arguments of `plain` and
        `attend`. Among them may be `rows`, the indices of the queries, which `plain` alone gets.
      settings: arguments of `attend` without arrays.
    """

    shapes: Callable[[int, int, int], list[tuple[tuple[int, ...], float]]]
    form: Callable[..., Any]
    plain: Callable[..., Array]
    implementations: tuple[str, ...]
    rivals: tuple[tuple[str, Callable[..., Array]], ...] = ()
    given: Callable[[np.random.Generator, int, int], Given] = nothing
    settings: Mapping[str, Any] = field(default_factory=dict)

    def attend(self, implementation: Any, *arrays: Array, **given: Any) -> Array:
        """The context by this library; the implementation None is its pick."""
        form = self.form(*arrays[:-1])
        arguments = {**self.settings, **given}
        arguments.pop("rows", None)
        if "words" in arguments:
            arguments["dropout"] = Dropout(arguments.pop("words"), DROPOUT_RATE)
        return attend(form, arrays[-1], **arguments, implementation=implementation)


def mlp_plain(queries: Array, keys: Array, readout: Array, values: Array, **given: Any) -> Array:
    """The context of the score `mlp`, by the tanh of every pair and hidden unit."""
    hidden = jnp.tanh(queries[:, :, None] + keys[:, None])
    return mix_plain(jnp.einsum("bnmh,h->bnm", hidden, readout), values, **given)


def dot_plain(queries: Array, keys: Array, values: Array, **given: Any) -> Array:
    """The context of the score `dot`."""
    return mix_plain(jnp.einsum("bnd,bmd->bnm", queries, keys), values, **given)


def mix_plain(
    scores: Array,
    values: Array,
    *,
    rows: Array | None = None,
    bias: Array | None = None,
    cap: float | None = None,
    mask: Array | None = None,
    words: Array | None = None,
) -> Array:
    """The context of scores `[batch, queries, keys]`, all of them at once."""
    columns = jnp.arange(scores.shape[-1], dtype=jnp.int32)
    if bias is not None:
        scores = scores + bias
    if cap is not None:
        scores = cap * jnp.tanh(scores / cap)
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    weights = jax.nn.softmax(scores)
    if words is not None:  # what the library drops, for other draws could not be compared
        assert rows is not None
        factors = Dropout(words, DROPOUT_RATE).factors(scores.shape[:1], rows, columns)
        weights = weights * factors.astype(weights.dtype)
    return weights @ values


def causal_dot_plain(*arrays: Array, rows: Array) -> Array:
    """The context of the score `dot`, each query over the keys up to its own index."""
    columns = jnp.arange(arrays[-1].shape[1], dtype=jnp.int32)
    return dot_plain(*arrays, mask=columns <= rows[:, None])


def with_rows(random: np.random.Generator, queries: int, keys: int) -> Given:
    """The indices of the queries."""
    return {"rows": jnp.arange(queries, dtype=jnp.int32)}


def with_bias(random: np.random.Generator, queries: int, keys: int) -> Given:
    """A bias array of all pairs, which is not learned: its gradient would be as large."""
    return {"bias": jnp.asarray(random.standard_normal((queries, keys), np.float32))}


def with_mask(random: np.random.Generator, queries: int, keys: int) -> Given:
    """An array mask of all pairs, half of them allowed; the first key by every query."""
    return {"mask": jnp.asarray(random.random((queries, keys)) < 0.5).at[:, 0].set(True)}


def with_dropout(random: np.random.Generator, queries: int, keys: int) -> Given:
    """Dropout of the weights: the random words that say which."""
    words = jnp.asarray(random.integers(2**32, size=2, dtype=np.uint32))
    return {"words": words, **with_rows(random, queries, keys)}


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
        settings={"mask": masks.causal()},
    ),
}


def changed(name: str, *without: str, **changes: Any) -> Problem:
    """A problem with changes, and without these of its implementations."""
    problem = PROBLEMS[name]
    served = tuple(each for each in problem.implementations if each not in without)
    return replace(problem, rivals=(), implementations=served, **changes)


# What else is asked of the pairs, in the way that takes an array of all of them or a draw for each.
PROBLEMS |= {
    "dot_bias": changed("dot", given=with_bias),
    "dot_mask": changed("dot", given=with_mask),
    "dot_dropout": changed("dot", "inner_product", given=with_dropout),
    "dot_causal": changed(
        "dot", plain=causal_dot_plain, given=with_rows, settings={"mask": masks.causal()}
    ),
    "dot_softcap": changed(
        "dot",
        "inner_product",
        plain=functools.partial(dot_plain, cap=CAP),
        settings={"score_mod": SoftCap(CAP)},
    ),
    "mlp_bias": changed("mlp", given=with_bias),
    "mlp_mask": changed("mlp", given=with_mask),
    "mlp_dropout": changed("mlp", given=with_dropout),
}


def ignores_query(name: str) -> bool:
    """Whether the first array of a problem has no axis of queries: its score sees keys alone."""
    return name.startswith("linear")
