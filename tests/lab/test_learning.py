"""Each score learns what it can: all that see the query copy."""

import functools

import jax
import numpy as np
import pytest
from small import replica, small

from attention.lab.training.build import build
from attention.lab.training.state import initial_state
from attention.lab.training.update import make_train
from attention.scores import SCORES

KEY_ONLY = ["uniform", "linear", "mlp_pooling"]
COPIES = [name for name in SCORES if name not in KEY_ONLY]
SYMBOLS, LENGTH = 5, 4


@functools.cache
def trained(score):
    """Parameters after some hundred updates on a tiny copy task, and the metrics on fresh data."""
    has_units = score in ("mlp", "mlp_pooling", "gatv2")
    options = {"score.options.hidden": 16} if has_units else {}
    settings = small(
        {"task.symbols": SYMBOLS, "task.max_length": LENGTH, "model.dim": 16, "model.heads": 1}
        | {"train.steps": 300, "train.batch_size": 64, "optimizer.learning_rate": 0.02}
        | options,
        score=score,
    )
    experiment = build(settings, None)
    state, metrics = make_train(experiment)(initial_state(experiment), experiment.task, 300)
    return experiment, replica(state.parameters, 0), replica(metrics, 0)


def weights_of(score):
    """Of sequences of the greatest length: `[batch, heads, time, time]`."""
    experiment, parameters, _ = trained(score)
    batch = experiment.task.held_out("test", jax.random.key(7), 23, LENGTH)

    @jax.jit
    def weights(parameters, source, length):
        return experiment.model(parameters).reconstruct(source, length, LENGTH + 1).weights

    return np.asarray(weights(parameters, batch.source, batch.source_length))


@pytest.mark.parametrize("score", COPIES)
def test_a_score_of_query_and_key_learns_to_copy(score):
    assert trained(score)[2]["exact_match"] >= 0.95


@pytest.mark.parametrize("score", COPIES)
def test_what_copies_looks_at_what_it_copies(score):
    # Not at the last step: of the greatest length only, it is `END` whatever it looks at.
    looked_at = weights_of(score)[:, 0, :LENGTH].argmax(axis=-1)
    assert np.mean(looked_at == np.arange(LENGTH)) >= 0.99


@pytest.mark.parametrize("score", KEY_ONLY)
def test_a_score_of_the_key_alone_cannot_copy(score):
    _, _, metrics = trained(score)
    assert metrics["exact_match"] < 0.5
    assert metrics["token_accuracy"] > 2 / (SYMBOLS + 2)  # but it learns something


@pytest.mark.parametrize("score", KEY_ONLY)
def test_the_weights_of_a_score_of_the_key_alone_are_the_same_for_every_query(score):
    weights = weights_of(score)
    np.testing.assert_array_equal(weights, np.broadcast_to(weights[:, :, :1], weights.shape))
    assert (np.ptp(weights) > 0.01) == (score != "uniform")
