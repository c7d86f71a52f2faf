import jax
import numpy as np
import pytest
from small import assert_same_bits

from attention.lab.tasks.batch import END, PAD, RESERVED
from attention.lab.tasks.copy import Copy
from attention.lab.training.streams import Stream, stream_key

SYMBOLS, MAX_LENGTH, SIZE = 3, 5, 997
TASK = Copy(SYMBOLS, MAX_LENGTH)


@pytest.fixture(scope="module")
def batch():
    return TASK.sample(jax.random.key(0), SIZE)


def share_of_equal_rows(a, b):
    return np.mean(np.all(np.asarray(a.source) == np.asarray(b.source), axis=1))


def test_the_example_of_the_docstring_is_a_batch_of_the_task():
    b, a, c = RESERVED + 1, RESERVED, RESERVED + 2
    batch = Copy(symbols=3, max_length=4).sample(jax.random.key(0), SIZE)
    rows = np.flatnonzero(np.all(np.asarray(batch.source) == [b, a, c, END, PAD], axis=1))
    assert rows.size
    for row in rows:
        np.testing.assert_array_equal(batch.target[row], [b, a, c, END, PAD])
        np.testing.assert_array_equal(batch.alignment[row], [0, 1, 2, 3, -1])


def test_lengths_are_uniform_from_one_to_the_greatest(batch):
    lengths, counts = np.unique(np.asarray(batch.source_length) - 1, return_counts=True)
    np.testing.assert_array_equal(lengths, np.arange(1, MAX_LENGTH + 1))
    np.testing.assert_allclose(counts / SIZE, 1 / MAX_LENGTH, atol=0.05)


def test_log_uniform_lengths_are_trained_on_alone():
    task = Copy(symbols=3, max_length=MAX_LENGTH, length_distribution="log_uniform")
    lengths = np.asarray(task.sample(jax.random.key(0), 8009).source_length) - 1
    counts = np.bincount(lengths, minlength=MAX_LENGTH + 1)
    expected = np.diff(np.log(np.arange(1, MAX_LENGTH + 2))) / np.log(MAX_LENGTH + 1)
    assert counts.shape == (MAX_LENGTH + 1,)
    np.testing.assert_allclose(counts[1:] / counts.sum(), expected, atol=0.02)
    held_out, uniform = (
        t.held_out("test", jax.random.key(1), 31)
        for t in (task, Copy(symbols=3, max_length=MAX_LENGTH))
    )
    np.testing.assert_array_equal(held_out.source, uniform.source)


def test_symbols_are_uniform_at_every_position(batch):
    for position in range(MAX_LENGTH):
        column = np.asarray(batch.source[:, position])
        symbols, counts = np.unique(column[column >= RESERVED], return_counts=True)
        np.testing.assert_array_equal(symbols, RESERVED + np.arange(SYMBOLS))
        np.testing.assert_allclose(counts / counts.sum(), 1 / SYMBOLS, atol=0.12)


def test_the_vocabulary_holds_every_token(batch):
    assert TASK.vocabulary == SYMBOLS + RESERVED
    assert int(batch.source.max()) == TASK.vocabulary - 1


def test_the_same_seed_and_step_give_the_same_batch_and_others_do_not():
    def draw(seed, step):
        return TASK.sample(jax.random.fold_in(stream_key(seed, Stream.TRAIN), step), 31)

    np.testing.assert_array_equal(draw(0, 3).source, draw(0, 3).source)
    assert share_of_equal_rows(draw(0, 3), draw(0, 4)) < 0.5
    assert share_of_equal_rows(draw(0, 3), draw(1, 3)) < 0.5


def test_a_batch_is_the_same_inside_a_compiled_step():
    compiled = jax.jit(lambda task, key: task.sample(key, 31))
    key = jax.random.key(5)
    assert_same_bits(compiled(TASK, key), TASK.sample(key, 31))


@pytest.mark.parametrize("length", [None, 5])
def test_training_validation_and_test_are_disjoint_streams(length):
    task = Copy(symbols=1000, max_length=5)
    rows = [
        tuple(row)
        for stream in (Stream.TRAIN, Stream.VALIDATION, Stream.TEST)
        for row in task.held_out("any", stream_key(0, stream), 61, length).source.tolist()
    ]
    long = [row for row in rows if row.count(PAD) <= 2]  # those that chance does not repeat
    assert len(set(long)) == len(long) > 61


@pytest.mark.parametrize("length", range(1, MAX_LENGTH + 1))
def test_held_out_sequences_have_the_length_that_was_asked_for(length):
    batch = TASK.held_out("test", jax.random.key(0), 23, length)
    np.testing.assert_array_equal(batch.source_length, np.full(23, length + 1))
    np.testing.assert_array_equal(batch.source[:, length], np.full(23, END))


def test_held_out_sequences_of_mixed_lengths():
    batch = TASK.held_out("test", jax.random.key(0), 211)
    assert set(np.asarray(batch.source_length).tolist()) == set(range(2, MAX_LENGTH + 2))
