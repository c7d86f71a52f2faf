"""`attention_fn`: any score, as the function that Flax's own layer takes for its attention."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn import dtypes
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from attention import masks
from attention.attend import ALGORITHMS, attend, attend_with_weights
from attention.biases import BIASES
from attention.dropout import Dropout, dropout
from attention.forms import Form, name_of
from attention.head_parts import (
    chained,
    form_of_head,
    held,
    is_factory,
    make_part,
    make_scores,
    score_of,
    share_function,
)
from attention.heads import for_heads, join_heads
from attention.layer_arguments import check_choice
from attention.masks import Mask, as_mask
from attention.normalizers import (
    NORMALIZERS,
    Normalizer,
    find_normalizer,
    make_normalizer,
    read_normalizer,
)
from attention.prepare import Positions, pair_functions


def attention_fn(score: str | Callable[..., Any] = "scaled_dot", **settings: Any) -> "AttentionFn":
    """Any score, as what `flax.nnx.MultiHeadAttention` takes as its `attention_fn`.

    The arguments and errors are those of `AttentionFn`:

        fn = attention_fn("mlp", num_heads=8, head_dim=8, hidden=32, rngs=rngs)
        layer = nnx.MultiHeadAttention(8, 64, attention_fn=fn, decode=False, rngs=rngs)
    """
    return AttentionFn(score, **settings)


class AttentionFn(nnx.Module):
    """A function of the heads' queries, keys and values, by any score.

    It is called as `flax.nnx.dot_product_attention` is. For the score `"scaled_dot"` it equals
    that function, except for a query that may attend to no key: its context is zero here, and the
    mean of all values there.

    A score with parameters is held here. In Flax's layer its parameters are therefore found under
    `attention_fn`, and are trained and saved with those of the layer.

    Args:
      score: the name of a score or a score class, of which every head makes a score of its own;
        what makes such a score when called, as a `functools.partial` of a class does; a plain
        function `(query, key) -> number`; or a score with its parameters. The last two are shared
        by all heads.
      num_heads: number of query heads, where every head makes a score.
      head_dim: size of a head's vectors, where every head makes a score.
      normalizer: from scores to weights, as `attend` takes it.
      bias: what positions add to the scores, as `attend` takes it; or a class of
        `attention.biases`, made by `bias(num_heads, rngs=…)`.
      score_mod: what becomes of a score before the normalizer, as `attend` takes it.
      implementation: name of the algorithm, see `attend`; None picks.
      rngs: source of initial parameters, where there are any to make.
      **options: passed on to the score class or function.

    Raises:
      ValueError: an argument is refused, or an argument is missing that the score needs.
    """

    def __init__(
        self,
        score: str | Callable[..., Any] = "scaled_dot",
        *,
        num_heads: int | None = None,
        head_dim: int | None = None,
        normalizer: str | Normalizer = "softmax",
        bias: Any = None,
        score_mod: Any = None,
        implementation: str | None = None,
        rngs: nnx.Rngs | None = None,
        **options: Any,
    ):
        check_choice("implementation", implementation, ALGORITHMS)
        score = score if isinstance(score, nnx.Module) else score_of(score)
        self.shares_score = isinstance(score, nnx.Module) or not is_factory(score)
        self.implementation = implementation
        if num_heads is None or head_dim is None or rngs is None:
            _refuse_unmade(score=score, bias=bias, score_mod=score_mod, normalizer=normalizer)
            self.score = nnx.data(_shared(score, options))
            self.bias, self.score_mod = held(bias), held(score_mod)
            normalizer = find_normalizer(normalizer)
        else:
            self.score = nnx.data(
                _shared(score, options)
                if self.shares_score
                else make_scores(score, head_dim, head_dim, num_heads, rngs, options)
            )
            self.bias = make_part("bias", bias, BIASES, num_heads, rngs)
            self.score_mod = make_part("score_mod", score_mod, {}, num_heads, rngs)
            normalizer = make_normalizer(normalizer, num_heads * head_dim, num_heads, rngs)
        self.normalizer = held(normalizer)

    def __call__(
        self,
        query: Float[Array, "*batch queries heads head_dim"],
        key: Float[Array, "*batch keys kv_heads head_dim"],
        value: Float[Array, "*batch keys kv_heads value_dim"],
        bias: Any = None,
        mask: Any = None,
        broadcast_dropout: bool = True,
        dropout_rng: Array | None = None,
        dropout_rate: float = 0.0,
        deterministic: bool = False,
        dtype: DTypeLike | None = None,
        precision: Any = None,
        module: nnx.Module | None = None,
        promote_dtype: Callable[..., Any] = dtypes.promote_dtype,
        is_causal: bool = False,
        *,
        input_positions: Int[Array, "*#batch time"] | None = None,
    ) -> Float[Array, "*batch queries heads value_dim"]:
        """The context of every query, for Flax's order of axes.

        Args:
          query: the heads' queries.
          key: the heads' keys. Of heads there may be fewer than queries have: then several heads of
            the queries, one after the other, take one head of the keys.
          value: what is mixed.
          bias: added to the scores, besides the bias that is held here.
          mask: which query may attend to which key, as `attend` takes it. Numbers are taken too,
            zero for False: Flax's layer makes such masks when it decodes.
          broadcast_dropout: whether all examples and heads drop the same weights.
          dropout_rng: the key by which weights are dropped.
          dropout_rate: the part of the weights that is dropped.
          deterministic: whether no weight is dropped, whatever the rate.
          dtype: of the computation; None for what the three promote to.
          precision: of matrix products, as `jax.default_matmul_precision` takes it.
          module: where to sow the weights, as `attention_weights`.
          promote_dtype: how the three get their dtype.
          is_causal: whether query i may attend to no key beyond i.
          input_positions: of the queries, and of as many keys, for masks and biases that compare
            positions and for `score_mod`. None counts from 0; so are keys counted of which there
            are more, as in a cache.
        """
        query, key, value = promote_dtype((query, key, value), dtype=dtype)
        query, key, value = (heads_first(each) for each in (query, key, value))
        shape = (*query.shape[:-1], key.shape[-2])
        positions = self._positions(input_positions, shape)
        causal = masks.causal() if is_causal else None
        where = self.pairs(_as_boolean(mask), causal, bias, None, positions, shape)
        dropped = None
        if dropout_rate > 0 and not deterministic:
            if dropout_rng is None:
                raise ValueError(f"dropout_rng is missing, with dropout_rate={dropout_rate}")
            dropped = dropout(dropout_rng, dropout_rate, broadcast=broadcast_dropout)
        with matmul_precision(precision):
            context = self.attend(query, self.form(query, key), value, where, dropped, module)
        return jnp.moveaxis(context, -3, -2)

    def pairs(
        self,
        mask: Any,
        within: Mask | None,
        bias: Any,
        score_mod: Any,
        positions: Positions,
        shape: tuple[int, ...],
    ) -> dict[str, Any]:
        """What there is to say of pairs, here and in a call, for scores of this shape.

        Args:
          mask: which query may attend to which key.
          within: a mask more.
          bias: a bias more than is held here.
          score_mod: a score_mod more than is held here.
          positions: of queries and keys.
          shape: `(*batch, heads, queries, keys)`.
        """
        mask = as_mask(mask, shape)
        if within is not None:
            mask = within if mask is None else within & mask
        mask, bias, score_mod = pair_functions(
            mask, [self.bias, bias], chained(self.score_mod, score_mod), positions, shape
        )
        return {"mask": mask, "bias": bias, "score_mod": score_mod}

    def _positions(self, given: Array | None, shape: tuple[int, ...]) -> Positions:
        """Where queries and keys stand, where that can be known."""
        num_queries, num_keys = shape[-2:]
        if given is None and callable(self.bias) and num_queries == 1 < num_keys:
            raise ValueError(
                "bias: where the single query of a step stands, Flax's layer does not tell: pass"
                " input_positions=, or decode with attention.MultiHeadAttention"
            )
        return Positions(given, given if num_queries == num_keys else None)

    def form(
        self,
        queries: Float[Array, "*batch heads queries head_dim"],
        keys: Float[Array, "*batch kv_heads keys head_dim"],
    ) -> Form:
        """The scores of all pairs of every head."""
        forms = jax.vmap(form_of_head, in_axes=(None if self.shares_score else 0, 0, 0))
        for _ in queries.shape[:-3]:
            forms = jax.vmap(forms, in_axes=(None, 0, 0))
        return forms(self.score, queries, for_heads(keys, queries.shape[-3]))

    def attend(
        self,
        queries: Float[Array, "*batch heads queries head_dim"],
        form: Form,
        values: Float[Array, "*batch kv_heads keys value_dim"],
        pairs: dict[str, Any],
        dropout: Dropout | None,
        module: nnx.Module | None,
        implementation: str | None = None,
    ) -> Float[Array, "*batch heads queries value_dim"]:
        """The context of every query.

        Args:
          queries: what the normalizer may read.
          form: of the queries and all keys.
          values: what is mixed.
          pairs: mask, bias and score_mod.
          dropout: which weights are dropped.
          module: where to sow the weights, before any is dropped.
          implementation: what is picked where this function was told no `implementation`.
        """
        values = for_heads(values, queries.shape[-3])
        settings = pairs | {"normalizer": read_normalizer(self.normalizer, join_heads(queries))}
        if module is not None:
            _, weights = attend_with_weights(form, values, **settings)
            module.sow(nnx.Intermediate, "attention_weights", weights.astype(values.dtype))
        settings |= {"dropout": dropout, "implementation": self.implementation or implementation}
        return attend(form, values, **settings)


def heads_first(
    vectors: Float[Array, "*batch time heads dim"],
) -> Float[Array, "*batch heads time dim"]:
    """From Flax's order of axes to that of `attend`."""
    return jnp.moveaxis(vectors, -2, -3)


