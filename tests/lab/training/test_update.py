import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import assert_same_bits, replica, small, untrained

from attention.lab.tasks.batch import reconstruction
from attention.lab.training.build import build
from attention.lab.training.state import abstract_state, completed, initial_state
from attention.lab.training.streams import Stream, stream_key
from attention.lab.training.update import accuracies, cross_entropy, make_train

UNTIL = 7


@pytest.fixture(scope="module")
def experiment(settings):
    return build(settings, None)


@pytest.fixture(scope="module")
def train(experiment):
    return make_train(experiment)


@pytest.fixture(scope="module")
def start(experiment):
    """Makes initial states: training takes each one for itself."""
    state = initial_state(experiment)
    return lambda: jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf), leaf.sharding), state)


@pytest.fixture(scope="module")
def step_by_step(experiment, train, start):
    """The state after `UNTIL` updates, and the metrics of each."""
    state, metrics = start(), []
    for until in range(1, UNTIL + 1):
        state, last = train(state, experiment.task, until)
        metrics.append(last)
    return state, metrics


@pytest.mark.parametrize("stops", [(7,), (3, 7), (5, 6, 7)])
def test_updates_are_the_same_in_chunks_of_any_size(experiment, train, start, step_by_step, stops):
    state = start()
    for until in stops:
        state, _ = train(state, experiment.task, until)
    assert completed(state) == UNTIL
    assert_same_bits(state, step_by_step[0])


@pytest.mark.parametrize("name", ["loss", "gradient_norm"])
def test_metrics_of_a_chunk_are_the_mean_over_its_updates(
    experiment, train, start, step_by_step, name
):
    _, metrics = train(start(), experiment.task, UNTIL)
    single = [m[name].item() for m in step_by_step[1]]
    assert len(set(single)) == UNTIL
    assert metrics[name].item() == pytest.approx(np.mean(single), rel=1e-5)


def test_every_update_changes_every_parameter(start, step_by_step):
    before, after = start().parameters, step_by_step[0].parameters
    assert jax.tree.all(jax.tree.map(lambda a, b: not np.array_equal(a, b), before, after))


def test_an_update_is_a_step_of_the_optimizer_on_the_batch_of_its_step():
    """The program against its parts, for plain gradient descent with dropout."""
    settings = small(
        {"optimizer.name": "sgd", "optimizer.schedule": "constant", "optimizer.clip_norm": 1e3}
        | {"optimizer.warmup_fraction": 0.0, "optimizer.learning_rate": 0.5, "model.dropout": 0.3}
    )
    experiment = build(settings, None)

    def batch_of(step):
        key = jax.random.fold_in(stream_key(settings.seed, Stream.TRAIN), step)
        return experiment.task.sample(key, settings.train.batch_size)

    @jax.jit
    @jax.value_and_grad
    def loss_of(parameters, step):
        key = jax.random.fold_in(stream_key(settings.seed, Stream.DROPOUT), step)
        logits = experiment.model(parameters).logits(batch_of(step), key)
        return cross_entropy(logits, batch_of(step))

    train = make_train(experiment)
    state = untrained(experiment)
    for step in range(2):
        before = replica(state.parameters, 0)
        loss, gradient = loss_of(before, step)
        state, metrics = train(state, experiment.task, step + 1)
        assert metrics["loss"].item() == pytest.approx(float(loss), rel=1e-5)
        before, gradient = jax.device_get((before, gradient))
        norm = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))
        assert metrics["gradient_norm"].item() == pytest.approx(norm, rel=1e-4)
        expected = jax.tree.map(lambda old, slope: old - 0.5 * slope, before, gradient)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
            replica(state.parameters, 0),
            expected,
        )

    @jax.jit
    def without_dropout(parameters):
        batch = batch_of(2)
        return accuracies(experiment.model(parameters).logits(batch), batch)

    for name, value in without_dropout(replica(state.parameters, 0)).items():
        assert metrics[name].item() == pytest.approx(float(value))


