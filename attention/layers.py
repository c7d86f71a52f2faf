"""`Attention`: the layer that holds the scores of its heads."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.tree_util import Partial
from jaxtyping import Array, Float, PyTree

from attention.algorithms import dense
from attention.attend import attend, attend_sharded, attend_with_weights
from attention.biases import Bias
from attention.forms import Form, form_of, name_of
from attention.masks import Mask
from attention.normalizers import Normalizer
from attention.sizes import check_size
from attention.weight_statistics import Statistics, statistics


class Attention(nnx.Module):
    """Multi-head attention with any score.

    Each head owns the parameters of its score and sees the full query and key vectors;
    the values are split over the heads, and the heads' contexts are concatenated. The
    layer projects nothing: that is the score's affair, or its user's.

    Args:
      score: a score class, made once a head by
        `score(query_dim, key_dim, rngs=…, **options)`, or a plain function
        `score(query, key, **options)` of a single query and a single key, which every head shares.
      query_dim: size of a query.
      key_dim: size of a key.
      heads: number of heads; it must divide the size of the values.
      normalizer: from scores to weights: a name in `attention.normalizers`, a normalizer of that
        module, or the user's own function `(scores, where) -> weights`.
      bias: what positions add to the scores: a class of `attention.biases`, or the user's own
        class, made by `bias(heads, rngs=…)`.
      implementation: name of the algorithm, see `attention.attend`; None picks.
      rngs: source of the score's initial parameters.
      **options: passed on to the score class or function.

    Raises:
      ValueError: a size is below 1, or the score or its options are refused.
    """

    def __init__(
        self,
        score: Callable[..., Any],
        query_dim: int,
        key_dim: int,
        *,
        heads: int = 1,
        normalizer: str | Normalizer = "softmax",
        bias: Callable[..., Bias] | None = None,
        implementation: str | None = None,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        check_size("heads", heads)
        if isinstance(score, nnx.Module):
            raise ValueError(
                f"score is an instance of {type(score).__name__}; pass the class, so that each"
                " head can make its own"
            )
        self.heads = heads
        self.normalizer = normalizer
        self.implementation = implementation
        self.bias = None if bias is None else nnx.data(bias(heads, rngs=rngs))
        self.shares_score = not isinstance(score, type)
        if self.shares_score:
            self.score = nnx.data(Partial(_with_options(score, options) if options else score))
        else:
            check_size("query_dim", query_dim)
            check_size("key_dim", key_dim)
            # The heads' scores are one module whose parameters have a leading head axis.
            self.score = jax.vmap(
                lambda key: score(query_dim, key_dim, rngs=nnx.Rngs(key), **options)
            )(jax.random.split(rngs.params(), heads))

    def __call__(
        self,
        queries: PyTree,
        keys: PyTree,
        values: Float[Array, "*batch keys value_dim"] | None = None,
        *,
        mask: Mask | None = None,
    ) -> Float[Array, "*batch queries value_dim"]:
        """The context of every query.

        Args:
          queries: `[*batch, queries, query_dim]`, or `[queries, query_dim]` where all
            batch elements ask the same.
          keys: `[*batch, keys, key_dim]`. Queries and keys may also be pytrees of arrays
            that all have the batch axes, for scores that take them apart.
          values: what is mixed; the keys themselves where not given.
          mask: which query may attend to which key.
        """
        form, values = self._form_and_values(queries, keys, values)
        context = attend(
            form,
            values,
            mask=mask,
            bias=self.bias,
            normalizer=self.normalizer,
            implementation=self.implementation,
        )
        return _join_heads(context)

    def sharded(
        self,
        queries: PyTree,
        keys: PyTree,
        values: Float[Array, "*batch keys value_dim"] | None = None,
        *,
        mesh: Mesh,
        axis: str,
        mask: Mask | None = None,
    ) -> Float[Array, "*batch queries value_dim"]:
        """The context of every query, keys and values in equal shares along a mesh axis.

        Args:
          queries: as in a call of the layer.
          keys: as in a call of the layer.
          values: as in a call of the layer.
          mesh: of devices.
          axis: the name of the mesh axis for the keys, see `attend_sharded`.
          mask: which query may attend to which key, by their indices among all.
        """
        form, values = self._form_and_values(queries, keys, values)
        context = attend_sharded(
            form,
            values,
            mesh=mesh,
            axis=axis,
            mask=mask,
            bias=self.bias,
            normalizer=self.normalizer,
        )
        return _join_heads(context)

    def with_weights(
        self,
        queries: PyTree,
        keys: PyTree,
        values: Float[Array, "*batch keys value_dim"] | None = None,
        *,
        mask: Mask | None = None,
    ) -> tuple[Float[Array, "*batch queries value_dim"], Float[Array, "*batch heads queries keys"]]:
        """The context of every query, and the weights of every head over the keys."""
        form, values = self._form_and_values(queries, keys, values)
        context, weights = attend_with_weights(
            form, values, mask=mask, bias=self.bias, normalizer=self.normalizer
        )
        return _join_heads(context), weights

    def scores(
        self, queries: PyTree, keys: Float[Array, "*batch keys key_dim"]
    ) -> Float[Array, "*batch heads queries keys"]:
        """The scores of every head, without mask or bias: for decoders that add to the scores."""
        form, values = self._form_and_values(queries, keys, None)
        lead = values.shape[:-2]
        scores = dense.scores(dense.collapse(form, lead))
        return scores.reshape(*lead, *scores.shape[1:])

    def context(
        self,
        weights: Float[Array, "*batch heads queries keys"],
        values: Float[Array, "*batch keys value_dim"],
    ) -> Float[Array, "*batch queries value_dim"]:
        """The context that every head mixes by these weights, the heads' contexts concatenated."""
        return _join_heads(weights.astype(values.dtype) @ _split_heads(values, self.heads))

    def statistics(
        self,
        queries: PyTree,
        keys: PyTree,
        values: Float[Array, "*batch keys value_dim"] | None = None,
        *,
        mask: Mask | None = None,
        top_k: int = 1,
    ) -> Statistics:
        """What every query attends to under a softmax, in a few numbers for every head.

        Unlike the weights, they take no memory of `[queries, keys]`.
        """
        form, values = self._form_and_values(queries, keys, values)
        return statistics(form, mask=mask, bias=self.bias, top_k=top_k, lead=values.ndim - 2)

    def _form_and_values(
        self, queries: PyTree, keys: PyTree, values: Array | None
    ) -> tuple[Form, Array]:
        queries, keys = jax.tree.map(jnp.asarray, (queries, keys))
        if values is None:
            values = _as_values(keys)
        if values.ndim < 2 or values.shape[-1] % self.heads:
            raise ValueError(
                f"values must be [..., keys, value_dim] with value_dim a multiple of"
                f" heads={self.heads}, got shape {values.shape}"
            )
        batch_axes = values.ndim - 2
        query_axis = None if _shared_by_batch(queries, batch_axes) else 0
        forms = jax.vmap(
            self._form_of_head,
            in_axes=(None if self.shares_score else 0, None, None),
            axis_size=self.heads,
        )
        for _ in range(batch_axes):
            forms = jax.vmap(forms, in_axes=(None, query_axis, 0))
        return forms(self.score, queries, keys), _split_heads(values, self.heads)

    def _form_of_head(self, score: Callable[..., Any], queries: PyTree, keys: PyTree) -> Form:
        return form_of(score.func if isinstance(score, Partial) else score, queries, keys)


