import dataclasses
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import DICTIONARY, IMAGES, replica, small, untrained

from attention.lab.analysis.figures import CELL, GAP, LABEL
from attention.lab.models.decoders import DECODERS
from attention.lab.models.reconstructor import Reconstruction
from attention.lab.tasks.batch import END, PAD
from attention.lab.tasks.pronunciation import PHONEMES
from attention.lab.training.build import build
from attention.lab.training.evaluate import Evaluator
from attention.lab.training.streams import Stream, stream_key

NULL = {
    "sequences": 0,
    "token_accuracy": None,
    "exact_match": None,
    "alignment_accuracy": None,
    "alignment_accuracy_by_head": [None, None],
    "query_dependence": None,
    "trained_on": 0,
    "left_out": 0,
}


def make(changes=(), source=None, seed=0, **kinds):
    """An experiment, and a state that no training has seen."""
    experiment = build(small(changes, **kinds), source)
    return experiment, untrained(experiment, seed)


@pytest.fixture(scope="module")
def parallel():
    return make({"eval.sequences": 29, "eval.batch_size": 8})


@pytest.fixture(scope="module")
def text():
    """Ten lines of one byte: one to validate, one to test."""
    return make(source=b"\n".join(b"%d" % n for n in range(10)), task="text")


def shares_one_by_one(experiment, state, batch, number=0):
    """The metrics of a replica, counted as they are defined."""

    @jax.jit
    def reconstruct(parameters, source, length, question):
        steps = batch.target.shape[1]
        return experiment.model(parameters).reconstruct(source, length, steps, question)

    output = reconstruct(
        replica(state.parameters, number), batch.source, batch.source_length, batch.question
    )
    tokens, weights = map(np.asarray, (output.tokens, output.weights))
    target, alignment = map(np.asarray, (batch.target, batch.alignment))
    exact, right, aligned, departing, comparable = [], [], [], 0, 0
    for n, length in enumerate(np.asarray(batch.target_length)):
        counted = range(length)
        right_here = [int(tokens[n, t] == target[n, t]) for t in counted]
        exact.append(all(right_here))
        right += right_here
        heads = weights[n]
        maps = [heads.mean(axis=0), *heads]
        aligned += [[int(m[t].argmax() == alignment[n, t]) for m in maps] for t in counted]
        looked_at = Counter(int(maps[0][t].argmax()) for t in counted)
        departing += len(counted) - max(looked_at.values())
        comparable += len(counted) - 1
    aligned = np.mean(aligned, axis=0)
    return {
        "sequences": len(exact),
        "token_accuracy": np.mean(right),
        "exact_match": np.mean(exact),
        "alignment_accuracy": aligned[0],
        "alignment_accuracy_by_head": aligned[1:].tolist(),
        "query_dependence": departing / comparable if comparable else None,
        "trained_on": 0,  # the states here are untrained
        "left_out": 0,
    }


@pytest.mark.parametrize(
    ("split", "stream"), [("validation", Stream.VALIDATION), ("test", Stream.TEST)]
)
@pytest.mark.parametrize("length", [None, 1, 4])
def test_the_report_equals_counting_one_by_one(parallel, split, stream, length):
    experiment, state = parallel
    report = Evaluator(experiment).report(state, split, [length] if length else [])
    found = report["by_length"][str(length)] if length else report["all"]
    key = stream_key(experiment.settings.seed, stream)
    batch = experiment.task.held_out(split, key, 29, length)
    expected = shares_one_by_one(experiment, state, batch)
    assert found == {name: pytest.approx(value) for name, value in expected.items()}
    assert 0 < found["token_accuracy"] < 1
    assert 0 < found["alignment_accuracy"] < 1
    assert length == 1 or 0 < found["query_dependence"] < 1


@pytest.mark.parametrize("task", ["lookup", "recall"])
def test_questions_are_asked_in_evaluation(task):
    changes = {"task.symbols": 11, "task.max_length": 3}
    experiment, parameters = make(changes, task=task)
    found = Evaluator(experiment).report(parameters, "test", [3])["by_length"]["3"]
    batch = experiment.task.held_out("test", stream_key(0, Stream.TEST), 11, 3)
    expected = shares_one_by_one(experiment, parameters, batch)
    assert found == {name: pytest.approx(value) for name, value in expected.items()}


@pytest.mark.parametrize("score", ["linear", "mlp_pooling"])
def test_a_score_of_the_key_alone_does_not_depend_on_the_query(score):
    experiment, parameters = make(score=score)
    found = Evaluator(experiment).report(parameters, "test", [1, 4])
    assert found["all"]["query_dependence"] == 0
    assert found["by_length"]["4"]["query_dependence"] == 0


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("task", ["duplicate", "selective_copy"])
def test_source_and_target_may_differ_in_time(task, decoder):
    experiment, state = make({"model.decoder": decoder}, task=task)
    assert experiment.task.source_time != experiment.task.target_time
    evaluator = Evaluator(experiment)
    found = evaluator.report(state, "test", [3])["by_length"]["3"]
    batch = experiment.task.held_out("test", stream_key(0, Stream.TEST), 11, 3)
    pixels = evaluator.picture(state, examples=1)
    if decoder == "pooled":
        assert (found["alignment_accuracy"], pixels) == (None, None)
        return
    expected = shares_one_by_one(experiment, state, batch)
    assert found == {name: pytest.approx(value) for name, value in expected.items()}
    first = experiment.task.held_out("validation", stream_key(0, Stream.VALIDATION), 11)
    steps, tokens = int(first.target_length[0]), int(first.source_length[0])
    assert pixels.shape[0] == LABEL + steps * CELL + GAP
    assert pixels.shape[1] == 2 * (max(tokens * CELL, 56) + GAP)


