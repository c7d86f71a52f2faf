"""Every synthetic task but `copy`, which has its own tests: what its batches are made of."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from small import assert_same_bits

from attention.lab.tasks.batch import END, PAD, RESERVED
from attention.lab.tasks.duplicate import Duplicate
from attention.lab.tasks.reverse import Reverse
from attention.lab.tasks.selective_copy import SelectiveCopy
from attention.lab.tasks.sort import Sort
from attention.lab.training.streams import Stream, stream_key

SYMBOLS, MAX_LENGTH, SPAN, SIZE = 7, 5, 11, 499
TASKS = {
    "duplicate": Duplicate(SYMBOLS, MAX_LENGTH),
    "reverse": Reverse(SYMBOLS, MAX_LENGTH),
    "selective_copy": SelectiveCopy(SYMBOLS, MAX_LENGTH, SPAN),
    "sort": Sort(SYMBOLS, MAX_LENGTH),
}
BLANK = RESERVED + SYMBOLS
SOLVE = {
    "duplicate": lambda symbols: symbols + symbols,
    "reverse": lambda symbols: symbols[::-1],
    "selective_copy": lambda symbols: [symbol for symbol in symbols if symbol != BLANK],
    "sort": sorted,
}

every_task = pytest.mark.parametrize("name", TASKS)


@pytest.fixture(scope="module")
def batches():
    """A batch of each task, as NumPy arrays."""
    return {name: in_numpy(task.sample(jax.random.key(0), SIZE)) for name, task in TASKS.items()}


def in_numpy(batch):
    return SimpleNamespace(**{name: np.asarray(leaf) for name, leaf in vars(batch).items()})


def rows(batch):
    """The examples, one by one: source, target and alignment without padding."""
    for n in range(len(batch.source)):
        steps = batch.target_length[n]
        yield (
            batch.source[n, : batch.source_length[n]].tolist(),
            batch.target[n, :steps].tolist(),
            batch.alignment[n, :steps].tolist(),
        )


@every_task
def test_the_target_is_what_plain_python_makes_of_the_source(name, batches):
    for source, target, _ in rows(batches[name]):
        assert source[-1] == END
        assert target == [*SOLVE[name](source[:-1]), END]


@every_task
def test_each_step_is_aligned_with_the_token_that_it_is(name, batches):
    for source, target, alignment in rows(batches[name]):
        assert [source[index] for index in alignment] == target
        assert alignment[-1] == len(source) - 1  # the END of the source


def test_symbols_are_aligned_in_the_order_of_the_task(batches):
    """Where a symbol comes twice, the token alone does not tell which one is meant."""
    for source, _, alignment in rows(batches["reverse"]):
        assert alignment[:-1] == list(range(len(source) - 1))[::-1]
    for source, _, alignment in rows(batches["duplicate"]):
        assert alignment[:-1] == 2 * list(range(len(source) - 1))
    for _, _, alignment in rows(batches["selective_copy"]):
        assert alignment == sorted(set(alignment))


@every_task
def test_what_is_beyond_the_lengths_is_padding(name, batches):
    batch, task = batches[name], TASKS[name]
    assert batch.source.shape == (SIZE, task.source_time)
    assert batch.target.shape == batch.alignment.shape == (SIZE, task.target_time)
    beyond = np.arange(task.source_time) >= batch.source_length[:, None]
    assert np.all((batch.source == PAD) == beyond)
    beyond = np.arange(task.target_time) >= batch.target_length[:, None]
    assert np.all((batch.target == PAD) == beyond)
    assert np.all((batch.alignment == -1) == beyond)


@every_task
def test_lengths_are_uniform_from_one_to_the_greatest(name, batches):
    symbols = (batches[name].target_length - 1) // (2 if name == "duplicate" else 1)
    lengths, counts = np.unique(symbols, return_counts=True)
    np.testing.assert_array_equal(lengths, np.arange(1, MAX_LENGTH + 1))
    np.testing.assert_allclose(counts / SIZE, 1 / MAX_LENGTH, atol=0.06)


@every_task
def test_symbols_are_uniform(name, batches):
    target = batches[name].target
    symbols, counts = np.unique(target[target >= RESERVED], return_counts=True)
    np.testing.assert_array_equal(symbols, RESERVED + np.arange(SYMBOLS))
    np.testing.assert_allclose(counts / counts.sum(), 1 / SYMBOLS, atol=0.03)


@every_task
def test_the_vocabulary_holds_every_token(name, batches):
    assert batches[name].source.max() == TASKS[name].vocabulary - 1


@every_task
def test_a_batch_is_the_same_inside_a_compiled_step(name, batches):
    compiled = in_numpy(TASKS[name].held_out("any", jax.random.key(0), SIZE))
    assert_same_bits(vars(compiled), vars(batches[name]))


@every_task
@pytest.mark.parametrize("length", [None, 5])
def test_training_validation_and_test_are_disjoint_streams(name, length):
    changes = {"symbols": 1000, "max_length": 5}
    task = type(TASKS[name])(**changes | ({"span": SPAN} if name == "selective_copy" else {}))
    drawn = [
        tuple(row)
        for stream in (Stream.TRAIN, Stream.VALIDATION, Stream.TEST)
        for row in task.held_out("any", stream_key(0, stream), 61, length).target.tolist()
    ]
    # Those that chance does not repeat: three symbols or more.
    long = [row for row in drawn if len({token for token in row if token >= RESERVED}) >= 3]
    assert len(set(long)) == len(long) > 61


@every_task
def test_held_out_sequences_have_the_length_that_was_asked_for(name):
    for length in (1, MAX_LENGTH):
        batch = TASKS[name].held_out("test", jax.random.key(0), 23, length)
        steps = 2 * length if name == "duplicate" else length
        np.testing.assert_array_equal(batch.target_length, np.full(23, steps + 1))
        tokens = SPAN if name == "selective_copy" else length
        np.testing.assert_array_equal(batch.source_length, np.full(23, tokens + 1))


def test_no_symbol_comes_twice_in_a_sequence_to_sort(batches):
    for _, target, _ in rows(batches["sort"]):
        assert len(set(target)) == len(target)


def test_symbols_are_scattered_over_the_whole_span(batches):
    is_symbol = batches["selective_copy"].source[:, :-1] != BLANK
    mean_length = (1 + MAX_LENGTH) / 2
    np.testing.assert_allclose(is_symbol.mean(axis=0), mean_length / SPAN, atol=0.08)


A, B, C, DOT = RESERVED, RESERVED + 1, RESERVED + 2, RESERVED + 3
EXAMPLES = {
    "duplicate": (
        Duplicate(symbols=3, max_length=3),
        [B, A, END, PAD],
        [B, A, B, A, END, PAD, PAD],
        [0, 1, 0, 1, 2, -1, -1],
    ),
    "reverse": (
        Reverse(symbols=3, max_length=4),
        [B, A, C, END, PAD],
        [C, A, B, END, PAD],
        [2, 1, 0, 3, -1],
    ),
    "selective_copy": (
        SelectiveCopy(symbols=3, max_length=3, span=5),
        [DOT, B, DOT, DOT, A, END],
        [B, A, END, PAD],
        [1, 4, 5, -1],
    ),
    "sort": (Sort(symbols=3, max_length=3), [C, A, END, PAD], [A, C, END, PAD], [1, 0, 2, -1]),
}


@every_task
def test_the_example_of_the_docstring_is_a_batch_of_the_task(name):
    task, source, target, alignment = EXAMPLES[name]
    batch = task.held_out("any", jax.random.key(0), 997)
    found = np.flatnonzero(np.all(np.asarray(batch.source) == source, axis=1))
    assert found.size
    for row in found:
        np.testing.assert_array_equal(batch.target[row], target)
        np.testing.assert_array_equal(batch.alignment[row], alignment)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"^symbols=3: must be at least max_length=4"):
        Sort(symbols=3, max_length=4)
    with pytest.raises(ValueError, match=r"^span=3: must be at least max_length=4"):
        SelectiveCopy(symbols=3, max_length=4, span=3)
