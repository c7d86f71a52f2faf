"""Reverse: reproduce a random sequence from its last symbol to its first.

With three symbols a, b, c and `max_length` 4, one example is

    source     b a c END PAD
    target     c a b END PAD
    alignment  2 1 0  3   −1
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Int

from attention.lab.tasks.batch import Batch, rearrangement
from attention.lab.tasks.symbols import RandomSymbols
from attention.pytrees import register_dataclass


@register_dataclass
@dataclass(frozen=True)
class Reverse(RandomSymbols):
    """The target is the source, read from its last symbol to its first."""

    any_length = True

    def _batch(self, symbols: Int[Array, "size time"], length: Int[Array, " size"]) -> Batch:
        order = length[:, None] - 1 - jnp.arange(self.max_length)[None, :]
        return rearrangement(symbols, length, order, length)
