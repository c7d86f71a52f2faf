from types import SimpleNamespace

import jax
import numpy as np
import pytest
from small import assert_same_bits

from attention.lab.tasks.batch import PAD, RESERVED
from attention.lab.tasks.lookup import Lookup
from attention.lab.training.streams import Stream, stream_key

SYMBOLS, PAIRS, SIZE = 5, 3, 499
TASK = Lookup(SYMBOLS, PAIRS)
KEYS = range(RESERVED, RESERVED + SYMBOLS)
VALUES = range(RESERVED + SYMBOLS, RESERVED + 2 * SYMBOLS)
PAIR_TOKENS = {
    RESERVED + 2 * SYMBOLS + SYMBOLS * k + v: (key, value)
    for k, key in enumerate(KEYS)
    for v, value in enumerate(VALUES)
}


def in_numpy(batch):
    return SimpleNamespace(**{name: np.asarray(leaf) for name, leaf in vars(batch).items()})


@pytest.fixture(scope="module")
def batch():
    return in_numpy(TASK.sample(jax.random.key(0), SIZE))


def rows(batch):
    """The examples, one by one: pairs, questions, answers, alignment."""
    leaves = (batch.source, batch.question, batch.target, batch.alignment)
    for n, pairs in enumerate(batch.target_length):
        yield tuple(leaf[n, :pairs].tolist() for leaf in leaves)


def test_the_example_of_the_docstring_is_a_batch_of_the_task():
    batch = in_numpy(Lookup(symbols=3, max_length=3).held_out("any", jax.random.key(0), 997))
    a, _, c, x, _, z = range(RESERVED, RESERVED + 6)
    c_with_x, a_with_z = RESERVED + 6 + 6, RESERVED + 6 + 2
    found = np.flatnonzero(np.all(batch.source == [c_with_x, a_with_z, PAD], axis=1))
    assert found.size
    for row in found:
        assert batch.question[row].tolist() == [a, c, PAD]
        assert batch.target[row].tolist() == [z, x, PAD]
        assert batch.alignment[row].tolist() == [1, 0, -1]


def test_the_answer_is_what_a_dictionary_of_the_pairs_says(batch):
    for source, question, target, alignment in rows(batch):
        dictionary = dict(PAIR_TOKENS[token] for token in source)
        assert question == sorted(dictionary)
        assert target == [dictionary[key] for key in question]
        assert [PAIR_TOKENS[source[index]][0] for index in alignment] == question


def test_no_key_and_no_value_comes_twice(batch):
    for _, question, target, _ in rows(batch):
        assert len(set(question)) == len(set(target)) == len(question)


def test_the_order_of_the_pairs_tells_nothing(batch):
    """Alignments of the largest dictionaries: each order is as frequent as any other."""
    whole = batch.alignment[batch.target_length == PAIRS]
    orders, counts = np.unique(whole, axis=0, return_counts=True)
    assert len(orders) == 6
    np.testing.assert_allclose(counts / len(whole), 1 / 6, atol=0.1)


def test_what_is_beyond_the_dictionary_is_padding(batch):
    np.testing.assert_array_equal(batch.source_length, batch.target_length)
    beyond = np.arange(PAIRS) >= batch.target_length[:, None]
    padded = [(batch.alignment, -1)]
    padded += [(leaf, PAD) for leaf in (batch.source, batch.question, batch.target)]
    for leaf, padding in padded:
        assert leaf.shape == (SIZE, PAIRS)
        np.testing.assert_array_equal(leaf == padding, beyond)


def test_sizes_keys_and_values_are_uniform(batch):
    sizes, counts = np.unique(batch.target_length, return_counts=True)
    np.testing.assert_array_equal(sizes, [1, 2, 3])
    np.testing.assert_allclose(counts / SIZE, 1 / 3, atol=0.06)
    for leaf, expected in ((batch.question, KEYS), (batch.target, VALUES)):
        tokens, counts = np.unique(leaf[leaf != PAD], return_counts=True)
        np.testing.assert_array_equal(tokens, expected)
        np.testing.assert_allclose(counts / counts.sum(), 1 / SYMBOLS, atol=0.04)
    assert TASK.vocabulary - 1 == batch.source.max() == max(PAIR_TOKENS)


def test_a_batch_is_the_same_inside_a_compiled_step(batch):
    compiled = in_numpy(TASK.held_out("any", jax.random.key(0), SIZE))
    assert_same_bits(vars(compiled), vars(batch))


def test_training_validation_and_test_are_disjoint_streams():
    drawn = [
        tuple(row)
        for stream in (Stream.TRAIN, Stream.VALIDATION, Stream.TEST)
        for row in Lookup(97, 5).held_out("any", stream_key(0, stream), 61, 5).source.tolist()
    ]
    assert len(set(drawn)) == len(drawn) == 183


def test_held_out_dictionaries_have_the_size_that_was_asked_for():
    batch = TASK.held_out("test", jax.random.key(0), 23, 2)
    np.testing.assert_array_equal(batch.target_length, np.full(23, 2))


def test_what_does_not_fit_is_refused():
    Lookup(symbols=46339)
    with pytest.raises(ValueError, match=r"^symbols=46340: must be at most 46339, every pair "):
        Lookup(symbols=46340)
    with pytest.raises(ValueError, match=r"^symbols=3: must be at least max_length=4"):
        Lookup(symbols=3, max_length=4)
