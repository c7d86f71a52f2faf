"""What a task yields: padded token sequences, and the alignment between them."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.tree_util import register_dataclass
from jaxtyping import Array, Bool, Int

# Every vocabulary begins with these two; a task's own symbols follow.
PAD = 0
END = 1
RESERVED = 2


@register_dataclass
@dataclass(frozen=True)
class Batch:
    """Source and target sequences, each closed by `END` and padded with `PAD`.

    Attributes:
      source: input tokens.
      source_length: how many of them count, `END` included.
      target: the tokens to produce.
      target_length: how many of them count, `END` included.
      alignment: for each target step the index of the source token that produced it,
        −1 where there is none.
    """

    source: Int[Array, "batch time"]
    source_length: Int[Array, " batch"]
    target: Int[Array, "batch time"]
    target_length: Int[Array, " batch"]
    alignment: Int[Array, "batch time"]

    @property
    def target_mask(self) -> Bool[Array, "batch time"]:
        """`True` at the target steps that count."""
        return before(self.target_length, self.target.shape[1])


def before(length: Int[Array, " batch"], time: int) -> Bool[Array, "batch time"]:
    """`True` at the first `length` of `time` steps."""
    return jnp.arange(time)[None, :] < length[:, None]


def reconstruction(symbols: Int[Array, "batch max_length"], length: Int[Array, " batch"]) -> Batch:
    """The batch whose output is its input.

    Args:
      symbols: tokens, of which the first `length` count.
      length: number of symbols, `END` not included.
    """
    time = symbols.shape[1] + 1
    steps = jnp.arange(time)[None, :]
    symbols = jnp.pad(symbols, ((0, 0), (0, 1)))
    tokens = jnp.where(steps < length[:, None], symbols, PAD)
    tokens = jnp.where(steps == length[:, None], END, tokens)
    alignment = jnp.where(steps <= length[:, None], steps, -1)
    return Batch(tokens, length + 1, tokens, length + 1, alignment)


def take(batch: Batch, rows: Int[Array, " rows"]) -> Batch:
    """The given rows of a batch."""
    return jax.tree.map(lambda leaf: leaf[rows], batch)
