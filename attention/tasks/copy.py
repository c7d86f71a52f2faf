"""Copy: reproduce a random sequence.

With three symbols a, b, c and `max_length` 4, one example is

    source     b a c END PAD
    target     b a c END PAD
    alignment  0 1 2  3   −1
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax.tree_util import register_dataclass
from jaxtyping import Array, Int, Key

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
        """Number of tokens, the reserved ones among them."""
        return self.symbols + RESERVED

    def sample(self, key: Key[Array, ""], size: int) -> Batch:
        """`size` examples, their lengths uniform over 1 … `max_length`."""
        length_key, symbol_key = jax.random.split(key)
        length = jax.random.randint(length_key, (size,), 1, self.max_length + 1)
        return self._of_lengths(symbol_key, length)

    def held_out(
        self, split: str, key: Key[Array, ""], size: int, length: int | None = None
    ) -> Batch:
        """`size` examples of this length, or of mixed lengths; the key makes the split."""
        del split
        if length is None:
            return _sample(self, key, size)
        key = jax.random.fold_in(key, length)
        return _of_lengths(self, key, jnp.full(size, length))

    def _of_lengths(self, key: Key[Array, ""], length: Int[Array, " size"]) -> Batch:
        shape = (length.shape[0], self.max_length)
        symbols = jax.random.randint(key, shape, RESERVED, RESERVED + self.symbols)
        return reconstruction(symbols, length)


_sample = partial(jax.jit, static_argnums=2)(Copy.sample)
_of_lengths = jax.jit(Copy._of_lengths)
