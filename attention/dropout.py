"""Dropout of the weights, drawn for each pair from its own indices.

Whether a pair is dropped depends on the key of the dropout and on the indices of its batch
element and head, query and key alone. So every algorithm drops the same weights, whatever tiles it
cuts, computes the draw anew wherever it needs it, and holds no array of all pairs.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.random import threefry2x32_p
from jaxtyping import Array, Float, Int, Key, UInt32

from attention.pytrees import register_dataclass, static

Randomness = nnx.Rngs | nnx.RngStream | Array


@register_dataclass
@dataclass(frozen=True)
class Dropout:
    """Drops each weight with a probability, and scales those that stay to keep the mean.

    Made by `dropout`.

    Attributes:
      words: a random number of 64 bits, in two words.
      rate: the probability that a weight is dropped.
      broadcast: whether all batch elements and heads drop the same pairs.
    """

    words: UInt32[Array, "2"]
    rate: float = static()
    broadcast: bool = static(default=False)

    def factors(
        self, lead: tuple[int, ...], query_index: Int[Array, " n"], key_index: Int[Array, " m"]
    ) -> Float[Array, "*lead n m"]:
        """What to multiply the weights of these pairs with: 0, or `1 / (1 − rate)`.

        Args:
          lead: the leading axes of the scores; all of size 1 in the result for `broadcast`.
          query_index: indices of queries.
          key_index: indices of keys.
        """
        lead = (1,) * len(lead) if self.broadcast else lead
        problems = math.prod(lead)
        first, second = self.words
        of_problem = _random(first, second, jnp.arange(problems), jnp.zeros(problems, jnp.int32))
        first, second = (word[:, None, None] for word in of_problem)
        bits, _ = _random(first, second, query_index[None, :, None], key_index[None, None, :])
        stays = bits >= jnp.uint32(min(round(self.rate * 2**32), 2**32 - 1))
        scale = 1 / (1 - self.rate) if self.rate < 1 else 0.0
        factors = jnp.where(stays, jnp.float32(scale), jnp.float32(0))
        return factors.reshape(*lead, *factors.shape[1:])


def dropout(key: Key[Array, ""], rate: float, *, broadcast: bool = False) -> Dropout | None:
    """Dropout of the weights; None where nothing is dropped.

    Args:
      key: what to draw from. A key drops the same pairs each time, so take another for each call.
      rate: the probability that a weight is dropped, from 0 to 1.
      broadcast: whether all batch elements and heads drop the same pairs.

    Raises:
      ValueError: the rate is no probability.
    """
    check_rate(rate)
    if rate == 0:
        return None
    return Dropout(jax.random.bits(key, (2,), jnp.uint32), float(rate), broadcast)


def check_rate(rate: float) -> None:
    """Refuses what is no probability.

    Raises:
      ValueError: with the rate.
    """
    try:
        is_probability = bool(0 <= rate <= 1) and not isinstance(rate, bool)
    except (TypeError, ValueError):  # no number, or several
        is_probability = False
    if not is_probability:
        raise ValueError(f"dropout_rate={rate!r}: must be a number from 0 to 1")


@runtime_checkable
class Drops(Protocol):
    """A layer with dropout, whose attributes are those of Flax's layers."""

    dropout_rate: float
    deterministic: bool | None
    rngs: nnx.RngStream | None


def dropout_of(
    layer: Drops,
    deterministic: bool | None,
    rngs: Randomness | None,
    *,
    broadcast: bool = False,
    needs: str,
) -> Dropout | None:
    """Which weights a layer drops in a call, decided as Flax's layers decide it.

    Args:
      layer: what is called.
      deterministic: whether no weight is dropped; None for what the layer was told.
      rngs: what to draw from; None for what the layer has kept.
      broadcast: whether all batch elements and heads drop the same pairs.
      needs: what the message says where there is nothing to draw from.

    Raises:
      ValueError: nobody said whether to drop, or there is nothing to draw from.
    """
    if layer.dropout_rate == 0:
        return None
    deterministic = layer.deterministic if deterministic is None else deterministic
    if deterministic is None:
        raise ValueError(
            f"dropout_rate={layer.dropout_rate}: say deterministic=, True or False, in the call of"
            " the layer or when it is made"
        )
    if deterministic:
        return None
    rngs = layer.rngs if rngs is None else rngs
    if rngs is None:
        raise ValueError(f"rngs=None: {needs}")
    stream = rngs.dropout if isinstance(rngs, nnx.Rngs) else rngs
    key = stream() if isinstance(stream, nnx.RngStream) else stream
    return dropout(key, layer.dropout_rate, broadcast=broadcast)


def _random(first: Array, second: Array, high: Array, low: Array) -> tuple[Array, Array]:
    """Two words of 32 random bits, by Threefry (Salmon et al., 2011), for each pair of counts."""
    words = (first, second, high.astype(jnp.uint32), low.astype(jnp.uint32))
    return tuple(threefry2x32_p.bind(*jnp.broadcast_arrays(*words)))
