"""Error rates where several outputs may be right, as with the pronunciations of a word.

The rates of Yao and Zweig (arXiv 1506.00196). For the phoneme error rate, an output is compared
with the reference that it takes the fewest edits to reach; the rate is the number of edits, summed
over words, divided by the number of phonemes in those references. The word error rate is the share
of words whose output equals none of their references. The share of words whose output does not
equal the first reference, as some count who know no others, has a name of its own.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from attention.lab.tasks.batch import END

Counts = dict[str, Int[Array, ""]]


def edit_distance(
    output: Int[Array, " output_time"],
    output_length: int | Int[Array, ""],
    reference: Int[Array, " reference_time"],
    reference_length: int | Int[Array, ""],
) -> Int[Array, ""]:
    """The fewest insertions, deletions and substitutions between two sequences (Levenshtein).

    Only the symbols within the two lengths count. The table of distances is made row by row: row
    n has the distances of the first n output symbols to every prefix of the reference.
    """
    columns = jnp.arange(reference.shape[0] + 1)

    def next_row(row: Array, symbol_and_number: tuple[Array, Array]) -> tuple[Array, None]:
        symbol, number = symbol_and_number
        substituted = row[:-1] + (reference != symbol)
        entered = jnp.concatenate([number[None], jnp.minimum(substituted, row[1:] + 1)])
        # An entry is at most one more than its left neighbour, so the row is a running minimum,
        # once the column numbers are taken away.
        filled = jax.lax.cummin(entered - columns) + columns
        return jnp.where(number <= output_length, filled, row), None

    numbers = jnp.arange(1, output.shape[0] + 1)
    row, _ = jax.lax.scan(next_row, columns, (output, numbers))
    return row[reference_length]


def error_counts(
    output: Int[Array, "batch output_time"],
    references: Int[Array, "batch references reference_time"],
    counts_row: Bool[Array, " batch"],
) -> Counts:
    """Counts that `error_ratios` makes rates of.

    Args:
      output: what the model made, up to `END`.
      references: every right output, up to `END`; a row without `END` is no reference.
      counts_row: which examples count.

    Returns:
      `edits`, from the outputs to their nearest references; `reference_symbols`, in those
      references; `missed`, the outputs that equal no reference; `missed_first`, those that do
      not equal the first.
    """
    exists = jnp.any(references == END, axis=-1)
    lengths = _length(references)
    to_references = jax.vmap(edit_distance, (None, None, 0, 0))
    edits = jax.vmap(to_references)(output, _length(output), references, lengths)
    edits = jnp.where(exists, edits, jnp.iinfo(edits.dtype).max)
    nearest = jnp.argmin(edits, axis=1, keepdims=True)
    fewest = jnp.take_along_axis(edits, nearest, axis=1)[:, 0]
    symbols = jnp.take_along_axis(lengths, nearest, axis=1)[:, 0]
    return {
        "edits": jnp.sum(jnp.where(counts_row, fewest, 0)),
        "reference_symbols": jnp.sum(jnp.where(counts_row, symbols, 0)),
        "missed": jnp.sum((fewest > 0) & counts_row),
        "missed_first": jnp.sum((edits[:, 0] > 0) & counts_row),
    }


def error_ratios(counts: Mapping[str, Any]) -> dict[str, float | None]:
    """The error rates of summed `error_counts`; None where there is nothing to count.

    Args:
      counts: the sums of `error_counts`, and the number of `sequences`.
    """
    symbols, words = int(counts["reference_symbols"]), int(counts["sequences"])
    return {
        "phoneme_error_rate": int(counts["edits"]) / symbols if symbols else None,
        "word_error_rate": int(counts["missed"]) / words if words else None,
        "single_reference_word_error_rate": (
            int(counts["missed_first"]) / words if words else None
        ),
    }


def _length(tokens: Int[Array, "*batch time"]) -> Int[Array, "*batch"]:
    """The number of symbols before `END`; of all symbols where there is no `END`."""
    ends = tokens == END
    return jnp.where(jnp.any(ends, axis=-1), jnp.argmax(ends, axis=-1), tokens.shape[-1])
