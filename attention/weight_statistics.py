"""What a query attends to, in a few numbers: without the weights of all pairs."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from attention.algorithms.tiles import Tile, Tiles, cut_problem
from attention.biases import GivenBias
from attention.forms import Form, num_leading_axes, size_of
from attention.masks import GivenMask
from attention.prepare import Positions, only_reachable, pair_functions
from attention.pytrees import register_dataclass
from attention.reach import reachable_keys
from attention.score_mods import GivenScoreMod


@register_dataclass
@dataclass(frozen=True)
class Statistics:
    """A few numbers about the softmax weights `p` of every query.

    A query with no key has weights, entropy and positions zero, indices −1, and the
    logarithm of its normalizer is −∞.

    Attributes:
      log_normalizer: `log Σ_j exp s_j`.
      entropy: `−Σ_j p_j log p_j`, in nats.
      max_weight, max_index: the largest weight, and the first key that has it.
      position: `Σ_j p_j j`, the expected index.
      top_weights, top_indices: the largest weights, in falling order. Where there are not
        so many keys, weight 0 and index −1.
    """

    log_normalizer: Float[Array, "*lead queries"]
    entropy: Float[Array, "*lead queries"]
    max_weight: Float[Array, "*lead queries"]
    max_index: Int[Array, "*lead queries"]
    position: Float[Array, "*lead queries"]
    top_weights: Float[Array, "*lead queries top_k"]
    top_indices: Int[Array, "*lead queries top_k"]


def statistics(
    form: Form,
    *,
    mask: GivenMask = None,
    bias: GivenBias = None,
    score_mod: GivenScoreMod = None,
    query_positions: Int[Array, "*#batch queries"] | None = None,
    key_positions: Int[Array, "*#batch keys"] | None = None,
    top_k: int = 1,
    lead: int | None = None,
) -> Statistics:
    """The statistics of every query in one pass: time O(queries · keys), memory O(queries + keys).

    Args:
      form: the scores of all pairs.
      mask: which query may attend to which key, as for `attend`.
      bias: what positions add to the scores, as for `attend`.
      score_mod: what is made of each score, as for `attend`.
      query_positions: where the queries stand, as for `attend`.
      key_positions: where the keys stand.
      top_k: how many of the largest weights to return.
      lead: how many leading axes the form has, 2 for `[batch, heads]`. The form shows it, but for
        a `Pairwise` form whose queries are a pytree of several arrays.

    Raises:
      ValueError: shapes do not fit, or `top_k` is not between 1 and the number of keys; of no
        keys, 1 is taken.
    """
    lead = num_leading_axes(form) if lead is None else lead
    shape = (*jax.tree.leaves(form)[0].shape[:lead], *size_of(form, lead))
    if not 1 <= top_k <= max(1, shape[-1]):
        raise ValueError(f"top_k={top_k}: must be from 1 to the number of keys, {shape[-1]}")
    positions = Positions(query_positions, key_positions)
    mask, bias, score_mod = pair_functions(mask, bias, score_mod, positions, shape)
    if 0 in shape:
        return _of_nothing(shape, top_k)
    form, _ = only_reachable(form, (), reachable_keys(mask, bias, shape))
    tiles, floats, others = cut_problem(
        form, None, shape[:lead], mask=mask, bias=bias, score_mod=score_mod
    )
    held = tiles.scan(jax.checkpoint(_add), _nothing(tiles, top_k), floats, others)
    return jax.tree.map(tiles.join, _finish(held))


def _of_nothing(shape: tuple[int, ...], top_k: int) -> Statistics:
    """The statistics of queries without a key, of no query, or of a batch of none."""
    zeros, none = jnp.zeros(shape[:-1]), jnp.full((*shape[:-1], top_k), -1, jnp.int32)
    return Statistics(
        log_normalizer=jnp.full(shape[:-1], -jnp.inf),
        entropy=zeros,
        max_weight=zeros,
        max_index=none[..., 0],
        position=zeros,
        top_weights=jnp.zeros(none.shape),
        top_indices=none,
    )


@register_dataclass
@dataclass(frozen=True)
class _Held:
    """What is known of every query after some tiles. All sums are relative to `exp(max)`."""

    max: Array
    total: Array
    score: Array  # Σ exp(s − max) (s − max)
    position: Array  # Σ exp(s − max) j
    top_scores: Array
    top_indices: Array


def _nothing(tiles: Tiles, top_k: int) -> _Held:
    return _Held(
        max=tiles.full(float(jnp.finfo(tiles.dtype).min)),
        total=tiles.full(0.0),
        score=tiles.full(0.0),
        position=tiles.full(0.0),
        top_scores=tiles.full(-jnp.inf, top_k),
        top_indices=tiles.full(-1, top_k, dtype=jnp.int32),
    )


def _add(held: _Held, tile: Tile) -> _Held:
    scores = tile.scores
    if tile.allowed is not None:
        scores = jnp.where(tile.allowed, scores, -jnp.inf)
    greatest = lax.stop_gradient(jnp.maximum(held.max, jnp.max(scores, axis=-1)))
    decay = jnp.exp(held.max - greatest)
    shift = jnp.where(held.total > 0, held.max - greatest, 0.0)
    exists = scores > -jnp.inf
    distance = jnp.where(exists, scores - greatest[..., None], 0.0)
    terms = jnp.where(exists, jnp.exp(distance), 0.0)
    position = terms @ tile.key_index.astype(scores.dtype)
    best, columns = lax.top_k(scores, min(held.top_scores.shape[-1], scores.shape[-1]))
    best = jnp.concatenate([held.top_scores, best], axis=-1)
    indices = jnp.concatenate([held.top_indices, tile.key_index[columns]], axis=-1)
    top_scores, order = lax.top_k(best, held.top_scores.shape[-1])  # of equals, the first
    return _Held(
        max=greatest,
        total=held.total * decay + jnp.sum(terms, axis=-1),
        score=(held.score + held.total * shift) * decay + jnp.sum(terms * distance, axis=-1),
        position=held.position * decay + position,
        top_scores=top_scores,
        top_indices=jnp.take_along_axis(indices, order, axis=-1),
    )


def _finish(held: _Held) -> Statistics:
    some = held.total > 0
    total = jnp.where(some, held.total, 1.0)
    exists = held.top_scores > -jnp.inf
    distance = jnp.where(exists, held.top_scores - held.max[..., None], 0.0)
    weights = jnp.where(exists, jnp.exp(distance) / total[..., None], 0.0)
    indices = jnp.where(exists, held.top_indices, -1)
    return Statistics(
        log_normalizer=jnp.where(some, held.max + jnp.log(total), -jnp.inf),
        entropy=jnp.log(total) - held.score / total,
        max_weight=weights[..., 0],
        max_index=indices[..., 0],
        position=held.position / total,
        top_weights=weights,
        top_indices=indices,
    )
