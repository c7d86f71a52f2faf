"""Selective copy: reproduce the symbols that are scattered among blanks, in their order.

A model has to choose by content as well as by position (Gu and Dao, arXiv 2312.00752, section
3.1). With three symbols a, b, c, the blank ·, `max_length` 3 and `span` 5, one example is

    source     · b · · a END
    target     b a END PAD
    alignment  1 4  5   −1
"""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key
from pydantic import Field

from attention.lab.tasks.batch import RESERVED, Batch, rearrangement
from attention.lab.tasks.symbols import RandomSymbols
from attention.pytrees import register_dataclass, static


@register_dataclass
@dataclass(frozen=True)
class SelectiveCopy(RandomSymbols):
    """The target is the source without its blanks. Lengths count symbols, not blanks.

    Attributes:
      span: length of every source, in tokens: symbols and blanks, `END` not included.

    Raises:
      ValueError: the longest sequence does not fit the span.
    """

    span: Annotated[int, Field(ge=1, le=1024)] = static(default=32)

    def __post_init__(self) -> None:
        if self.span < self.max_length:
            raise ValueError(
                f"span={self.span}: must be at least max_length={self.max_length},"
                " the symbols lie within the span"
            )

    @property
    def blank(self) -> int:
        """The token between the symbols; in the vocabulary it comes after the symbols."""
        return RESERVED + self.symbols

    @property
    def vocabulary(self) -> int:
        """Number of tokens, the reserved tokens and the blank among them."""
        return self.blank + 1

    @property
    def source_time(self) -> int:
        """Source steps of every batch: the span and `END`."""
        return self.span + 1

    def _symbols(self, key: Key[Array, ""], length: Int[Array, " size"]) -> Int[Array, "size time"]:
        place_key, symbol_key = jax.random.split(key)
        shape = (length.shape[0], self.span)
        ranks = jnp.broadcast_to(jnp.arange(self.span), shape)
        ranks = jax.random.permutation(place_key, ranks, axis=1, independent=True)
        symbols = jax.random.randint(symbol_key, shape, RESERVED, self.blank)
        return jnp.where(ranks < length[:, None], symbols, self.blank)

    def _batch(self, symbols: Int[Array, "size time"], length: Int[Array, " size"]) -> Batch:
        symbols_first = jnp.argsort(symbols == self.blank, axis=1, stable=True)
        order = symbols_first[:, : self.max_length]
        return rearrangement(symbols, jnp.full_like(length, self.span), order, length)
