from types import SimpleNamespace

import jax
import numpy as np
import pytest
from small import assert_same_bits

from attention.lab.tasks.batch import PAD, RESERVED
from attention.lab.tasks.recall import Recall, distinct
from attention.lab.training.streams import Stream, stream_key

SYMBOLS, PAIRS, SPAN, SIZE = 11, 3, 13, 499
TASK = Recall(SYMBOLS, PAIRS, SPAN)
KEYS = range(RESERVED, RESERVED + 5)
VALUES = range(RESERVED + 5, RESERVED + SYMBOLS)
BLANK = RESERVED + SYMBOLS


def in_numpy(batch):
    return SimpleNamespace(**{name: np.asarray(leaf) for name, leaf in vars(batch).items()})


@pytest.fixture(scope="module")
def batch():
    return in_numpy(TASK.sample(jax.random.key(0), SIZE))


def rows(batch):
    """The examples, one by one: pairs, what follows them, questions, answers, alignment."""
    for n, pairs in enumerate(batch.target_length):
        source = batch.source[n].tolist()
        asked = (leaf[n, :pairs].tolist() for leaf in (batch.question, batch.target))
        yield source[: 2 * pairs], source[2 * pairs :], *asked, batch.alignment[n, :pairs].tolist()


def test_the_example_of_the_docstring_is_a_batch_of_the_task():
    task = Recall(symbols=4, max_length=2, span=10)
    a, b, x, y, dot = range(RESERVED, RESERVED + 5)
    batch = in_numpy(task.held_out("any", jax.random.key(0), 9973, 2))
    source = [b, x, a, y, dot, dot, a, dot, b, dot]
    found = np.flatnonzero(np.all(batch.source == source, axis=1))
    assert found.size
    for row in found:
        assert batch.question[row].tolist() == [a, b]
        assert batch.target[row].tolist() == [y, x]
        assert batch.alignment[row].tolist() == [3, 1]


def test_the_answer_is_what_a_dictionary_of_the_pairs_says(batch):
    for pairs, rest, question, target, alignment in rows(batch):
        dictionary = dict(zip(pairs[::2], pairs[1::2], strict=True))
        asked = [token for token in rest if token != BLANK]
        assert question == asked
        assert sorted(asked) == sorted(dictionary)
        assert target == [dictionary[key] for key in asked]
        assert alignment == [pairs.index(key) + 1 for key in asked]


def test_keys_and_values_are_apart_and_none_comes_twice(batch):
    for pairs, *_ in rows(batch):
        assert set(pairs[::2]) <= set(KEYS)
        assert set(pairs[1::2]) <= set(VALUES)
        assert len(set(pairs)) == len(pairs)


def test_keys_come_again_at_even_gaps_and_sooner_rather_than_later(batch):
    places = []
    for pairs, rest, *_ in rows(batch):
        here = np.flatnonzero(np.array(rest) != BLANK)
        assert np.all(here % 2 == 0)
        places += here.tolist() if len(pairs) == 2 else []
    counts = np.bincount(places, minlength=SPAN - 2)[: SPAN - 3 : 2]
    weight = np.arange(1.0, len(counts) + 1) ** (0.01 - 1)
    np.testing.assert_allclose(counts / counts.sum(), weight / weight.sum(), atol=0.09)


def test_what_is_beyond_the_questions_is_padding(batch):
    assert batch.source.shape == (SIZE, SPAN)
    np.testing.assert_array_equal(batch.source_length, SPAN)
    beyond = np.arange(PAIRS) >= batch.target_length[:, None]
    for leaf, padding in ((batch.question, PAD), (batch.target, PAD), (batch.alignment, -1)):
        assert leaf.shape == (SIZE, PAIRS)
        np.testing.assert_array_equal(leaf == padding, beyond)


def test_numbers_of_pairs_and_symbols_are_uniform(batch):
    pairs, counts = np.unique(batch.target_length, return_counts=True)
    np.testing.assert_array_equal(pairs, [1, 2, 3])
    np.testing.assert_allclose(counts / SIZE, 1 / 3, atol=0.06)
    for leaf, expected in ((batch.question, KEYS), (batch.target, VALUES)):
        symbols, counts = np.unique(leaf[leaf != PAD], return_counts=True)
        np.testing.assert_array_equal(symbols, expected)
        np.testing.assert_allclose(counts / counts.sum(), 1 / len(expected), atol=0.04)
    assert TASK.vocabulary - 1 == batch.source.max() == BLANK


def test_a_batch_is_the_same_inside_a_compiled_step(batch):
    compiled = in_numpy(TASK.held_out("any", jax.random.key(0), SIZE))
    assert_same_bits(vars(compiled), vars(batch))


def test_training_validation_and_test_are_disjoint_streams():
    task = Recall(1009, 5, 23)
    drawn = [
        tuple(row)
        for stream in (Stream.TRAIN, Stream.VALIDATION, Stream.TEST)
        for row in task.held_out("any", stream_key(0, stream), 61, 3).source.tolist()
    ]
    assert len(set(drawn)) == len(drawn) == 183


def test_held_out_sequences_have_the_number_of_pairs_that_was_asked_for():
    batch = TASK.held_out("test", jax.random.key(0), 23, 2)
    np.testing.assert_array_equal(batch.target_length, np.full(23, 2))


def test_distinct_draws_every_arrangement_alike():
    drawn = np.asarray(distinct(jax.random.key(0), (7919, 2), 3))
    arrangements, counts = np.unique(drawn, axis=0, return_counts=True)
    assert arrangements.tolist() == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]
    np.testing.assert_allclose(counts / 7919, 1 / 6, atol=0.015)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"^span=11: must be at least 12, four .*max_length=3"):
        Recall(symbols=11, max_length=3, span=11)
    with pytest.raises(ValueError, match=r"^symbols=5: must be at least 6, twice max_length=3"):
        Recall(symbols=5, max_length=3, span=13)
