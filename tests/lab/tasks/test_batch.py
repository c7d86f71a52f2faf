import jax.numpy as jnp
import numpy as np
import pytest

from attention.lab.tasks.batch import END, PAD, before, reconstruction, take


def make(lengths, max_length=4):
    """Rows of symbols 10, 11, …; those beyond the length must not matter."""
    symbols = 10 + jnp.arange(len(lengths) * max_length).reshape(-1, max_length)
    return symbols, reconstruction(symbols, jnp.array(lengths))


def test_end_follows_the_symbols_and_padding_the_end():
    _, batch = make([2, 4, 1])
    expected = [[10, 11, END, PAD, PAD], [14, 15, 16, 17, END], [18, END, PAD, PAD, PAD]]
    np.testing.assert_array_equal(batch.source, expected)


def test_the_target_is_the_source():
    _, batch = make([3, 1])
    np.testing.assert_array_equal(batch.target, batch.source)
    np.testing.assert_array_equal(batch.target_length, batch.source_length)


def test_the_end_counts():
    _, batch = make([2, 4])
    np.testing.assert_array_equal(batch.source_length, [3, 5])
    np.testing.assert_array_equal(batch.target_mask, [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])


def test_each_step_is_aligned_with_its_source_and_padding_with_none():
    _, batch = make([2, 4])
    np.testing.assert_array_equal(batch.alignment, [[0, 1, 2, -1, -1], [0, 1, 2, 3, 4]])


def test_alignment_points_to_the_token_that_was_produced():
    _, batch = make([1, 2, 3, 4])
    pointed_at = np.take_along_axis(np.asarray(batch.source), np.asarray(batch.alignment), axis=1)
    assert np.all((pointed_at == batch.target) | ~np.asarray(batch.target_mask))
    np.testing.assert_array_equal(batch.alignment == -1, ~np.asarray(batch.target_mask))


@pytest.mark.parametrize("length", [0, 1, 3])
def test_before_marks_the_first_steps(length):
    assert np.asarray(before(jnp.array([length]), 3)).tolist() == [[n < length for n in range(3)]]


def test_take_takes_rows_of_everything():
    _, batch = make([2, 4, 1])
    some = take(batch, jnp.array([2, 0]))
    np.testing.assert_array_equal(some.source, batch.source[np.array([2, 0])])
    np.testing.assert_array_equal(some.target_length, [2, 3])
    np.testing.assert_array_equal(some.alignment[0], [0, 1, -1, -1, -1])