def test_the_learning_rate_that_is_told_is_that_of_the_last_update():
    """By how far the parameters went: gradient descent, from a warm-up of five steps down a cosine.

    A gradient is cut to the norm 1e-3, so that every step is as long as its learning rate.
    """
    numbers = {"optimizer.name": "sgd", "optimizer.learning_rate": 0.5}
    numbers |= {"optimizer.clip_norm": 1e-3, "optimizer.warmup_fraction": 5 / 13}
    experiment = build(small(numbers), None)
    train, state, told = make_train(experiment), untrained(experiment), []
    for step in range(UNTIL):
        before = jax.device_get(state.parameters)
        state, metrics = train(state, experiment.task, step + 1)
        moves = jax.tree.map(lambda a, b: np.sum((a - b) ** 2), before, state.parameters)
        length = np.sqrt(sum(map(float, jax.tree.leaves(moves)))) / 1e-3
        told.append(metrics["learning_rate"].item())
        assert told[-1] == pytest.approx(length, abs=0.01)
    rates = [0.5 * n / 5 for n in range(5)] + [0.5, 0.5 * (1 + np.cos(np.pi / 8)) / 2]
    assert told == pytest.approx(rates, abs=1e-6)
    _, metrics = train(untrained(experiment), experiment.task, 3)
    assert metrics["learning_rate"].item() == pytest.approx(told[2])


def test_the_initial_state_is_that_of_the_seed(experiment, settings, start):
    assert completed(start()) == 0
    assert_same_bits(initial_state(experiment), start())
    other = build(settings.model_copy(update={"seed": 1}), None)
    embeddings = [s.parameters["encoder"]["embedding"] for s in (initial_state(other), start())]
    assert not np.array_equal(*embeddings)


def test_the_abstract_state_has_the_shapes_of_the_state(experiment, start):
    abstract, state = abstract_state(experiment), start()
    assert jax.tree.structure(abstract) == jax.tree.structure(state)
    for like, leaf in zip(jax.tree.leaves(abstract), jax.tree.leaves(state), strict=True):
        assert (like.shape, like.dtype) == (leaf.shape, leaf.dtype)


def test_streams_are_disjoint():
    keys = {s: stream_key(0, s) for s in Stream}
    data = {s: jax.random.key_data(key).tolist() for s, key in keys.items()}
    assert all(data[a] != data[b] for a, b in itertools.combinations(Stream, 2))
    assert data[Stream.TRAIN] != jax.random.key_data(stream_key(1, Stream.TRAIN)).tolist()


@pytest.fixture
def batch():
    """Two sequences, `2 3 END` and `4 END PAD`."""
    return reconstruction(jnp.array([[2, 3], [4, 0]]), jnp.array([2, 1]))


def test_cross_entropy_is_the_mean_over_the_tokens_that_count(batch):
    logits = np.random.default_rng(0).standard_normal((2, 3, 5)).astype(np.float32)
    log_likelihood = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    counted = [(0, 0, 2), (0, 1, 3), (0, 2, 1), (1, 0, 4), (1, 1, 1)]
    expected = -np.mean([log_likelihood[index] for index in counted])
    assert float(cross_entropy(jnp.asarray(logits), batch)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("output", "tokens", "exact"),
    [
        ([[2, 3, 1], [4, 1, 0]], 1.0, 1.0),
        ([[2, 3, 1], [4, 1, 3]], 1.0, 1.0),  # what comes after END does not count
        ([[2, 3, 0], [4, 1, 0]], 0.8, 0.5),  # END does
        ([[3, 3, 1], [4, 2, 0]], 0.6, 0.0),
    ],
)
def test_accuracies_count_the_target_and_no_padding(batch, output, tokens, exact):
    found = accuracies(jax.nn.one_hot(jnp.array(output), 5), batch)
    assert jax.tree.map(float, found) == pytest.approx(
        {"token_accuracy": tokens, "exact_match": exact}
    )


def test_a_state_is_replaced_not_changed(start):
    with pytest.raises(dataclasses.FrozenInstanceError):
        start().step = 3
