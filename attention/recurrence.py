"""Softmax attention as a recurrence, for scores that ignore the query.

What some keys amount to under a softmax is a `State`, of a size that does not depend on how many
they are, and states pool like keys (arXiv 2405.13956, "Attention as an RNN"). So attention over a
growing sequence is a recurrent network: `start` makes the state of no key, `step` adds a key in
constant time and memory, and `pool` puts many states together at once, which
`attention.algorithms.prefix` does for all prefixes in parallel.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from attention.forms import accumulator
from attention.pytrees import register_dataclass


@register_dataclass
@dataclass(frozen=True)
class State:
    """What some keys amount to, in float32 or better.

    Attributes:
      max: the greatest logit; of no key, the lowest finite number.
      normalizer: `Σ_j exp(logits_j − max)`: at least one, or zero if there is no key.
      context: `Σ_j exp(logits_j − max) values_j / normalizer`; of no key, zero.
    """

    max: Float[Array, "*lead"]
    normalizer: Float[Array, "*lead"]
    context: Float[Array, "*lead value_dim"]


def start(lead: tuple[int, ...], value_dim: int, dtype: DTypeLike) -> State:
    """The state of no key.

    Args:
      lead: leading axes, such as `(batch, heads)`: a state for each element.
      value_dim: size of a value.
      dtype: of the values to come; the state holds float32 at the least.
    """
    dtype = accumulator(dtype)
    lowest = jnp.full(lead, jnp.finfo(dtype).min, dtype)  # finite, for −∞ less −∞ is NaN
    return State(lowest, jnp.zeros(lead, dtype), jnp.zeros((*lead, value_dim), dtype))


def step(
    state: State, logit: Float[Array, "*lead"], value: Float[Array, "*lead value_dim"]
) -> tuple[State, Float[Array, "*lead value_dim"]]:
    """The state with a key more, and its context: the next row of causal attention, in O(1).

    Args:
      state: what the keys so far amount to.
      logit: the score of the new key.
      value: the value of the new key; the context has its dtype.
    """
    if logit.ndim:
        return jax.vmap(step)(state, logit, value)
    dtype = state.max.dtype
    key = State(logit[None].astype(dtype), jnp.ones(1, dtype), value[None].astype(dtype))
    row = pool(state, key, np.ones((1, 1), bool))
    state = jax.tree.map(lambda leaf: leaf[0], row)
    return state, state.context.astype(value.dtype)


def pool(before: State, states: State, visible: Bool[np.ndarray, "rows n"]) -> State:
    """Some of `n` states and a state before them as a single state, for each of `rows` choices.

    Args:
      before: a single state, without leading axes, that every row includes.
      states: `n` states.
      visible: which of the `n` states a row includes.

    Returns:
      `rows` states.
    """
    # Hidden before the exponential: it could overflow, and then its gradient be NaN.
    scores = jnp.where(visible, states.max[None, :], -jnp.inf)
    greatest = jax.lax.stop_gradient(jnp.maximum(jnp.max(scores, axis=1), before.max))
    old = jnp.exp(before.max - greatest) * before.normalizer
    new = jnp.exp(scores - greatest[:, None]) * states.normalizer[None, :]
    normalizer = old + jnp.sum(new, axis=1)
    divisor = jnp.where(normalizer > 0, normalizer, 1.0)
    old, new = old / divisor, new / divisor[:, None]
    context = mix(new, states.context) + old[:, None] * before.context[None, :]
    return State(greatest, normalizer, context)


def mix(
    weights: Float[Array, "rows n"], values: Float[Array, "n value_dim"]
) -> Float[Array, "rows value_dim"]:
    """`weights @ values`, as fast as a CPU can for many products of a few rows."""
    if len(weights) == 1:
        return weights @ values
    # As a sum, it is fused with what is added to it. The weights must not be fused with it:
    # they would be computed again for each dimension.
    weights = jax.lax.optimization_barrier(weights)
    return jnp.sum(weights[:, :, None] * values[None, :, :], axis=1)
