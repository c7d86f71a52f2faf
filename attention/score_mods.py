"""Score mods: what is made of a score before the normalizer, whichever score it is.

A score mod is a function `(score, i, j) -> score` of a single score, bias included, and the
positions of its query and its key, as FlexAttention has it. `attend` takes a plain function, which
is traced and may close over arrays, or any pytree that is such a function, whose parameters then
get their gradient. A pytree may also take the scores of a block at once, `[*lead, n, m]`, with
positions `[n]` and `[m]`: so it can tell heads apart.

A score of −∞ is that of a masked pair. It stays so, and no score mod sees it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Integer

from attention.forms import name_of
from attention.pairs import align_right, grid, positions_of
from attention.plain_functions import (
    BLOCK,
    INDEX,
    closed,
    is_pytree,
    result_of,
    to_array,
    traceable,
)
from attention.pytrees import register_dataclass, static

ScoreMod = Callable[[Array, Array, Array], Array]

# What `attend` takes for a score mod.
GivenScoreMod = Callable[..., Any] | None

# Seen instead of a score of −∞: a number at which hardly a function lacks a derivative.
STAND_IN = 1.0
SCORES = (1, 1, *(indices.shape[0] for indices in BLOCK))  # of a block to try a score mod on


class SoftCap(nnx.Module):
    """`cap · tanh(score / cap)`: scores that stay between ±cap (Gemma 2, arXiv 2408.00118).

    Args:
      cap: the bound, above 0.
    """

    def __init__(self, cap: float):
        if not (cap > 0 and math.isfinite(cap)):
            raise ValueError(f"SoftCap(cap={cap}): must be above 0 and finite")
        self.cap = float(cap)

    def __call__(self, score: Array, query_index: Array, key_index: Array) -> Array:
        return self.cap * jnp.tanh(score / self.cap)


class Temperature(nnx.Module):
    """`score / temperature`, with a learned temperature, which stays above 0.

    Args:
      temperature: at the start, above 0: a number, or one for each head, `[heads]`.
    """

    def __init__(self, temperature: float | Float[Array, "*heads"] = 1.0):
        self.log_temperature = nnx.Param(jnp.log(jnp.asarray(temperature, jnp.float32)))

    def __call__(self, score: Array, query_index: Array, key_index: Array) -> Array:
        return score * _of_heads(jnp.exp(-self.log_temperature[...]), score)


class LogLength(nnx.Module):
    """`score · scale · log(i + 1)`, with a learned scale (scalable softmax, arXiv 2501.19399).

    For causal attention, where query i sees i + 1 keys: with more keys, a softmax of the same
    scores spreads over more of them, and this factor makes up for it.

    Args:
      scale: at the start: a number, or one for each head, `[heads]`.
    """

    def __init__(self, scale: float | Float[Array, "*heads"] = 1.0):
        self.scale = nnx.Param(jnp.asarray(scale, jnp.float32))

    def __call__(self, score: Array, query_index: Array, key_index: Array) -> Array:
        length = jnp.log1p(query_index.astype(score.dtype))
        if query_index.ndim:
            length = align_right(length[:, None], score.ndim)
        return score * _of_heads(self.scale[...], score) * length


def _of_heads(numbers: Float[Array, "*heads"], score: Array) -> Array:
    """A number for all scores, or one for those of each head, `[..., heads, n, m]`."""
    numbers = numbers.astype(score.dtype)
    if not numbers.ndim:
        return numbers
    return align_right(numbers[:, None, None], score.ndim)


@register_dataclass
@dataclass(frozen=True)
class OfScores:
    """A score mod as `attend` calls it, with the scores of a block.

    Attributes:
      function: a pytree.
      by_block: whether it takes the scores of a block and not a single score.
      dtype: of the scores that it takes, or None for any.
    """

    function: ScoreMod
    by_block: bool = static()
    dtype: np.dtype | None = static()

    def __call__(
        self,
        scores: Float[Array, "*lead n m"],
        query_index: Int[Array, " n"],
        key_index: Int[Array, " m"],
    ) -> Float[Array, "*lead n m"]:
        """The scores to go on with, of the same dtype."""
        exists = scores != -jnp.inf  # nan does
        # Hidden from the function, and not only from its result: of infinity times zero is made
        # the gradient of a product.
        seen = jnp.where(exists, scores, STAND_IN).astype(self.dtype or scores.dtype)
        if self.by_block:
            modified = self.function(seen, query_index, key_index)
            if modified.shape != scores.shape:
                raise ValueError(
                    f"score_mod={name_of(self.function)} returned scores of shape {modified.shape}"
                    f" for scores of shape {scores.shape}"
                )
        else:
            indices = (align_right(a, scores.ndim) for a in grid(query_index, key_index))
            modified = jnp.vectorize(to_array(self.function))(seen, *indices)
        return jnp.where(exists, modified.astype(scores.dtype), -jnp.inf)


@register_dataclass
@dataclass(frozen=True)
class Located:
    """A score mod of positions, where a position is not an index.

    Attributes:
      score_mod: called with the positions of a block of queries, and of keys.
      query_positions: where the queries stand, or None where they stand at their indices.
      key_positions: where the keys stand, or None.
    """

    score_mod: ScoreMod
    query_positions: Integer[Array, "*batch queries"] | None
    key_positions: Integer[Array, "*other keys"] | None

    def __call__(
        self,
        scores: Float[Array, "*lead n m"],
        query_index: Int[Array, " n"],
        key_index: Int[Array, " m"],
    ) -> Float[Array, "*lead n m"]:
        positions = self.query_positions, self.key_positions
        queries, keys = positions_of(positions, query_index, key_index)
        score_mod, batch = self.score_mod, scores.shape[: queries.ndim - 1]
        for _ in batch:
            score_mod = jax.vmap(score_mod)
        queries, keys = (jnp.broadcast_to(a, (*batch, a.shape[-1])) for a in (queries, keys))
        return score_mod(scores, queries, keys)


def as_score_mod(score_mod: GivenScoreMod) -> ScoreMod | None:
    """A score mod that `attend` can call, from whatever people give for it.

    Args:
      score_mod: a plain function `(score, i, j) -> score` of a single score and the positions of
        its query and key; a pytree that is such a function; or None.

    Raises:
      ValueError: it is none of these.
    """
    if score_mod is None or isinstance(score_mod, OfScores | Located):
        return score_mod
    if not callable(score_mod):
        raise ValueError(
            f"score_mod={score_mod!r:.40} is no score mod: choose a function"
            " (score, i, j) -> score, or a score mod of attention.score_mods"
        )
    # The widest that there is: scores in float32 fit in, too.
    dtype = jnp.zeros((), float).dtype
    with traceable("score_mod", score_mod, "(score, i, j)"):
        by_block = _takes_blocks(score_mod, dtype)
        if is_pytree(score_mod):
            return OfScores(score_mod, by_block, None)
        score = jax.ShapeDtypeStruct((), dtype)
        return OfScores(closed(score_mod, score, INDEX, INDEX), by_block, dtype)


def at(
    score_mod: ScoreMod | None,
    query_positions: Integer[Array, "*batch queries"] | None,
    key_positions: Integer[Array, "*other keys"] | None,
    lead: int,
) -> ScoreMod | None:
    """The same score mod, told where queries and keys stand.

    Args:
      score_mod: as `as_score_mod` returns it.
      query_positions: `[queries]` or `[batch, queries]`; None where a position is an index.
      key_positions: `[keys]` or `[batch, keys]`; None where a position is an index.
      lead: how many leading axes the scores have.
    """
    del lead  # the scores show it
    if not isinstance(score_mod, OfScores) or query_positions is key_positions is None:
        return score_mod
    return Located(score_mod, query_positions, key_positions)


def _takes_blocks(score_mod: ScoreMod, dtype: np.dtype) -> bool:
    """Whether a score mod is a function of the scores of blocks, and not of a single score."""
    single = [jax.ShapeDtypeStruct((), dtype), INDEX, INDEX]
    value, by_block = result_of(score_mod, single, [jax.ShapeDtypeStruct(SCORES, dtype), *BLOCK])
    given = f"score_mod={name_of(score_mod)}"
    if not jnp.issubdtype(value.dtype, jnp.floating) and not jnp.issubdtype(
        value.dtype, jnp.integer
    ):
        raise ValueError(f"{given} must return real numbers, got {value.dtype}")
    one_for_each = (*value.shape[:1], *value.shape[2:]) == (SCORES[0], *SCORES[2:])
    if by_block and not (is_pytree(score_mod) and one_for_each):  # the heads are a score mod's own
        raise ValueError(
            f"{given} must return one score, shape (), for one score; for scores of shape {SCORES}"
            f" it returned shape {value.shape}"
        )
    return by_block
