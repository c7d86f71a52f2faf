"""Copy: reproduce a random sequence.

With three symbols a, b, c and `max_length` 4, one example is

    source     b a c END PAD
    target     b a c END PAD
    alignment  0 1 2  3   −1
"""

from dataclasses import dataclass

import jax
from jax.tree_util import register_dataclass
from jaxtyping import Array, Key

from attention.forms import static
from attention.tasks.batch import RESERVED, Batch, reconstruction


@register_dataclass
@dataclass(frozen=True)
class Copy:
    """Uniform random tokens of uniform random length, generated from a key.

    Attributes:
      symbols: number of symbols to draw from.
      max_length: greatest length, in symbols.
    """

    symbols: int = static()
    max_length: int = static()

    @property
    def vocabulary(self) -> int:
        return self.symbols + RESERVED

    def sample(self, key: Key[Array, ""], size: int) -> Batch:
        """`size` examples with lengths uniform over 1 … `max_length`."""
        length_key, symbol_key = jax.random.split(key)
        length = jax.random.randint(length_key, (size,), 1, self.max_length + 1)
        return self._of_lengths(symbol_key, length)

    def held_out(self, key: Key[Array, ""], size: int, length: int | None = None) -> Batch:
        """`size` examples, of exactly this length if one is given."""
        if length is None:
            return self.sample(key, size)
        return self._of_lengths(key, jax.numpy.full((size,), length))

    def _of_lengths(self, key: Key[Array, ""], length: Array) -> Batch:
        shape = (length.shape[0], self.max_length)
        symbols = jax.random.randint(key, shape, RESERVED, RESERVED + self.symbols)
        return reconstruction(symbols, length)