def test_the_report_does_not_depend_on_the_batch_size(parallel):
    experiment, state = parallel
    whole = build(small({"eval.sequences": 29, "eval.batch_size": 29}), None)
    expected = Evaluator(experiment).report(state, "test", [2])
    assert Evaluator(whole).report(state, "test", [2]) == expected


def test_validation_and_test_are_other_sequences(parallel):
    experiment, state = parallel
    evaluator = Evaluator(experiment)
    assert evaluator.report(state, "validation") != evaluator.report(state, "test")


def test_a_model_with_one_context_has_no_alignment():
    experiment, state = make({"model.decoder": "pooled"})
    evaluator = Evaluator(experiment)
    found = evaluator.report(state, "test")["all"]
    assert found["sequences"] == 11
    assert found["token_accuracy"] is not None
    assert found["alignment_accuracy"] is None
    assert found["alignment_accuracy_by_head"] is None
    assert found["query_dependence"] is None
    assert evaluator.picture(state) is None


def test_a_length_that_no_held_out_line_has_is_null(text):
    experiment, state = text
    report = Evaluator(experiment).report(state, "test", [1, 3])
    assert report["by_length"]["3"] == NULL
    assert report["by_length"]["1"] == report["all"] != NULL


def test_evaluation_does_not_see_the_target():
    experiment, state = make({"model.decoder": "gru"})
    batch = experiment.task.held_out("test", stream_key(0, Stream.TEST), 5)
    other = dataclasses.replace(batch, target=jnp.full_like(batch.target, 3))
    reconstruct, alone = Evaluator(experiment).reconstruct, replica(state.parameters, 0)
    np.testing.assert_array_equal(
        reconstruct(alone, other).tokens, reconstruct(alone, batch).tokens
    )


def test_there_is_a_map_an_example_and_head(parallel):
    experiment, state = parallel
    evaluator = Evaluator(experiment)
    one, three = (evaluator.picture(state, examples=n) for n in (1, 3))
    assert one.shape[1] > 2 * CELL
    assert three.shape[0] > 2 * one.shape[0]


def test_validation_examples_are_drawn_once(parallel, monkeypatch):
    experiment, state = parallel
    drawn, held_out = [], type(experiment.task).held_out

    def noted(task, *arguments):
        drawn.append(arguments)
        return held_out(task, *arguments)

    monkeypatch.setattr(type(experiment.task), "held_out", noted)
    evaluator = Evaluator(experiment)
    first = evaluator.report(state, "validation")
    evaluator.picture(state)
    assert evaluator.report(state, "validation") == first
    assert len(drawn) == experiment.settings.num_replicas


def test_a_map_is_drawn_where_there_are_fewer_lines_than_examples(text):
    experiment, state = text
    evaluator = Evaluator(experiment)
    one, three = (evaluator.picture(state, examples=n) for n in (1, 3))
    np.testing.assert_array_equal(three, one)


# Tasks without a gold alignment


def test_pronunciations_have_error_rates_and_no_alignment(monkeypatch):
    """The one test word is `four`: of F AO R and F AO ER the nearest to F AO N ER is the latter."""
    experiment, state = make({"model.decoder": "gru"}, DICTIONARY, task="cmudict")
    evaluator = Evaluator(experiment)
    found = evaluator.report(state, "test")["all"]
    assert (found["sequences"], found["alignment_accuracy"]) == (1, None)
    assert found["alignment_accuracy_by_head"] == [None, None]
    assert found["word_error_rate"] == 1.0

    first = experiment.task.vocabulary - len(PHONEMES)
    F, AO, N, ER = (first + PHONEMES.index(p) for p in ("F", "AO", "N", "ER"))  # noqa: N806
    said = [F, AO, N, ER]

    def pronounce(_, source, length, time, question):
        closed = [*said, END, PAD][: experiment.task.target_time]
        tokens = jnp.broadcast_to(jnp.array(closed), (source.shape[0], len(closed)))
        return Reconstruction(tokens, None)

    monkeypatch.setattr(
        type(experiment.model(replica(state.parameters, 0))), "reconstruct", pronounce
    )
    found = Evaluator(experiment).report(state, "test")["all"]
    assert (found["phoneme_error_rate"], found["word_error_rate"]) == (1 / 3, 1.0)
    assert found["single_reference_word_error_rate"] == 1.0
    assert (found["exact_match"], found["token_accuracy"]) == (0.0, 0.5)  # F AO of F AO R END

    said[2:] = [ER]  # the second pronunciation, by which stopping and ranks count it right, too
    found = Evaluator(experiment).report(state, "test")["all"]
    assert (found["phoneme_error_rate"], found["word_error_rate"]) == (0.0, 0.0)
    assert (found["exact_match"], found["token_accuracy"]) == (1.0, 1.0)
    assert found["single_reference_word_error_rate"] == 1.0


def test_a_class_has_an_accuracy_and_no_alignment():
    experiment, state = make({"model.decoder": "pooled"}, IMAGES, task="digits")
    evaluator = Evaluator(experiment)
    found = evaluator.report(state, "test")["all"]
    assert found["sequences"] == len(experiment.task.test.digit) > 1
    assert found["exact_match"] == found["token_accuracy"]
    assert found["alignment_accuracy"] is None
    assert found["alignment_accuracy_by_head"] == [None, None]


def test_the_weights_over_patches_are_drawn_over_the_images():
    experiment, state = make({"model.decoder": "pooled"}, IMAGES, task="digits")
    images = len(experiment.task.validation.digit)
    pixels = Evaluator(experiment).picture(state, examples=3)
    columns = min(3, images)
    assert pixels.shape == (3 * (LABEL + 8 * CELL + GAP), columns * (8 * CELL + GAP), 3)
