"""Forms: how the pairs of a score interact, which decides what the score must cost.

A score is one equation on two vectors. Its form is that equation seen over all
queries and keys at once, with as much structure as the score can promise. The four
forms are frozen pytrees. Each is defined for one attention problem and has a dense
reference, `scores()`, of shape `[queries, keys]`; `jax.vmap` adds batch and head axes
in front of every leaf, which is what `attend` takes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.tree_util import Partial, register_dataclass
from jaxtyping import Array, Float, PyTree

Activation = Callable[[Array], Array]


def static(**kwargs: Any) -> Any:
    """A dataclass field that is part of the pytree's structure, not of its data."""
    return field(metadata={"static": True}, **kwargs)


@register_dataclass
@dataclass(frozen=True)
class KeyOnly:
    """Scores that ignore the query: `s_ij = logits_j`. Costs O(keys).

    Attributes:
      logits: one score a key.
      num_queries: how many queries share them.
    """

    logits: Float[Array, "*lead keys"]
    num_queries: int = static()

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

    def scores(self) -> Float[Array, "queries keys"]:
        scores = self.queries @ self.keys.T
        if self.query_bias is not None:
            scores = scores + self.query_bias[:, None]
        if self.key_bias is not None:
            scores = scores + self.key_bias[None, :]
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

    def scores(self) -> Float[Array, "queries keys"]:
        return self.activation(self.queries[:, None, :] + self.keys[None, :, :]) @ self.readout


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

    def scores(self) -> Float[Array, "queries keys"]:
        over_keys = jax.vmap(self._scalar_score, in_axes=(None, 0))
        return jax.vmap(over_keys, in_axes=(0, None))(self.queries, self.keys)

    def _scalar_score(self, query: PyTree, key: PyTree) -> Array:
        score = jnp.asarray(self.score(query, key))
        if score.shape:
            raise ValueError(
                f"a score must return a scalar, shape (), for one query and one key;"
                f" {_name(self.score)} returned shape {score.shape}"
            )
        return score


Form = KeyOnly | InnerProduct | Additive | Pairwise


def form_of(score: Callable[[Any, Any], Array], queries: PyTree, keys: PyTree) -> Form:
    """The form of any score: what its `form` method promises, else `Pairwise`.

    Args:
      score: an `nnx.Module` or a plain function of one query and one key.
      queries: a pytree whose leaves share the leading axis `queries`.
      keys: a pytree whose leaves share the leading axis `keys`.
    """
    if hasattr(score, "form"):
        return score.form(queries, keys)
    if not isinstance(score, nnx.Module | Partial):
        score = Partial(score)  # a pytree without leaves: it may enter a transformation
    return Pairwise(score, queries, keys)


def _name(score: Callable) -> str:
    score = score.func if isinstance(score, Partial) else score
    return getattr(score, "__name__", type(score).__name__)
