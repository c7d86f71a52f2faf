"""Any form, tile after tile: time O(queries · keys), memory O(queries + keys).

For softmax, a single rule gives every derivative. With `o_i = Σ_j p_ij v_j` and
`L_i = log Σ_j exp s_ij`:

    dL_i = Σ_j p_ij ds_ij        do_i = Σ_j p_ij (ds_ij (v_j − o_i) + dv_j)

It is the rule of a `custom_jvp` that scans the tiles once more and computes `p` anew from `L`.
Being linear in the tangents, it is transposed by JAX into the backward pass; being made of
plain operations, it can be differentiated again.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from attention.algorithms.request import Request
from attention.algorithms.tiles import Tile, Tiles, cut
from attention.normalizers import Sigmoid, Softmax, normalizer_name

KEEPS_PAIRS = False

# A pair takes so many times as long as in a whole array that fits into the caches: tiles are cut,
# looped over, and their scores computed once more for the backward pass. That is less than a pair
# takes in a whole array beyond the caches.
PAIR_COST = 2.0


def obstacle(request: Request) -> str | None:
    """Softmax and sigmoid take keys tile by tile; of other normalizers it is not known how."""
    if isinstance(request.normalizer, Softmax | Sigmoid):
        return None
    return (
        "the normalizer must be 'softmax' or 'sigmoid', which take keys part by part,"
        f" not {normalizer_name(request.normalizer)!r}"
    )


def cost(request: Request, platform: str) -> float:
    """That of every pair, whatever the form: what a tile costs does not depend on their number."""
    return PAIR_COST * request.pairs


def attend(request: Request) -> Float[Array, "*lead queries value_dim"]:
    """The context of every query, where there is no `obstacle`."""
    tiles, floats, others = cut(
        request.form, request.values, request.mask, request.bias, request.lead
    )
    match request.normalizer:
        case Softmax():
            context, _ = softmax(tiles, floats, others)
        case Sigmoid() as normalizer:
            num_keys = count(tiles, floats, others)
            context = sigmoid(normalizer, tiles, floats, others, num_keys)
        case other:
            raise TypeError(f"no rule for tiles under {normalizer_name(other)}")
    return tiles.join(context).astype(request.values.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def softmax(tiles: Tiles, floats: list[Array], others: list[Array]) -> tuple[Array, Array]:
    """The contexts and the logarithms of the normalizers.

    For a query with no key they are zero and the lowest number there is.
    """
    lowest = float(jnp.finfo(tiles.dtype).min)

    def update(rows: tuple[Array, Array, Array], tile: Tile) -> tuple[Array, Array, Array]:
        old, total, mixed = rows
        scores = _where(tile.allowed, tile.scores, lowest)
        greatest = jnp.maximum(old, jnp.max(scores, axis=-1))
        weights = _where(tile.allowed, jnp.exp(scores - greatest[..., None]), 0.0)
        decay = jnp.exp(old - greatest)
        total = total * decay + jnp.sum(weights, axis=-1)
        mixed = mixed * decay[..., None] + _mix(weights, tile.values)
        return greatest, total, mixed

    initial = tiles.full(lowest), tiles.full(0.0), tiles.full(0.0, tiles.value_dim)
    greatest, total, mixed = tiles.scan(update, initial, floats, others)
    some = total > 0
    total = jnp.where(some, total, 1.0)
    return mixed / total[..., None], jnp.where(some, greatest + jnp.log(total), lowest)


@softmax.defjvp
def _softmax_jvp(tiles: Tiles, primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    (floats, others), (d_floats, _) = primals, tangents
    context, log_total = softmax(tiles, floats, others)
    # With no key there is nothing to divide by, and less the lowest number exp would overflow.
    log_divisor = jnp.where(log_total > jnp.finfo(tiles.dtype).min, log_total, 0.0)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def turn(sums: tuple[Array, Array], pair: Array) -> tuple[tuple[Array, Array], None]:
        def scores_and_values(floats: list[Array]) -> tuple:
            tile = tiles.tile(floats, others, pair)
            return (tile.scores, tile.values), tile.allowed

        (scores, values), (d_scores, d_values), allowed = jax.jvp(
            scores_and_values, (floats,), (d_floats,), has_aux=True
        )
        weights = _where(allowed, jnp.exp(scores - log_divisor[pair[0]][..., None]), 0.0)
        change = weights * d_scores
        mixed, d_log_total = sums
        mixed = mixed.at[pair[0]].add(_mix(change, values) + _mix(weights, d_values))
        return (mixed, d_log_total.at[pair[0]].add(jnp.sum(change, axis=-1))), None

    initial = jnp.zeros_like(context), jnp.zeros_like(log_total)
    (mixed, d_log_total), _ = lax.scan(turn, initial, tiles.index)
    return (context, log_total), (mixed - context * d_log_total[..., None], d_log_total)


def count(tiles: Tiles, floats: list[Array], others: list[Array]) -> Array:
    """How many keys each query may attend to."""

    def add(rows: Array, tile: Tile) -> Array:
        if tile.allowed is None:
            return rows + tile.key_index.size
        return rows + jnp.sum(tile.allowed, axis=-1)

    return tiles.scan(add, tiles.full(0.0, dtype=jnp.int32), floats, others)


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
    def turn(mixed: Array, pair: Array) -> tuple[Array, None]:
        tile = tiles.tile(floats, others, pair)
        weights = normalizer.among(tile.scores, num_keys[pair[0]][..., None])
        weights = _where(tile.allowed, weights, 0.0)
        return mixed.at[pair[0]].add(_mix(weights, tile.values)), None

    return lax.scan(turn, tiles.full(0.0, tiles.value_dim), tiles.index)[0]


def _mix(weights: Array, values: Array | None) -> Array:
    assert values is not None
    return jnp.matmul(weights.astype(values.dtype), values, preferred_element_type=weights.dtype)


def _where(allowed: Array | None, array: Array, otherwise: float) -> Array:
    return array if allowed is None else jnp.where(allowed, array, otherwise)
