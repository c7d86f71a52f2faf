"""Recall: after a list of keys with their values, tell the value of each key that comes again.

Associative recall with several queries, in the setting of Zoology (Arora et al., arXiv
2312.04927): half of the symbols are keys, the other half are values, and the gaps after which keys
come again follow a power law. With the keys a, b, the values x, y, the blank ·, `max_length` 2 and
`span` 10, one example is

    source     b x a y · · a · b ·
    question   a b
    target     y x
    alignment  3 1

There is no `END`: the questions tell how many answers to read.
"""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key
from pydantic import Field

from attention.lab.tasks.batch import PAD, RESERVED, Batch, before
from attention.lab.tasks.symbols import RandomSymbols
from attention.pytrees import register_dataclass, static

POWER = 0.01  # gap g has weight g^(POWER − 1), as in Zoology


@register_dataclass
@dataclass(frozen=True)
class Recall(RandomSymbols):
    """The target is the values of the keys asked for. Lengths count pairs of key and value.

    Attributes:
      span: length of every source, in tokens: keys, values, questions and blanks.

    Raises:
      ValueError: the greatest number of pairs does not fit the span, or the symbols.
    """

    span: Annotated[int, Field(ge=1, le=1024)] = static(default=64)

    def __post_init__(self) -> None:
        if self.span < 4 * self.max_length:
            raise ValueError(
                f"span={self.span}: must be at least {4 * self.max_length}, four times"
                f" max_length={self.max_length}, for pairs and the keys that come again"
            )
        if self.symbols < 2 * self.max_length:
            raise ValueError(
                f"symbols={self.symbols}: must be at least {2 * self.max_length}, twice"
                f" max_length={self.max_length}, for no key or value comes twice"
            )

    @property
    def keys(self) -> int:
        """Number of keys. The other symbols are values, which follow the keys in the vocabulary."""
        return self.symbols // 2

    @property
    def blank(self) -> int:
        """The token between the questions; in the vocabulary it comes after the keys and values."""
        return RESERVED + self.symbols

    @property
    def vocabulary(self) -> int:
        """Number of tokens, the reserved tokens and the blank among them."""
        return self.blank + 1

    @property
    def source_time(self) -> int:
        """Source steps of every batch: the span."""
        return self.span

    @property
    def target_time(self) -> int:
        """Target steps of every batch: the answers to `max_length` questions."""
        return self.max_length

    def _symbols(self, key: Key[Array, ""], length: Int[Array, " size"]) -> Int[Array, "size time"]:
        key_key, value_key, gap_key = jax.random.split(key, 3)
        shape = (length.shape[0], self.max_length)
        keys = RESERVED + distinct(key_key, shape, self.keys)
        values = RESERVED + self.keys + distinct(value_key, shape, self.symbols - self.keys)
        pairs = jnp.stack([keys, values], axis=2).reshape(shape[0], -1)
        pairs = jnp.pad(pairs, ((0, 0), (0, self.span - 2 * self.max_length)))
        in_pairs = before(2 * length, self.span)
        return jnp.where(in_pairs, pairs, self._questions(gap_key, keys, length))

    def _questions(
        self,
        key: Key[Array, ""],
        keys: Int[Array, "size max_length"],
        length: Int[Array, " size"],
    ) -> Int[Array, "size time"]:
        """Blanks, and the keys that come again, at even distances from the end of the pairs.

        The first `2 * length` tokens are blanks, in the place of the pairs.
        """
        rows = jnp.arange(keys.shape[0])[:, None]
        weight = (POWER - 1) * jnp.log(jnp.arange(1.0, self.span // 2 + 1))
        # The gaps with the greatest sums of log weight and Gumbel noise are a draw without
        # replacement (arXiv 1903.06059).
        score = weight + jax.random.gumbel(key, (keys.shape[0], weight.shape[0]))
        score = jnp.where(before(self.span // 2 - length, weight.shape[0]), score, -jnp.inf)
        gap = jax.lax.top_k(score, self.max_length)[1]
        place = 2 * (length[:, None] + gap)
        place = jnp.where(before(length, self.max_length), place, self.span)
        blanks = jnp.full((keys.shape[0], self.span), self.blank)
        return blanks.at[rows, place].set(keys, mode="drop")

    def _batch(self, symbols: Int[Array, "size time"], length: Int[Array, " size"]) -> Batch:
        asks = (symbols != self.blank) & ~before(2 * length, self.span)
        asked_at = jnp.argsort(~asks, axis=1, stable=True)[:, : self.max_length]
        counts = before(length, self.max_length)
        question = jnp.where(counts, jnp.take_along_axis(symbols, asked_at, axis=1), PAD)
        # argmax finds the first place of the key, which is in its pair.
        key_at = jnp.argmax(question[:, :, None] == symbols[:, None, :], axis=2)
        alignment = jnp.where(counts, key_at + 1, -1)
        target = jnp.where(counts, jnp.take_along_axis(symbols, key_at + 1, axis=1), PAD)
        return Batch(
            source=symbols,
            source_length=jnp.full_like(length, self.span),
            target=target,
            target_length=length,
            alignment=alignment,
            question=question,
        )


def distinct(key: Key[Array, ""], shape: tuple[int, int], choices: int) -> Int[Array, "size count"]:
    """Rows of distinct random integers, in random order.

    By Floyd's algorithm (Bentley and Floyd, CACM 30:9, 1987), whose cost does not grow with the
    number of choices.

    Args:
      key: source of randomness.
      shape: number of rows, and number of integers in a row.
      choices: the integers are from 0 to `choices` − 1.
    """
    size, count = shape
    draw_key, order_key = jax.random.split(key)
    greatest = choices - count + jnp.arange(count)
    draws = jax.random.randint(draw_key, shape, 0, greatest + 1)

    def take(n: Array, taken: Array) -> Array:
        is_taken = jnp.any(taken == draws[:, n, None], axis=1)
        return taken.at[:, n].set(jnp.where(is_taken, greatest[n], draws[:, n]))

    taken = jax.lax.fori_loop(0, count, take, jnp.full((size, count), -1))
    return jax.random.permutation(order_key, taken, axis=1, independent=True)
