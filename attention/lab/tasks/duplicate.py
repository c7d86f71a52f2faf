"""Duplicate: reproduce a random sequence twice.

With three symbols a, b, c and `max_length` 3, one example is

    source     b a END PAD
    target     b a b a END PAD PAD
    alignment  0 1 0 1  2   −1  −1
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Int

from attention.lab.tasks.batch import Batch, rearrangement
from attention.lab.tasks.symbols import RandomSymbols
from attention.pytrees import register_dataclass


@register_dataclass
@dataclass(frozen=True)
class Duplicate(RandomSymbols):
    """The target is the source, twice."""

    any_length = True

    @property
    def target_time(self) -> int:
        """Target steps of every batch: the symbols twice, and `END`."""
        return 2 * self.max_length + 1

    def _batch(self, symbols: Int[Array, "size time"], length: Int[Array, " size"]) -> Batch:
        order = jnp.arange(2 * self.max_length)[None, :] % length[:, None]
        return rearrangement(symbols, length, order, 2 * length)
