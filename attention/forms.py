"""Forms: how the pairs of a score interact, which decides what the score must cost.

A score is an equation on two vectors. Its form is that equation seen over all
queries and keys at once, with as much structure as the score can promise. The four
forms are frozen pytrees. A form is defined for a single attention problem and has a dense
reference, `scores()`, of shape `[queries, keys]`; `jax.vmap` adds batch and head axes
in front of every leaf, which is what `attend` takes. `per_query` and `per_key` name the
fields that have an axis of queries or keys, by which a form can be cut into tiles.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PyTree

from attention.pytrees import register_dataclass, static

Activation = Callable[[Array], Array]


def accumulator(*dtypes: DTypeLike) -> np.dtype:
    """The dtype in which to add up numbers of these dtypes: float32 at the least."""
    return functools.reduce(np.promote_types, dtypes, np.dtype(np.float32))


@register_dataclass
@dataclass(frozen=True)
class KeyOnly:
    """Scores that ignore the query: `s_ij = logits_j`. Costs O(keys).

    Attributes:
      logits: the score of every key.
      num_queries: how many queries share them.
    """

    logits: Float[Array, "*lead keys"]
    num_queries: int = static()

    per_query: ClassVar = ()
    per_key: ClassVar = ("logits",)

    def scores(self) -> Float[Array, "queries keys"]:
        return jnp.broadcast_to(self.logits, (self.num_queries, *self.logits.shape))


@register_dataclass
@dataclass(frozen=True)
class InnerProduct:
    """Scores that are inner products: `s_ij = queries_i · keys_j + query_bias_i + key_bias_j`.

    Attributes:
      queries: query features.
      keys: key features, as many as the query has.
      query_bias: a term of the query alone, or None. It cancels in a softmax.
      key_bias: a term of the key alone, or None.
    """

    queries: Float[Array, "*lead queries features"]
    keys: Float[Array, "*lead keys features"]
    query_bias: Float[Array, "*lead queries"] | None = None
    key_bias: Float[Array, "*lead keys"] | None = None

    per_query: ClassVar = ("queries", "query_bias")
    per_key: ClassVar = ("keys", "key_bias")

    def scores(self) -> Float[Array, "queries keys"]:
        dtype = accumulator(self.queries.dtype, self.keys.dtype)
        scores = jnp.matmul(self.queries, self.keys.T, preferred_element_type=dtype)
        if self.query_bias is not None:
            scores = scores + self.query_bias[:, None].astype(dtype)
        if self.key_bias is not None:
            scores = scores + self.key_bias[None, :].astype(dtype)
        return scores


@register_dataclass
@dataclass(frozen=True)
class Additive:
    """Scores that are a read-out of hidden units which add query and key.

    `s_ij = Σ_h readout_h · activation(queries_ih + keys_jh)`

    Attributes:
      queries: projected queries.
      keys: projected keys (a bias belongs to either).
      readout: the weight of each hidden unit.
      activation: elementwise, `tanh` for Bahdanau's score.
    """

    queries: Float[Array, "*lead queries hidden"]
    keys: Float[Array, "*lead keys hidden"]
    readout: Float[Array, "*lead hidden"]
    activation: Activation = static(default=jnp.tanh)

    per_query: ClassVar = ("queries",)
    per_key: ClassVar = ("keys",)

    def scores(self) -> Float[Array, "queries keys"]:
        hidden = self.activation(self.queries[:, None, :] + self.keys[None, :, :])
        dtype = accumulator(hidden.dtype)
        return jnp.matmul(hidden, self.readout, preferred_element_type=dtype)


@register_dataclass
@dataclass(frozen=True)
class Pairwise:
    """Scores of which nothing is known: the score itself, for every pair.

    Attributes:
      score: a pytree that maps a query and a key to a scalar.
      queries: a pytree whose leaves share the leading axis `queries`.
      keys: a pytree whose leaves share the leading axis `keys`.
    """

    score: Callable[[Any, Any], Array]
    queries: PyTree
    keys: PyTree

    per_query: ClassVar = ("queries",)
    per_key: ClassVar = ("keys",)

    def scores(self) -> Float[Array, "queries keys"]:
        over_keys = jax.vmap(self._scalar_score, in_axes=(None, 0))
        return jax.vmap(over_keys, in_axes=(0, None))(self.queries, self.keys)

    def _scalar_score(self, query: PyTree, key: PyTree) -> Array:
        returned = self.score(query, key)
        try:
            score = jnp.asarray(returned)
        except (TypeError, ValueError):
            score = None
        if score is None or score.shape:
            what = repr(returned) if score is None else f"shape {score.shape}"
            raise ValueError(
                f"a score must return a scalar, shape (), for one query and one key;"
                f" {name_of(self.score)} returned {what}"
            )
        return score


Form = KeyOnly | InnerProduct | Additive | Pairwise


def size_of(form: Form, lead: int) -> tuple[int, int]:
    """The number of queries, and the number of keys, of a form with `lead` leading axes."""
    if isinstance(form, KeyOnly):
        return form.num_queries, form.logits.shape[lead]
    return tuple(jax.tree.leaves(side)[0].shape[lead] for side in (form.queries, form.keys))


def num_leading_axes(form: Form) -> int:
    """How many axes of a form's arrays precede the axis of queries or keys.

    Raises:
      ValueError: the queries are a pytree of several arrays, which does not show it.
    """
    if isinstance(form, KeyOnly):
        return form.logits.ndim - 1
    if not isinstance(form.queries, jax.Array):
        raise ValueError(
            "how many leading axes a form has does not show where its queries are a"
            f" {type(form.queries).__name__}: pass lead="
        )
    return form.queries.ndim - 2


def form_of(score: Callable[[Any, Any], Array], queries: PyTree, keys: PyTree) -> Form:
    """The form of any score: what its `form` method promises, else `Pairwise`.

    Args:
      score: an `nnx.Module` or a plain function of a single query and a single key.
      queries: a pytree whose leaves share the leading axis `queries`.
      keys: a pytree whose leaves share the leading axis `keys`.
    """
    if hasattr(score, "form"):
        return score.form(queries, keys)
    query, key = jax.tree.map(lambda leaf: leaf[0], (queries, keys))
    return Pairwise(as_pytree(score, query, key), queries, keys)


@register_dataclass
@dataclass(frozen=True)
class Closure:
    """A plain function, and the arrays that it has closed over."""

    function: Callable[..., Any] = static()
    arrays: list[Array]
    name: str = static()

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments, *self.arrays)


def as_pytree(function: Callable[..., Any], *examples: Any) -> Callable[..., Any]:
    """A function that may enter a transformation with all that it depends on.

    Args:
      function: a pytree, such as a module, which is returned; or a plain function.
      examples: arguments with the shapes and dtypes of all those that it will get.
    """
    if not jax.tree_util.all_leaves([function]):
        return function
    return Closure(*jax.closure_convert(function, *examples), name_of(function))


def name_of(function: Callable[..., Any]) -> str:
    """The name that a function's author gave it, or else the name of its type."""
    if isinstance(function, Closure):
        return function.name
    return getattr(function, "__name__", type(function).__name__)
