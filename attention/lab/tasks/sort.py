"""Sort: reproduce the symbols of a random sequence in rising order.

With three symbols a < b < c and `max_length` 3, one example is

    source     c a END PAD
    target     a c END PAD
    alignment  1 0  2   −1
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from attention.lab.tasks.batch import RESERVED, Batch, before, rearrangement
from attention.lab.tasks.symbols import RandomSymbols
from attention.pytrees import register_dataclass


@register_dataclass
@dataclass(frozen=True)
class Sort(RandomSymbols):
    """The target is the source, sorted. No symbol comes twice, so the alignment is unique.

    Raises:
      ValueError: there are fewer symbols than the longest sequence needs.
    """

    def __post_init__(self) -> None:
        if self.symbols < self.max_length:
            raise ValueError(
                f"symbols={self.symbols}: must be at least max_length={self.max_length},"
                " no symbol comes twice in a sequence to sort"
            )

    def _symbols(self, key: Key[Array, ""], length: Int[Array, " size"]) -> Int[Array, "size time"]:
        every = jnp.arange(RESERVED, RESERVED + self.symbols)
        every = jnp.broadcast_to(every, (length.shape[0], self.symbols))
        shuffled = jax.random.permutation(key, every, axis=1, independent=True)
        return shuffled[:, : self.max_length]

    def _batch(self, symbols: Int[Array, "size time"], length: Int[Array, " size"]) -> Batch:
        beyond_all = RESERVED + self.symbols
        counted = jnp.where(before(length, self.max_length), symbols, beyond_all)
        return rearrangement(symbols, length, jnp.argsort(counted, axis=1), length)