@dataclass(frozen=True)
class _WithOptions:
    """A plain score function and its options, which are no parameters.

    Unlike those of `functools.partial`, two of the same function and options are equal: so are the
    structures of their layers.
    """

    function: Callable[..., Any]
    options: Mapping[str, Any]

    @property
    def __name__(self) -> str:
        return name_of(self.function)

    def __hash__(self) -> int:
        return hash(self.function)

    def __call__(self, query: PyTree, key: PyTree) -> Array:
        return self.function(query, key, **self.options)


def _with_options(score: Callable[..., Any], options: Mapping[str, Any]) -> _WithOptions:
    try:
        inspect.signature(score).bind(None, None, **options)
    except TypeError as error:
        raise ValueError(f"the score function {name_of(score)} cannot be called: {error}") from None
    return _WithOptions(score, options)


def _as_values(keys: PyTree) -> Array:
    if not isinstance(keys, jax.Array):
        raise ValueError("keys that are not one array cannot be the values too: pass values")
    return keys


def _shared_by_batch(queries: PyTree, batch_axes: int) -> bool:
    return isinstance(queries, jax.Array) and queries.ndim == 2 and batch_axes > 0


def _split_heads(
    values: Float[Array, "*batch keys value_dim"], heads: int
) -> Float[Array, "*batch heads keys head_dim"]:
    return jnp.moveaxis(values.reshape(*values.shape[:-1], heads, -1), -2, -3)


def _join_heads(
    context: Float[Array, "*batch heads queries head_dim"],
) -> Float[Array, "*batch queries value_dim"]:
    context = jnp.moveaxis(context, -3, -2)
    return context.reshape(*context.shape[:-2], -1)
