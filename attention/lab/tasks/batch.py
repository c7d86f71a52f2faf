"""What a task yields: batches of padded sequences, and which source token each target is from."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attention.pytrees import register_dataclass

# Every vocabulary begins with these two tokens; the symbols of the task follow.
PAD = 0
END = 1
RESERVED = 2

Source = Int[Array, "batch source_time"] | Float[Array, "batch source_time features"]


@register_dataclass
@dataclass(frozen=True)
class Batch:
    """Source and target sequences, each closed by `END` and padded with `PAD`.

    There is no `END` in images and their classes, which are not sequences of symbols, nor where
    every target step answers a question.

    Attributes:
      source: input tokens, or real vectors.
      source_length: how many tokens or vectors of the source count, `END` included.
      target: the tokens to produce.
      target_length: how many tokens of the target count, `END` included.
      alignment: for each target step the index of the source token that produced it,
        −1 where there is no such token.
      question: the token that each target step asks with; None where the task asks nothing.
      references: every right target, beginning with `target`; a row of `PAD` stands for no
        target. None where `target` is the only right one.
    """

    source: Source
    source_length: Int[Array, " batch"]
    target: Int[Array, "batch target_time"]
    target_length: Int[Array, " batch"]
    alignment: Int[Array, "batch target_time"]
    question: Int[Array, "batch target_time"] | None = None
    references: Int[Array, "batch references target_time"] | None = None

    @property
    def target_mask(self) -> Bool[Array, "batch target_time"]:
        """`True` at the target steps that count."""
        return before(self.target_length, self.target.shape[1])


def before(length: Int[Array, " batch"], time: int) -> Bool[Array, "batch time"]:
    """`True` at the first `length` steps of each sequence, of `time` steps in all."""
    return jnp.arange(time)[None, :] < length[:, None]


def reconstruction(symbols: Int[Array, "batch max_length"], length: Int[Array, " batch"]) -> Batch:
    """The batch whose target is its source.

    Args:
      symbols: tokens without `END`, of which the first `length` count.
      length: number of symbols, `END` not included.
    """
    order = jnp.broadcast_to(jnp.arange(symbols.shape[1]), symbols.shape)
    return rearrangement(symbols, length, order, length)


def rearrangement(
    symbols: Int[Array, "batch source_symbols"],
    length: Int[Array, " batch"],
    order: Int[Array, "batch target_symbols"],
    target_length: Int[Array, " batch"],
) -> Batch:
    """The batch whose target is made of symbols of its source.

    Args:
      symbols: source tokens without `END`, of which the first `length` count.
      length: number of source symbols, `END` not included.
      order: the source index of each target symbol; the first `target_length` indices count.
      target_length: number of target symbols, `END` not included.
    """
    source = _closed(symbols, length[:, None], END, PAD)
    # The target's END is aligned with the source's END.
    alignment = _closed(order, target_length[:, None], length[:, None], -1)
    target = jnp.where(alignment < 0, PAD, jnp.take_along_axis(source, alignment, axis=1))
    return Batch(
        source=source,
        source_length=length + 1,
        target=target,
        target_length=target_length + 1,
        alignment=alignment,
    )


def _closed(
    sequence: Int[Array, "batch time"],
    length: Int[Array, "batch 1"],
    end: int | Int[Array, "batch 1"],
    pad: int,
) -> Int[Array, "batch time_and_end"]:
    """The first `length` entries of each sequence, then `end` once, then `pad`."""
    steps = jnp.arange(sequence.shape[1] + 1)[None, :]
    sequence = jnp.pad(sequence, ((0, 0), (0, 1)))
    return jnp.where(steps < length, sequence, jnp.where(steps == length, end, pad))


def take(batch: Batch, rows: Int[Array, " rows"]) -> Batch:
    """The given rows of a batch."""
    return jax.tree.map(lambda leaf: leaf[rows], batch)
