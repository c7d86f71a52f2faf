"""Look-up: tell the value of each key in a dictionary, which is another in every example.

The task by which Brody et al. (arXiv 2105.14491) tell static from dynamic attention. Each token
of the source is a pair of key and value. With the keys a, b, c, the values x, y, z and
`max_length` 3, one example is

    source     c:x a:z PAD
    question   a   c   PAD
    target     z   x   PAD
    alignment  1   0   −1

No value comes twice, so a model that gives the same answer to all questions of an example has
only one of them right. There is no `END`: the questions tell how many answers to read.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from attention.lab.tasks.batch import PAD, RESERVED, Batch, before
from attention.lab.tasks.symbols import RandomSymbols
from attention.pytrees import register_dataclass
from attention.sizes import LARGEST


@register_dataclass
@dataclass(frozen=True)
class Lookup(RandomSymbols):
    """The target is the values of the keys, in the order of the keys. Lengths count pairs.

    `symbols` is the number of keys, and also the number of values. The vocabulary has the keys,
    the values, and a token for each pair of a key and a value.

    Raises:
      ValueError: there are fewer keys than the largest dictionary needs, or so many that not every
        pair of a key and a value can have a token.
    """

    def __post_init__(self) -> None:
        if self.symbols < self.max_length:
            raise ValueError(
                f"symbols={self.symbols}: must be at least max_length={self.max_length},"
                " no key comes twice in a dictionary"
            )
        if self.vocabulary > LARGEST:
            most = math.isqrt(LARGEST - 1) - 1
            raise ValueError(
                f"symbols={self.symbols}: must be at most {most}, every pair of a key and a"
                " value has a token"
            )

    @property
    def vocabulary(self) -> int:
        """Number of tokens, reserved tokens among them."""
        return self.first_pair + self.symbols**2

    @property
    def first_value(self) -> int:
        """The token of value 0; the keys come before the values."""
        return RESERVED + self.symbols

    @property
    def first_pair(self) -> int:
        """The token of key 0 with value 0; key 0 with value 1 has the next token, and so on."""
        return self.first_value + self.symbols

    @property
    def source_time(self) -> int:
        """Source steps of every batch: the pairs of the largest dictionary."""
        return self.max_length

    @property
    def target_time(self) -> int:
        """Target steps of every batch: a value for each key of the largest dictionary."""
        return self.max_length

    def _symbols(self, key: Key[Array, ""], length: Int[Array, " size"]) -> Int[Array, "size time"]:
        every = jnp.broadcast_to(jnp.arange(self.symbols), (length.shape[0], self.symbols))
        keys, values = (
            jax.random.permutation(k, every, axis=1, independent=True)[:, : self.max_length]
            for k in jax.random.split(key)
        )
        return self.first_pair + keys * self.symbols + values

    def _batch(self, symbols: Int[Array, "size time"], length: Int[Array, " size"]) -> Batch:
        counts = before(length, self.max_length)
        keys, values = jnp.divmod(symbols - self.first_pair, self.symbols)
        order = jnp.argsort(jnp.where(counts, keys, self.symbols), axis=1)
        question = RESERVED + jnp.take_along_axis(keys, order, axis=1)
        target = self.first_value + jnp.take_along_axis(values, order, axis=1)
        return Batch(
            source=jnp.where(counts, symbols, PAD),
            source_length=length,
            target=jnp.where(counts, target, PAD),
            target_length=length,
            alignment=jnp.where(counts, order, -1),
            question=jnp.where(counts, question, PAD),
        )