def matmul_precision(precision: Any) -> contextlib.AbstractContextManager:
    """Where matrix products have this precision.

    Args:
      precision: None, a `jax.lax.Precision`, a `jax.lax.DotAlgorithmPreset`, or the name of one.

    Raises:
      ValueError: it is none of these, such as a pair.
    """
    if precision is None:
        return contextlib.nullcontext()
    name = getattr(precision, "name", precision)
    name = name.lower() if isinstance(precision, lax.Precision) else name
    try:
        return jax.default_matmul_precision("default" if name == "fastest" else name)
    except ValueError:
        raise ValueError(
            f"precision={precision!r}: must be one jax.lax.Precision or its name, for all products"
        ) from None


def _refuse_unmade(**parts: Any) -> None:
    """Refuses what is yet to be made for the heads.

    Raises:
      ValueError: naming it, and what making it takes.
    """
    names: dict[str, Mapping[str, Any]] = {"bias": BIASES, "normalizer": NORMALIZERS}
    for name, part in parts.items():
        found = names[name].get(part) if isinstance(part, str) and name in names else part
        if callable(found) and is_factory(found):
            raise ValueError(
                f"{name}={name_of(found)} is made for heads: pass num_heads=, head_dim= and rngs="
            )


def _shared(score: Any, options: dict[str, Any]) -> Any:
    """The score that all heads share, as a pytree."""
    if not isinstance(score, nnx.Module):
        return share_function(score, options)
    if options:
        raise ValueError(f"{next(iter(options))}: the {type(score).__name__} is made already")
    return score


def _as_boolean(mask: Any) -> Any:
    """The mask, True where Flax's layer says 1: such is its mask when it decodes."""
    is_number = isinstance(mask, jax.Array | np.ndarray) and mask.dtype != bool
    return mask != 0 if is_number else mask
