"""Softmax attention over every prefix of the keys, for scores that ignore the query.

`context_i = Σ_{j ≤ i} exp(logits_j) values_j / Σ_{j ≤ i} exp(logits_j)`

What some keys amount to is a `State`, and states pool like keys: see `attention.recurrence`.
The keys are taken in blocks. Every block is pooled to a state; what lies before each block is
found from the states of the blocks, as from keys, a level up; and to that are added the keys of
the block. Time and memory O(keys), in O(log keys) parallel steps.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from attention.algorithms.key_only import PAIRS_DIFFER
from attention.algorithms.request import Request
from attention.forms import KeyOnly, accumulator
from attention.masks import Both, Causal, Mask
from attention.normalizers import Softmax, normalizer_name
from attention.recurrence import State, mix, pool, start

KEEPS_PAIRS = False


def obstacle(request: Request) -> str | None:
    """Every query must see a prefix of the keys, scored alike by all, under a softmax."""
    if not isinstance(request.form, KeyOnly):
        return f"the form must be KeyOnly, not {type(request.form).__name__}"
    if request.depends_on_pairs:
        return PAIRS_DIFFER
    if not isinstance(request.normalizer, Softmax):
        return f"the normalizer must be 'softmax', not {normalizer_name(request.normalizer)!r}"
    if _causal_parts(request.mask) is None:
        return "the mask must be causal(), or causal() and a mask on keys alone"
    return None


def cost(request: Request, platform: str) -> float:
    """A unit for every key: all contexts come out of a single scan, whatever the queries are."""
    return float(math.prod(request.values.shape[:-1]))


def attend(request: Request) -> Float[Array, "*lead queries value_dim"]:
    """The context of every query, where there is no `obstacle`."""
    form, values = request.form, request.values
    parts = _causal_parts(request.mask)
    assert isinstance(form, KeyOnly)
    assert parts is not None
    causal, on_keys = parts
    where = None if on_keys is None else on_keys.on_keys(request.num_keys, len(request.lead))
    return attend_causal(form, values, where, causal.offset)


def _causal_parts(mask: Mask | None) -> tuple[Causal, Mask | None] | None:
    """The causal mask and the mask on keys alone that `mask` is made of, or None if it is not."""
    if isinstance(mask, Causal):
        return mask, None
    if isinstance(mask, Both):
        for causal, other in ((mask.left, mask.right), (mask.right, mask.left)):
            if isinstance(causal, Causal) and other.keys_only:
                return causal, other
    return None


@functools.partial(jax.jit, static_argnames="block_size")
def attend_prefixes(
    logits: Float[Array, "*lead keys"],
    values: Float[Array, "*lead keys value_dim"],
    where: Bool[Array, "*#lead #keys"] | None = None,
    *,
    block_size: int = 16,
) -> Float[Array, "*lead keys value_dim"]:
    """The context of every prefix: row i is the context of keys 0 to i.

    A prefix with no allowed key has context zero and gradient zero.

    Args:
      logits: the score of every key.
      values: what is mixed.
      where: which of the keys count; None for all.
      block_size: how many keys, or states of a level, are pooled at once.
    """
    allowed = logits > -jnp.inf if where is None else where & (logits > -jnp.inf)
    dtype = accumulator(logits.dtype, values.dtype)
    # A masked key is no key, but for its value: that has no weight, and copies cost time.
    masked = jnp.where(allowed, logits.astype(dtype), jnp.finfo(dtype).min)
    keys = Total(masked, allowed.astype(dtype)), values.astype(dtype)
    # Axes of size 1 would make the sums of the backward pass several times slower on a CPU.
    axes = [size for size in logits.shape[:-1] if size != 1]
    keys = jax.tree.map(lambda leaf: leaf.reshape(*axes, *leaf.shape[logits.ndim - 1 :]), keys)
    contexts = functools.partial(_contexts, block_size)
    for _ in axes:
        contexts = jax.vmap(contexts)
    return contexts(*keys)[0].reshape(values.shape).astype(values.dtype)


def attend_causal(
    form: KeyOnly,
    values: Float[Array, "*lead keys value_dim"],
    where: Bool[Array, "*#lead #keys"] | None,
    offset: int,
) -> Float[Array, "*lead queries value_dim"]:
    """The context of query i is the context of keys 0 to i + offset, as far as they exist.

    Args:
      form: the scores.
      values: what is mixed.
      where: which of the keys count; None for all.
      offset: of `masks.causal(offset=offset)`.
    """
    contexts = attend_prefixes(form.logits, values, where)
    before = min(max(-offset, 0), form.num_queries)
    # Slices, not a gather, whose transpose is slow.
    rows = contexts[..., max(offset, 0) :, :][..., : form.num_queries - before, :]
    after = form.num_queries - before - rows.shape[-2]
    nothing, last = jnp.zeros_like(contexts[..., :1, :]), contexts[..., -1:, :]
    parts = [jnp.repeat(nothing, before, axis=-2), rows, jnp.repeat(last, after, axis=-2)]
    return jnp.concatenate(parts, axis=-2)


class Total(NamedTuple):
    """What some keys weigh together: `normalizer · exp(max)`."""

    max: Array
    normalizer: Array


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _contexts(
    block_size: int, keys: Total, values: Float[Array, "n value_dim"]
) -> tuple[Float[Array, "n value_dim"], Total]:
    """The context of every prefix of `n` keys, and the total of every prefix.

    The normalizers of `keys`, which are ones and zeros, are constants: they have no derivative.
    """
    states = _prefixes(State(*keys, values), block_size)
    return states.context, Total(states.max, states.normalizer)


@_contexts.defjvp
def _contexts_jvp(
    block_size: int, primals: tuple[Total, Array], tangents: tuple[Total, Array]
) -> tuple[tuple[Array, Total], tuple[Array, Total]]:
    """`dL_i = Σ_j p_ij ds_j` and `do_i = Σ_j p_ij (ds_j v_j + dv_j) − o_i dL_i`: see `streaming`.

    The derivative of `_prefixes` itself would keep what every level has computed.
    """
    (keys, values), (d_keys, d_values) = primals, tangents
    context, up_to = _contexts(block_size, keys, values)
    d_logits = d_keys.max[:, None]
    d_log_total = _means(d_logits, keys, up_to, block_size)
    mixed = _means(d_logits * values + d_values, keys, up_to, block_size)
    # The maximum is but what the normalizer is relative to.
    d_up_to = Total(jnp.zeros_like(up_to.max), up_to.normalizer * d_log_total[:, 0])
    return (context, up_to), (mixed - context * d_log_total, d_up_to)


def _prefixes(states: State, block_size: int) -> State:
    """The first i + 1 of these states pooled to a single state, for every i."""
    size, value_dim = states.context.shape
    nothing = functools.partial(start, value_dim=value_dim, dtype=states.max.dtype)
    blocks = jax.tree.map(_join, states, nothing((-size % block_size,)))
    blocks = jax.tree.map(lambda leaf: leaf.reshape(-1, block_size, *leaf.shape[1:]), blocks)
    before, up_to = nothing((1,)), np.tri(block_size, dtype=bool)
    if size > block_size:
        pooled = jax.vmap(pool, (None, 0, None))(nothing(()), blocks, up_to[-1:])
        pooled = jax.tree.map(lambda leaf: leaf[:-1, 0], pooled)
        before = jax.tree.map(_join, before, _prefixes(pooled, block_size))
    prefixes = jax.vmap(pool, (0, 0, None))(before, blocks, up_to)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:size], prefixes)


def _join(left: Array, right: Array) -> Array:
    return jnp.concatenate([left, right])


def _means(
    terms: Float[Array, "n dim"], keys: Total, up_to: Total, block_size: int
) -> Float[Array, "n dim"]:
    """`Σ_{j ≤ i} p_ij terms_j`, with `p_ij` the weight of key j in the prefix that ends at i.

    Linear in the terms: its transpose is the sweep of the backward pass.

    Args:
      terms: what is averaged.
      keys: the total of every key alone.
      up_to: the total of every prefix.
      block_size: how many keys a block has.
    """
    size = len(terms)
    blocks = -(-size // block_size)
    padding = blocks * block_size - size

    def cut(array: Array, mode: str) -> Array:
        padded = jnp.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1), mode=mode)
        return padded.reshape(blocks, block_size, *array.shape[1:])

    terms = cut(terms, "constant")
    keys, up_to = (Total(*(cut(array, "edge") for array in total)) for total in (keys, up_to))
    rows = Total(*(array[:, :, None] for array in up_to))
    columns = Total(*(array[:, None, :] for array in keys))
    means = jax.vmap(mix)(_part(columns, rows, np.tri(block_size, dtype=bool)), terms)
    if blocks > 1:
        ends = Total(*(array[:-1, -1] for array in up_to))
        # Not the last rows of `means`: the transpose would have to add to those of an array.
        parts = _part(Total(*(a[:-1] for a in keys)), Total(*(a[:, None] for a in ends)))
        pooled = jnp.sum(parts[:, :, None] * terms[:-1], axis=1)
        before = _means(pooled, ends, ends, block_size)
        decay = _part(Total(*(a[:, None] for a in ends)), Total(*(a[1:] for a in up_to)))
        before, decay = (jnp.pad(a, [(1, 0), (0, 0)]) for a in (before, decay))
        means = means + decay[:, :, None] * before[:, None, :]
    return means.reshape(-1, means.shape[-1])[:size]


def _part(some: Total, of: Total, where: np.ndarray | bool = True) -> Array:
    """Which part of the weight of the keys `of` falls to `some` of them: from zero to one.

    Args:
      some: the total of some keys.
      of: the total of more keys, among which are those of `some`.
      where: where that is so; elsewhere the part is zero.
    """
    # Hidden before the exponential: it could overflow, and then its gradient be NaN.
    exponent = jnp.where(where, some.max - of.max, -jnp.inf)
    divisor = jnp.where(of.normalizer > 0, of.normalizer, 1.0)
    return jnp.exp(exponent) * (some.normalizer / divisor)
