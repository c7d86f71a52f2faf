import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import DICTIONARY, small, untrained

from attention.lab.parallel.devices import fast_to_compile
from attention.lab.training import drawn
from attention.lab.training.build import build
from attention.lab.training.drawn import Draws, Watched, fingerprints, joined
from attention.lab.training.evaluate import Evaluator
from attention.lab.training.streams import Stream, stream_key

STEPS, SEED = 13, 3


@pytest.fixture(scope="module")
def experiment():
    """Copies of up to four of three symbols: 120 sequences, of which training draws 91."""
    return build(small({"seed": SEED, "num_seeds": 2, "eval.sequences": 29}), None)


def sequences(batch):
    rows = zip(np.asarray(batch.source), np.asarray(batch.source_length), strict=True)
    return [tuple(source[:length].tolist()) for source, length in rows]


def first_steps(experiment, seed, steps=STEPS):
    """The step in which training first draws each sequence, draw by draw."""
    key, first = stream_key(seed, Stream.TRAIN), {}
    for step in range(steps):
        batch = experiment.task.sample(jax.random.fold_in(key, step), 7)
        for sequence in sequences(batch):
            first.setdefault(sequence, step)
    return first


def held_out(experiment, seed, length=None):
    return experiment.task.held_out("test", stream_key(seed, Stream.TEST), 29, length)


def watched(experiment, lengths, seed=SEED):
    sets = {n: joined(fingerprints(vars(held_out(experiment, seed, n)))) for n in lengths}
    return Watched(Draws(experiment), seed, sets)


@pytest.mark.parametrize(("rows_at_once", "kept"), [(2**16, 2**22), (21, 2**22), (35, 70), (1, 0)])
def test_what_training_drew_is_found_however_it_is_asked_for(
    experiment, monkeypatch, rows_at_once, kept
):
    monkeypatch.setattr(drawn, "ROWS_AT_ONCE", rows_at_once)
    monkeypatch.setattr(drawn, "MOST_KEPT", kept)
    first, lengths = first_steps(experiment, SEED), (None, 2, 4)
    both = watched(experiment, lengths), watched(experiment, lengths[:2])
    both[1]._draws = both[0]._draws  # what is kept serves the second
    for steps, watch in itertools.product((6, 5, 6, 13, 1, 0), both):
        for length in lengths[: 2 if watch is both[1] else 3]:
            expected = [
                first.get(sequence, STEPS) < steps
                for sequence in sequences(held_out(experiment, SEED, length))
            ]
            assert watch.are_drawn(length, steps).tolist() == expected
            assert any(expected) or steps < 5
            assert not all(expected)


def test_figures_are_of_what_training_did_not_draw(experiment):
    """Replicas that are as far as step 13 and step 5, of other seeds."""
    state, steps = untrained(experiment), np.array([STEPS, 5], np.int32)
    state = replace(state, step=jax.device_put(steps))
    found = Evaluator(experiment).report(state, "test", [2])
    everything = {"eval.leave_out_trained": False, "eval.sequences": 29}
    counting = build(small({"seed": SEED, "num_seeds": 2} | everything), None)
    whole = Evaluator(counting).report(state, "test", [2])
    for number, length in itertools.product((0, 1), (None, 2)):
        first = first_steps(experiment, SEED + number)
        batch = held_out(experiment, SEED + number, length)
        fresh = np.array([first.get(s, STEPS) >= steps[number] for s in sequences(batch)])
        assert 0 < fresh.sum() < 29
        rows, complete = (
            each["replicas"][number]["by_length"]["2"]
            if length
            else each["replicas"][number]["all"]
            for each in (found, whole)
        )
        assert (rows["sequences"], rows["left_out"], rows["trained_on"]) == (
            fresh.sum(),
            29 - fresh.sum(),
            0,
        )
        assert (complete["sequences"], complete["left_out"]) == (29, 0)
        assert complete["trained_on"] == 29 - fresh.sum()
        parameters = jax.tree.map(lambda leaf, n=number: leaf[n], state.parameters)
        tokens = np.asarray(Evaluator(experiment).reconstruct(parameters, batch).tokens)
        counts = np.arange(5) < np.asarray(batch.target_length)[:, None]
        right = (tokens == np.asarray(batch.target)) & counts
        assert rows["token_accuracy"] == pytest.approx(right[fresh].sum() / counts[fresh].sum())
        assert complete["token_accuracy"] == pytest.approx(right.sum() / counts.sum())


