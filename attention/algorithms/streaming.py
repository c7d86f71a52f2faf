"""Any form, tile after tile: time O(queries · keys), memory O(queries + keys).

For softmax, a single rule gives every derivative. With `o_i = Σ_j p_ij v_j` and
`L_i = log Σ_j exp s_ij`:

    dL_i = Σ_j p_ij ds_ij        do_i = Σ_j p_ij (ds_ij (v_j − o_i) + dv_j)

It is the rule of a `custom_jvp` that scans the tiles once more and computes `p` anew from `L`.
Being linear in the tangents, it is transposed by JAX into the backward pass; being made of
plain operations, it can be differentiated again.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from attention.algorithms.dense import mixed
from attention.algorithms.request import Request
from attention.algorithms.tiles import Tile, Tiles, cut
from attention.normalizers import Sigmoid, Softmax, SoftmaxWithSink, normalizer_name

KEEPS_PAIRS = False

# A pair takes so many times as long as in a whole array that fits into the caches: tiles are cut,
# looped over, and their scores computed once more for the backward pass. That is less than a pair
# takes in a whole array beyond the caches.
PAIR_COST = 2.0


def obstacle(request: Request) -> str | None:
    """Softmax and sigmoid take keys tile by tile; of other normalizers it is not known how."""
    if not request.has_fixed_sizes:
        return f"every size must be a number to cut tiles by, not {request.shape}"
    if isinstance(request.normalizer, Softmax | SoftmaxWithSink | Sigmoid):
        return None
    return (
        "the normalizer must be a softmax, with or without a sink, or a sigmoid, which take keys"
        " part by part,"
        f" not {normalizer_name(request.normalizer)!r}"
    )


def cost(request: Request, platform: str) -> float:
    """That of every pair, whatever the form: what a tile costs does not depend on their number."""
    return PAIR_COST * request.pairs


def attend(request: Request) -> Float[Array, "*lead queries value_dim"]:
    """The context of every query, where there is no `obstacle`."""
    tiles, floats, others = cut(request)
    match request.normalizer:
        case Softmax():
            context = softmax(tiles, floats, others)[0]
        case SoftmaxWithSink() as normalizer:
            context, total = softmax(tiles, floats, others)
            share = normalizer.share(tiles.join(total.logarithm()))
            return (tiles.join(context) * share[..., None]).astype(request.values.dtype)
        case Sigmoid() as normalizer:
            num_keys = count(tiles, floats, others)
            context = sigmoid(normalizer, tiles, floats, others, num_keys)
        case other:
            raise TypeError(f"no rule for tiles under {normalizer_name(other)}")
    return tiles.join(context).astype(request.values.dtype)


class Total(NamedTuple):
    """What the keys of a query weigh together: `sum · exp(max)`.

    Apart, for their logarithm is rounded: beside a maximum of a million, a sum would be lost.

    Attributes:
      max: the greatest score. It has no derivative: the sum is relative to it.
      sum: at least one; for a query with no key both are zero.
    """

    max: Array
    sum: Array

    def logarithm(self) -> Array:
        """`log Σ_j exp s_j`; −∞ for a query with no key."""
        some = self.sum > 0
        return jnp.where(some, self.max + jnp.log(jnp.where(some, self.sum, 1.0)), -jnp.inf)

    def parts(self, scores: Array) -> Array:
        """`exp(scores) / (sum · exp(max))`, for scores `[…, queries, keys]` of these queries."""
        divisor = jnp.where(self.sum > 0, self.sum, 1.0)
        return jnp.exp(scores - self.max[..., None]) / divisor[..., None]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def softmax(tiles: Tiles, floats: list[Array], others: list[Array]) -> tuple[Array, Total]:
    """The contexts, and what the keys of each query weigh together.

    For a query with no key they are zero.
    """

    def update(rows: tuple[Array, Array, Array], tile: Tile) -> tuple[Array, Array, Array]:
        old, total, contexts = rows
        scores = _where(tile.allowed, tile.scores, -jnp.inf)
        greatest = jnp.maximum(old, jnp.max(scores, axis=-1))
        base = _finite(greatest)
        weights = jnp.exp(scores - base[..., None])
        decay = jnp.exp(old - base)
        total = total * decay + jnp.sum(weights, axis=-1)
        return greatest, total, contexts * decay[..., None] + tile.mix(weights)

    initial = tiles.full(-jnp.inf), tiles.full(0.0), tiles.full(0.0, tiles.value_dim)
    greatest, total, contexts = tiles.scan(update, initial, floats, others)
    context = contexts / jnp.where(total > 0, total, 1.0)[..., None]
    return context, Total(_finite(greatest), total)


def _finite(greatest: Array) -> Array:
    """The greatest score, or zero where there is none: −∞ less −∞ would be NaN."""
    return jnp.where(greatest > -jnp.inf, greatest, 0.0)


@functools.partial(softmax.defjvp, symbolic_zeros=True)
def _softmax_jvp(tiles: Tiles, primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    (floats, others), (d_floats, _) = primals, tangents
    context, total = softmax(tiles, floats, others)
    # Arrays that do not move have no tangent: that of a bias array would be as large as the bias.
    moving = [i for i, d in enumerate(d_floats) if not isinstance(d, SymbolicZero)]
    d_moving = [d_floats[i] for i in moving]

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def turn(sums: tuple[Array, Array], pair: Array) -> tuple[tuple[Array, Array], None]:
        def scores_and_values(moved: list[Array]) -> tuple:
            arrays = dict(enumerate(floats)) | dict(zip(moving, moved, strict=True))
            tile = tiles.tile(list(arrays.values()), others, pair)
            return (tile.scores, tile.values), tile

        _, (d_scores, d_values), tile = jax.jvp(
            scores_and_values, ([floats[i] for i in moving],), (d_moving,), has_aux=True
        )
        rows = jax.tree.map(lambda leaf: leaf[pair[0]], total)
        weights = rows.parts(_where(tile.allowed, tile.scores, -jnp.inf))
        change = weights * d_scores
        contexts, d_log_total = sums
        contexts = contexts.at[pair[0]].add(tile.mix(change) + mixed(tile.kept(weights), d_values))
        return (contexts, d_log_total.at[pair[0]].add(jnp.sum(change, axis=-1))), None

    initial = jnp.zeros_like(context), jnp.zeros_like(total.sum)
    (contexts, d_log_total), _ = lax.scan(turn, initial, tiles.index)
    d_context = contexts - context * d_log_total[..., None]
    return (context, total), (d_context, Total(jnp.zeros_like(total.max), total.sum * d_log_total))


def count(tiles: Tiles, floats: list[Array], others: list[Array]) -> Array:
    """How many keys each query may attend to. A key whose score is −∞ does not count."""

    def add(rows: Array, tile: Tile) -> Array:
        counts = tile.scores != -jnp.inf if tiles.may_score_infinity else None
        if tile.allowed is not None:
            counts = tile.allowed if counts is None else counts & tile.allowed
        if counts is None:
            return rows + tile.key_index.size
        return rows + jnp.sum(counts, axis=-1, dtype=jnp.int32)

    return tiles.scan(add, tiles.full(0, dtype=jnp.int32), floats, others)


def sigmoid(
    normalizer: Sigmoid, tiles: Tiles, floats: list[Array], others: list[Array], num_keys: Array
) -> Array:
    """The contexts. Each key is weighed by itself: the derivative of a sum needs no rule.

    Args:
      normalizer: the sigmoid.
      tiles: the plan of a problem that `cut` has cut.
      floats: the arrays of the problem that have derivatives.
      others: its other arrays.
      num_keys: how many keys each query may attend to, as `count` returns it.
    """

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def turn(contexts: Array, pair: Array) -> tuple[Array, None]:
        tile = tiles.tile(floats, others, pair)
        scores = _where(tile.allowed, tile.scores, -jnp.inf)
        weights = normalizer.among(scores, num_keys[pair[0]][..., None])
        return contexts.at[pair[0]].add(tile.mix(weights)), None

    return lax.scan(turn, tiles.full(0.0, tiles.value_dim), tiles.index)[0]


def _where(allowed: Array | None, array: Array, otherwise: float) -> Array:
    return array if allowed is None else jnp.where(allowed, array, otherwise)
