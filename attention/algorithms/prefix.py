"""Softmax attention over every prefix of the keys, for scores that ignore the query.

`context_i = Σ_{j ≤ i} exp(logits_j) values_j / Σ_{j ≤ i} exp(logits_j)`

What some keys amount to is a `State`, and states pool like keys (arXiv 2405.13956,
"Attention as an RNN"). `step` adds one key to a state. `attend` takes all keys in blocks:
it pools every block, finds what lies before each block in the same way, one level up, and
adds to that the keys of the block. Time and memory O(keys), in O(log keys) parallel steps.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from attention.forms import KeyOnly, accumulator
from attention.pytrees import register_dataclass


@register_dataclass
@dataclass(frozen=True)
class State:
    """What some keys amount to.

    Attributes:
      max: the greatest logit.
      normalizer: `Σ_j exp(logits_j − max)`: at least one, or zero if there is no key.
      context: `Σ_j exp(logits_j − max) values_j / normalizer`.
    """

    max: Float[Array, "*lead"]
    normalizer: Float[Array, "*lead"]
    context: Float[Array, "*lead value_dim"]


def start(lead: tuple[int, ...], value_dim: int, dtype: DTypeLike) -> State:
    """The state of no key, for values of this dtype; it holds float32 at the least."""
    dtype = accumulator(dtype)
    lowest = jnp.full(lead, jnp.finfo(dtype).min, dtype)  # finite, for −∞ less −∞ is NaN
    return State(lowest, jnp.zeros(lead, dtype), jnp.zeros((*lead, value_dim), dtype))


def step(
    state: State, logit: Float[Array, "*lead"], value: Float[Array, "*lead value_dim"]
) -> tuple[State, Float[Array, "*lead value_dim"]]:
    """The state with one more key, and its context: one row of `attend`, in O(1)."""
    if logit.ndim:
        return jax.vmap(step)(state, logit, value)
    dtype = state.max.dtype
    key = State(logit[None].astype(dtype), jnp.ones(1, dtype), value[None].astype(dtype))
    row = _add(state, key, np.ones((1, 1), bool))
    state = jax.tree.map(lambda leaf: leaf[0], row)
    return state, state.context.astype(value.dtype)


@functools.partial(jax.jit, static_argnames="block_size")
def attend(
    logits: Float[Array, "*lead keys"],
    values: Float[Array, "*lead keys value_dim"],
    where: Bool[Array, "*#lead #keys"] | None = None,
    *,
    block_size: int = 16,
) -> Float[Array, "*lead keys value_dim"]:
    """The context of every prefix: row i is that of keys 0 to i, as far as `where` allows them.

    A prefix with no allowed key has context zero and gradient zero.
    """
    allowed = jnp.broadcast_to(True if where is None else where, logits.shape)
    dtype = accumulator(logits.dtype, values.dtype)
    # A masked key is no key, but for its value: that has no weight, and copies cost time.
    masked = jnp.where(allowed, logits.astype(dtype), jnp.finfo(dtype).min)
    keys = Total(masked, allowed.astype(dtype)), values.astype(dtype)
    # Axes of one would make the sums of the backward pass several times slower on a CPU.
    axes = [size for size in logits.shape[:-1] if size > 1]
    keys = jax.tree.map(lambda leaf: leaf.reshape(*axes, *leaf.shape[logits.ndim - 1 :]), keys)
    contexts = functools.partial(_contexts, block_size)
    for _ in axes:
        contexts = jax.vmap(contexts)
    return contexts(*keys)[0].reshape(values.shape).astype(values.dtype)


def attend_causal(
    form: KeyOnly,
    values: Float[Array, "*lead keys value_dim"],
    where: Bool[Array, "*#lead #keys"] | None = None,
    offset: int = 0,
) -> Float[Array, "*lead queries value_dim"]:
    """The context of query i is that of keys 0 to i + offset: `masks.causal(offset=offset)`."""
    contexts = attend(form.logits, values, where)
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
    block_size: int, each: Total, values: Float[Array, "n value_dim"]
) -> tuple[Float[Array, "n value_dim"], Total]:
    """The context of every prefix, and its total; the normalizers of `each` are constants."""
    states = _prefixes(State(*each, values), block_size)
    return states.context, Total(states.max, states.normalizer)


@_contexts.defjvp
def _contexts_jvp(
    block_size: int, primals: tuple[Total, Array], tangents: tuple[Total, Array]
) -> tuple[tuple[Array, Total], tuple[Array, Total]]:
    """`dL_i = Σ_j p_ij ds_j` and `do_i = Σ_j p_ij (ds_j v_j + dv_j) − o_i dL_i`: see `streaming`.

    The derivative of `_prefixes` itself would keep what every level has computed.
    """
    (each, values), (d_each, d_values) = primals, tangents
    context, up_to = _contexts(block_size, each, values)
    d_logits = d_each.max[:, None]
    d_log_total = _means(d_logits, each, up_to, block_size)
    mixed = _means(d_logits * values + d_values, each, up_to, block_size)
    # The maximum is but what the normalizer is relative to.
    d_up_to = Total(jnp.zeros_like(up_to.max), up_to.normalizer * d_log_total[:, 0])
    return (context, up_to), (mixed - context * d_log_total, d_up_to)


def _prefixes(states: State, block_size: int) -> State:
    """The first i + 1 of these states as one, for every i."""
    size, value_dim = states.context.shape
    nothing = functools.partial(start, value_dim=value_dim, dtype=states.max.dtype)
    blocks = jax.tree.map(_join, states, nothing((-size % block_size,)))
    blocks = jax.tree.map(lambda leaf: leaf.reshape(-1, block_size, *leaf.shape[1:]), blocks)
    before, up_to = nothing((1,)), np.tri(block_size, dtype=bool)
    if size > block_size:
        pooled = jax.vmap(_add, (None, 0, None))(nothing(()), blocks, up_to[-1:])
        pooled = jax.tree.map(lambda leaf: leaf[:-1, 0], pooled)
        before = jax.tree.map(_join, before, _prefixes(pooled, block_size))
    prefixes = jax.vmap(_add, (0, 0, None))(before, blocks, up_to)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:size], prefixes)


def _join(left: Array, right: Array) -> Array:
    return jnp.concatenate([left, right])


def _add(before: State, states: State, visible: Bool[np.ndarray, "rows n"]) -> State:
    """For each row, one state of `before` and the states that are visible there."""
    # Hidden before the exponential: it could overflow, and then its gradient be NaN.
    scores = jnp.where(visible, states.max[None, :], -jnp.inf)
    greatest = jax.lax.stop_gradient(jnp.maximum(jnp.max(scores, axis=1), before.max))
    old = jnp.exp(before.max - greatest) * before.normalizer
    new = jnp.exp(scores - greatest[:, None]) * states.normalizer[None, :]
    normalizer = old + jnp.sum(new, axis=1)
    divisor = jnp.where(normalizer > 0, normalizer, 1.0)
    old, new = old / divisor, new / divisor[:, None]
    context = _mix(new, states.context) + old[:, None] * before.context[None, :]
    return State(greatest, normalizer, context)


def _mix(weights: Float[Array, "rows n"], values: Float[Array, "n value_dim"]) -> Array:
    """`weights @ values`, as fast as a CPU can for many products of a few rows."""
    if len(weights) == 1:
        return weights @ values
    # As a sum, it is fused with what is added to it. The weights must not be fused with it:
    # they would be computed again for each dimension.
    weights = jax.lax.optimization_barrier(weights)
    return jnp.sum(weights[:, :, None] * values[None, :, :], axis=1)


def _means(
    terms: Float[Array, "n dim"], each: Total, up_to: Total, block_size: int
) -> Float[Array, "n dim"]:
    """`Σ_{j ≤ i} p_ij terms_j`, with `p_ij` the part of `each` j in what is `up_to` i.

    Linear in the terms: its transpose is the sweep of the backward pass.
    """
    size = len(terms)
    blocks = -(-size // block_size)
    padding = blocks * block_size - size

    def cut(array: Array, mode: str) -> Array:
        padded = jnp.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1), mode=mode)
        return padded.reshape(blocks, block_size, *array.shape[1:])

    terms = cut(terms, "constant")
    each, up_to = (Total(*(cut(array, "edge") for array in total)) for total in (each, up_to))
    rows = Total(*(array[:, :, None] for array in up_to))
    columns = Total(*(array[:, None, :] for array in each))
    means = jax.vmap(_mix)(_part(columns, rows, np.tri(block_size, dtype=bool)), terms)
    if blocks > 1:
        ends = Total(*(array[:-1, -1] for array in up_to))
        # Not the last rows of `means`: the transpose would have to add to those of an array.
        parts = _part(Total(*(a[:-1] for a in each)), Total(*(a[:, None] for a in ends)))
        pooled = jnp.sum(parts[:, :, None] * terms[:-1], axis=1)
        before = _means(pooled, ends, ends, block_size)
        decay = _part(Total(*(a[:, None] for a in ends)), Total(*(a[1:] for a in up_to)))
        before, decay = (jnp.pad(a, [(1, 0), (0, 0)]) for a in (before, decay))
        means = means + decay[:, :, None] * before[:, None, :]
    return means.reshape(-1, means.shape[-1])[:size]


def _part(some: Total, of: Total, where: np.ndarray | bool = True) -> Array:
    """Where these are among those, how much of their weight they have: at most one."""
    # Hidden before the exponential: it could overflow, and then its gradient be NaN.
    exponent = jnp.where(where, some.max - of.max, -jnp.inf)
    divisor = jnp.where(of.normalizer > 0, of.normalizer, 1.0)
    return jnp.exp(exponent) * (some.normalizer / divisor)
