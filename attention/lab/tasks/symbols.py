"""What the synthetic tasks share: random symbols, of which source and target are made."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key
from pydantic import Field

from attention.lab.tasks.batch import RESERVED, Batch
from attention.lab.tasks.task import ClosedTask
from attention.pytrees import static
from attention.sizes import LARGEST

# Tokens are integers of 32 bits: the reserved tokens, the symbols, and in some tasks a blank.
MOST_SYMBOLS = LARGEST - RESERVED - 1


@dataclass(frozen=True)
class RandomSymbols(ClosedTask):
    """Uniform random tokens of random length, generated from a key.

    A task says in `_batch` what source and target are to be made of the tokens. The static fields
    of a task are its settings in a config.

    Attributes:
      symbols: number of symbols to draw from.
      max_length: greatest length, in symbols.
      length_distribution: how lengths are drawn in training; held-out lengths are always uniform.
        Of `log_uniform` lengths up to 40, half are below 6: so a model that has to find its way
        through a source step by step learns the first steps first.
    """

    symbols: Annotated[int, Field(ge=1, le=MOST_SYMBOLS)] = static(default=64)
    max_length: Annotated[int, Field(ge=1, le=1024)] = static(default=16)
    length_distribution: Literal["uniform", "log_uniform"] = static(default="uniform", kw_only=True)

    @property
    def vocabulary(self) -> int:
        """Number of tokens, reserved tokens among them."""
        return self.symbols + RESERVED

    def sample(self, key: Key[Array, ""], size: int) -> Batch:
        """`size` training examples, of lengths from 1 to `max_length`."""
        length_key, symbol_key = jax.random.split(key)
        return self._of_lengths(symbol_key, self._lengths(length_key, size))

    def held_out(
        self, split: str, key: Key[Array, ""], size: int, length: int | None = None
    ) -> Batch:
        """`size` examples of this length, or of mixed lengths.

        The splits differ by their keys alone. An example longer than `max_length` is drawn as a
        task with a greater `max_length` would draw it.
        """
        del split
        exactly = length or 0
        task = replace(self, max_length=max(self.max_length, exactly))
        return _held_out(task, key, np.int32(exactly), size)

    def _lengths(self, key: Key[Array, ""], size: int) -> Int[Array, " size"]:
        if self.length_distribution == "uniform":
            return jax.random.randint(key, (size,), 1, self.max_length + 1)
        drawn = jnp.exp(jax.random.uniform(key, (size,), maxval=jnp.log(self.max_length + 1)))
        return jnp.clip(drawn.astype(int), 1, self.max_length)  # for rounding may go beyond

    def _of_lengths(self, key: Key[Array, ""], length: Int[Array, " size"]) -> Batch:
        return self._batch(self._symbols(key, length), length)

    def _symbols(self, key: Key[Array, ""], length: Int[Array, " size"]) -> Int[Array, "size time"]:
        """Source tokens without `END`; tokens beyond the length do not count."""
        shape = (length.shape[0], self.max_length)
        return jax.random.randint(key, shape, RESERVED, RESERVED + self.symbols)

    @abstractmethod
    def _batch(self, symbols: Int[Array, "size time"], length: Int[Array, " size"]) -> Batch:
        """The batch whose source and target are made of these symbols."""


@partial(jax.jit, static_argnums=3)
def _held_out(task: RandomSymbols, key: Key[Array, ""], length: Array, size: int) -> Batch:
    """Examples of this length, or of mixed lengths for 0: both are drawn by the same program."""
    uniform = replace(task, length_distribution="uniform")
    length_key, symbol_key = jax.random.split(key)
    is_mixed = length == 0
    lengths = jnp.where(is_mixed, uniform._lengths(length_key, size), length)
    key = jnp.where(is_mixed, symbol_key, jax.random.fold_in(key, length))
    return task._of_lengths(key, lengths)
