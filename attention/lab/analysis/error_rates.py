"""Error rates of sequences of which several may be right, as those of pronunciations.

As Yao and Zweig count (arXiv 1506.00196): the phoneme error rate is the edits it takes to make the
output one of the references, over the phonemes of that reference, both summed over words; of
several references the one that takes the fewest edits counts. The word error rate is the share of
words whose output is none of the references.
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

    Row n of the table, of prefixes of the reference, is that of the first n output symbols.
    """
    columns = jnp.arange(reference.shape[0] + 1)

    def next_row(row: Array, symbol_and_number: tuple[Array, Array]) -> tuple[Array, None]:
        symbol, number = symbol_and_number
        substituted = row[:-1] + (reference != symbol)
        entered = jnp.concatenate([number[None], jnp.minimum(substituted, row[1:] + 1)])
        # An entry is one more than its left neighbour or less: a running minimum, tilted.
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
    """What is counted: `edits`, `reference_symbols`, and the `missed` outputs, right in none.

    Args:
      output: what the model made, up to `END`.
      references: every right output, up to `END`; a row without `END` is none.
      counts_row: which examples count.
    """
    exists = jnp.any(references == END, axis=-1)
    lengths = _length(references)
    to_each = jax.vmap(edit_distance, (None, None, 0, 0))
    edits = jax.vmap(to_each)(output, _length(output), references, lengths)
    edits = jnp.where(exists, edits, jnp.iinfo(edits.dtype).max)
    nearest = jnp.argmin(edits, axis=1, keepdims=True)
    fewest = jnp.take_along_axis(edits, nearest, axis=1)[:, 0]
    symbols = jnp.take_along_axis(lengths, nearest, axis=1)[:, 0]
    return {
        "edits": jnp.sum(jnp.where(counts_row, fewest, 0)),
        "reference_symbols": jnp.sum(jnp.where(counts_row, symbols, 0)),
        "missed": jnp.sum((fewest > 0) & counts_row),
    }


def error_ratios(counts: Mapping[str, Any]) -> dict[str, float | None]:
    """The error rates of summed `error_counts`; null where there is nothing to count.

    Args:
      counts: the sums, and the number of `sequences`.
    """
    symbols, words = int(counts["reference_symbols"]), int(counts["sequences"])
    return {
        "phoneme_error_rate": int(counts["edits"]) / symbols if symbols else None,
        "word_error_rate": int(counts["missed"]) / words if words else None,
    }


def _length(tokens: Int[Array, "*batch time"]) -> Int[Array, "*batch"]:
    """The symbols before `END`, or all."""
    ends = tokens == END
    return jnp.where(jnp.any(ends, axis=-1), jnp.argmax(ends, axis=-1), tokens.shape[-1])
