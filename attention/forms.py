"""Forms: how the pairs of a score interact, which decides what the score must cost.

A score is an equation on two vectors. Its form is that equation seen over all
queries and keys at once, with as much structure as the score can promise. The five
forms are frozen pytrees. A form is defined for a single attention problem and has a dense
reference, `scores()`, of shape `[queries, keys]`; `jax.vmap` adds batch and head axes
in front of every leaf, which is what `attend` takes. `per_query` and `per_key` name the
fields that have an axis of queries or keys, by which a form can be cut into tiles.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import TraceContextError
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PyTree

from attention.centers import center_of
from attention.pytrees import register_dataclass, static

Activation = Callable[[Array], Array]


def accumulator(*dtypes: DTypeLike) -> np.dtype:
    """The dtype in which to add up numbers of these dtypes: float32 at the least.

    Integers and booleans count as float32, of whatever width.
    """
    inexact = [dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.inexact)]
    return functools.reduce(np.promote_types, inexact, np.dtype(np.float32))


def product(left: Array, right: Array) -> Array:
    """`left @ right`, added up and returned in the accumulator of both."""
    dtype = accumulator(left.dtype, right.dtype)
    if left.dtype != right.dtype or not jnp.issubdtype(left.dtype, jnp.inexact):
        left, right = left.astype(dtype), right.astype(dtype)
    return jnp.matmul(left, right, preferred_element_type=dtype)


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
        logits = self.logits.astype(accumulator(self.logits.dtype))
        return jnp.broadcast_to(logits, (self.num_queries, *logits.shape))


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
        scores = product(self.queries, self.keys.T)
        if self.query_bias is not None:
            scores = scores + self.query_bias[:, None].astype(scores.dtype)
        if self.key_bias is not None:
            scores = scores + self.key_bias[None, :].astype(scores.dtype)
        return scores


@register_dataclass
@dataclass(frozen=True)
class SquaredDistance:
    """Scores that fall with the distance: `s_ij = −gamma ‖queries_i − keys_j‖²`.

    Attributes:
      queries: the points of the queries.
      keys: the points of the keys, of as many features.
      gamma: by which all squared distances are multiplied.
    """

    queries: Float[Array, "*lead queries features"]
    keys: Float[Array, "*lead keys features"]
    gamma: Float[Array, "*lead"]

    per_query: ClassVar = ("queries",)
    per_key: ClassVar = ("keys",)

    def scores(self) -> Float[Array, "queries keys"]:
        """The scores by differences: exact wherever the points are, however far apart.

        The features are added one after another, so that neither the scores nor their gradients
        take memory of `[queries, keys, features]`.
        """
        queries, keys, gamma = self._accumulated()

        @functools.partial(jax.checkpoint, prevent_cse=False)
        def add(squares: Array, feature: tuple[Array, Array]) -> tuple[Array, None]:
            query, key = feature
            difference = query[:, None] - key[None, :]
            return squares + difference * difference, None

        nothing = jnp.zeros((queries.shape[0], keys.shape[0]), queries.dtype)
        return -gamma * lax.scan(add, nothing, (queries.T, keys.T))[0]

    def centered(self, reachable: Bool[Array, "*#lead keys"] | None) -> InnerProduct:
        """The same scores as inner products, of points as seen from the midst of the keys.

        Distances do not mind a shift, but digits do: the terms of an inner product are as large as
        the points are far from the center.

        Args:
          reachable: the keys that some query may attend to; None for all. What the others hold,
            be it NaN, reaches neither scores nor gradients: they are moved to the center.
        """
        queries, keys, gamma = self._accumulated()
        if reachable is None:
            reachable = jnp.ones(keys.shape[-2], bool)
        reachable = jnp.broadcast_to(reachable, keys.shape[:-1])
        center = center_of(lax.stop_gradient(keys), reachable)  # the scores do not depend on it
        queries, keys = queries - center, jnp.where(reachable[..., None], keys - center, 0)
        return InnerProduct(
            2 * gamma[..., None, None] * queries,
            keys,
            query_bias=-gamma[..., None] * jnp.sum(queries * queries, axis=-1),
            key_bias=-gamma[..., None] * jnp.sum(keys * keys, axis=-1),
        )

    def _accumulated(self) -> tuple[Array, Array, Array]:
        """The arrays in the dtype of the scores: a square of float16 overflows beyond 255."""
        arrays = self.queries, self.keys, self.gamma
        dtype = accumulator(*(array.dtype for array in arrays))
        queries, keys, gamma = (array.astype(dtype) for array in arrays)
        return queries, keys, gamma


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
        dtype = accumulator(self.queries.dtype, self.keys.dtype)
        queries, keys = self.queries.astype(dtype), self.keys.astype(dtype)
        return product(self.activation(queries[:, None, :] + keys[None, :, :]), self.readout)


@register_dataclass
@dataclass(frozen=True)
class Pairwise:
    """Scores of which nothing is known: the score itself, for every pair.

    Attributes:
      score: a pytree that maps a query and a key to a scalar. Integers are served as float32.
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
        with _refusing_effects(self.score):
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
        return score.astype(accumulator(score.dtype))


Form = KeyOnly | InnerProduct | SquaredDistance | Additive | Pairwise


def size_of(form: Form, lead: int) -> tuple[int, int]:
    """The number of queries, and the number of keys, of a form with `lead` leading axes."""
    if isinstance(form, KeyOnly):
        return form.num_queries, form.logits.shape[lead]
    return tuple(jax.tree.leaves(side)[0].shape[lead] for side in (form.queries, form.keys))


def by_key(form: Form) -> dict[str, PyTree]:
    """The parts of a form that have an entry for each key, by their names."""
    return {name: getattr(form, name) for name in form.per_key}


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
        form = score.form(queries, keys)
        return form if isinstance(form, Pairwise) else jax.tree.map(_floating, form)
    # Not the first of them: there may be none.
    query, key = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), (queries, keys))
    with _refusing_effects(score):
        return Pairwise(as_pytree(score, query, key), queries, keys)


def _floating(array: Array) -> Array:
    """An array of integers as float32: so are scores of integers served by every form."""
    inexact = jnp.issubdtype(array.dtype, jnp.inexact)
    return array if inexact else array.astype(accumulator(array.dtype))


@contextlib.contextmanager
def _refusing_effects(score: Callable[..., Any]) -> Iterator[None]:
    """Says in words that a score changes more than it returns, where Flax refuses it.

    Raises:
      ValueError: the score sows, counts, or advances random numbers.
    """
    try:
        yield
    except TraceContextError as error:
        cause = str(error).partition(" from ")[0]
        raise ValueError(
            f"the score {name_of(score)} changes something as it is called ({cause}), but it is"
            " traced for all pairs at once: it may neither sow nor count nor draw random numbers;"
            " dropout of the weights is dropout_rate= of the layer"
        ) from None


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
