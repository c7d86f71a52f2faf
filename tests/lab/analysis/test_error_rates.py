import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attention.lab.analysis.error_rates import edit_distance, error_counts, error_ratios
from attention.lab.tasks.batch import END, PAD

A, B, C = 2, 3, 4


def levenshtein(output, reference):
    """Edits between two lists, one by one, by the definition."""
    table = np.zeros((len(output) + 1, len(reference) + 1), int)
    table[:, 0], table[0] = range(len(output) + 1), range(len(reference) + 1)
    for i, symbol in enumerate(output, 1):
        for j, wanted in enumerate(reference, 1):
            table[i, j] = min(
                table[i - 1, j] + 1,
                table[i, j - 1] + 1,
                table[i - 1, j - 1] + (symbol != wanted),
            )
    return int(table[-1, -1])


def padded(symbols, time):
    closed = [*symbols, END][:time]
    return closed + [PAD] * (time - len(closed))


def of_words(output, references, counts_row=None, time=7):
    """The counts of outputs, each with its list of references."""
    most = max(map(len, references))
    rows = [
        [padded(r, time) for r in each] + [[PAD] * time] * (most - len(each)) for each in references
    ]
    counts_row = [True] * len(output) if counts_row is None else counts_row
    counts = jax.jit(error_counts)(
        jnp.array([padded(o, time) for o in output]), jnp.array(rows), jnp.array(counts_row)
    )
    return {name: int(count) for name, count in counts.items()}


@pytest.mark.parametrize(
    ("output", "reference", "edits"),
    [
        ([], [], 0),
        ([A, B, C], [A, B, C], 0),
        ([], [A, B], 2),
        ([A, B], [], 2),
        ([A, B, C], [A, C], 1),
        ([A, C], [A, B, C], 1),
        ([A, B, C], [A, A, C], 1),
        ([A, B], [B, A], 2),
        ([B, C, A, B], [C, A, B, C], 2),
    ],
)
def test_edits_are_insertions_deletions_and_substitutions(output, reference, edits):
    arguments = jnp.array(padded(output, 5)), len(output), jnp.array(padded(reference, 7))
    assert int(jax.jit(edit_distance)(*arguments, len(reference))) == edits


def test_the_edit_distance_equals_the_definition():
    rng = np.random.default_rng(0)
    outputs, references = (rng.integers(2, 5, (211, time)) for time in (5, 7))
    lengths = [rng.integers(0, time + 1, 211) for time in (5, 7)]
    found = jax.jit(jax.vmap(edit_distance))(outputs, lengths[0], references, lengths[1])
    pairs = zip(outputs, lengths[0], references, lengths[1], strict=True)
    expected = [levenshtein(o[:n].tolist(), r[:m].tolist()) for o, n, r, m in pairs]
    np.testing.assert_array_equal(found, expected)
    assert set(range(6)) <= set(expected)


def test_of_several_references_the_nearest_counts():
    """Two edits to the first of the references, one to the second, of two symbols."""
    counts = of_words([[A, B, C]], [[[A, A, A], [A, C]]])
    assert counts == {"edits": 1, "reference_symbols": 2, "missed": 1, "missed_first": 1}


def test_any_reference_is_right():
    counts = of_words([[A, B], [C]], [[[A], [A, B], [B]], [[C]]])
    assert counts == {"edits": 0, "reference_symbols": 3, "missed": 0, "missed_first": 1}


def test_the_word_error_rate_of_first_references_has_a_name_of_its_own():
    counts = {"edits": 1, "reference_symbols": 5, "missed": 1, "missed_first": 2, "sequences": 4}
    assert error_ratios(counts) == {
        "phoneme_error_rate": 0.2,
        "word_error_rate": 0.25,
        "single_reference_word_error_rate": 0.5,
    }


def test_a_reference_that_there_is_not_counts_for_nothing():
    """An empty output would be right, were missing references empty."""
    counts = of_words([[], [A]], [[[A, B, C]], [[A], [B], [C]]])
    assert counts == {"edits": 3, "reference_symbols": 4, "missed": 1, "missed_first": 1}


def test_an_output_that_does_not_end_counts_whole():
    counts = of_words([[A, B, A, B, A, B, A]], [[[A, B]]])
    assert counts == {"edits": 5, "reference_symbols": 2, "missed": 1, "missed_first": 1}


def test_rows_that_do_not_count_count_for_nothing():
    counts = of_words([[A], [B], [C]], [[[B]], [[B]], [[A, A]]], [True, True, False])
    assert counts == {"edits": 1, "reference_symbols": 2, "missed": 1, "missed_first": 1}