def test_where_splits_are_disjoint_nothing_is_drawn_again(monkeypatch):
    experiment = build(small(task="cmudict"), DICTIONARY)
    monkeypatch.setattr(Draws, "between", lambda *_: pytest.fail("drawn"))
    state = untrained(experiment)
    state = replace(state, step=jax.device_put(np.array([STEPS], np.int32)))
    found = Evaluator(experiment).report(state, "test")["all"]
    assert (found["sequences"], found["left_out"], found["trained_on"]) == (1, 0, 0)


def test_a_held_out_line_that_is_a_piece_of_a_training_line_is_left_out():
    """The line `d` is in the test, and all others have a d in the middle."""
    text = b"\n".join(b"%dd%d" % (n, n) for n in range(10)) + b"\nd"
    settings = small({"task.crop_fraction": 1.0, "train.steps": 199}, task="text")
    experiment = build(settings, text)
    assert not experiment.task.disjoint
    assert replace(experiment.task, crop_fraction=0.0).disjoint
    state = untrained(experiment)
    state = replace(state, step=jax.device_put(np.array([199], np.int32)))
    assert experiment.task.test.length.tolist() == [1]
    assert Evaluator(experiment).report(state, "test")["all"]["left_out"] == 1


# Fingerprints


def fields(source, length, question=None):
    source = np.asarray(source)
    return {
        "source": source,
        "source_length": np.asarray(length),
        "question": question,
        "target_length": np.full(len(source), 2),
    }


def test_every_sequence_has_a_fingerprint_of_its_own():
    """All of up to seven of four tokens, END among them."""
    listed = [s for n in range(8) for s in itertools.product(range(1, 5), repeat=n)]
    padded = [s + (0,) * (7 - len(s)) for s in listed]
    halves = fingerprints(fields(padded, list(map(len, listed))))
    assert len(np.unique(joined(halves))) == len(listed) == 21845
    # Either half alone would have to be as good as chance: 21845² / 2³³ = 0.06 pairs.
    assert all(len(np.unique(half)) >= len(listed) - 1 for half in halves.T)


def test_fingerprints_are_the_same_in_a_program_and_whatever_the_padding():
    rng = np.random.default_rng(0)
    for dtype, features in ((np.int32, ()), (np.float32, (3,))):
        source = rng.integers(0, 2**20, (11, 5, *features)).astype(dtype)
        length = rng.integers(0, 6, 11)
        expected = joined(fingerprints(fields(source, length)))
        widths = [(0, 0), (0, 2)] + [(0, 0)] * len(features)
        other = np.pad(source, widths, constant_values=7)
        batch = jax.tree.map(jnp.asarray, fields(other, length))
        options = fast_to_compile(jax.devices())
        halves = jax.jit(lambda b: fingerprints(b, jnp), compiler_options=options)(batch)
        np.testing.assert_array_equal(joined(np.asarray(halves)), expected)
        assert len(set(expected[length > 0].tolist())) == np.sum(length > 0)


def test_a_fingerprint_tells_questions_apart_and_places_but_not_zeros():
    asked = [fields([[5, 6, 7]] * 2, [3, 3], np.array([[5, n], [n, 5]])) for n in (6, 7)]
    alone = fields([[5, 6, 7], [6, 5, 7]], [3, 3])
    prints = np.concatenate([joined(fingerprints(each)) for each in (*asked, alone)])
    assert len(set(prints.tolist())) == 6
    zeros = joined(fingerprints(fields([[[0.0, 1.0]], [[-0.0, 1.0]], [[1.0, 0.0]]], [1, 1, 1])))
    assert zeros[0] == zeros[1] != zeros[2]
