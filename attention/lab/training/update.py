"""One compiled program that makes many updates to a training state."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from attention.lab.parallel.devices import split_parameters, split_rows
from attention.lab.parallel.replicas import Replica, all_replicas, over_replicas
from attention.lab.tasks.batch import Batch
from attention.lab.tasks.task import Task
from attention.lab.training.build import Experiment, Parameters
from attention.lab.training.optimizer import make_optimizer, schedule
from attention.lab.training.state import Status, TrainState, state_places
from attention.lab.training.streams import Stream, stream_key

Metrics = dict[str, Float[Array, "*replicas"]]
METRICS = ("loss", "gradient_norm", "learning_rate", "token_accuracy", "exact_match")


def make_train(
    experiment: Experiment,
) -> Callable[[TrainState, Task, int], tuple[TrainState, Metrics]]:
    """A compiled function that updates a state until it has completed a number of steps.

    The task is an argument, not a constant of the program, because a text may be large.
    The number of updates and what sets replicas apart are arguments too, so every rhythm of
    logging and evaluation, every seed and every learning rate runs the same program. The state
    passed in is donated: it cannot be used afterwards.

    Returns:
      `train(state, task, until)`, which updates the state until `until` steps are completed. It
      returns the new state and `METRICS` of every replica: the mean loss (in nats) and the mean
      gradient norm over these updates, the last learning rate, and the accuracies on the
      training batch that would come next (teacher-forced). A replica that has met its target
      or failed stays as it is, and its metrics are NaN.
    """
    replicas = all_replicas(experiment.settings)
    train = over_replicas(_train_one(experiment), experiment.mesh, of_replica=2, unless=_stopped)

    def train_all(
        replicas: Replica, state: TrainState, task: Task, until: Array
    ) -> tuple[TrainState, Metrics]:
        # All replicas make the same number of updates: under vmap, loops of different lengths
        # would have to select between the old and the new of every array in every turn.
        updates = until - jnp.max(state.step)
        return train(replicas, state, task, updates)

    compiled = jax.jit(train_all, donate_argnums=1, out_shardings=(state_places(experiment), None))
    return lambda state, task, until: compiled(replicas, state, task, np.int32(until))


def _train_one(experiment: Experiment) -> Callable:
    """A function that makes a number of updates to the state of one replica."""
    settings = experiment.settings
    steps = settings.train.steps

    def next_batch(replica: Replica, task: Task, step: Array) -> Batch:
        key = stream_key(replica.seed, Stream.TRAIN)
        batch = task.sample(jax.random.fold_in(key, step), settings.train.batch_size)
        return split_rows(batch)

    def loss(parameters: Parameters, replica: Replica, batch: Batch, step: Array) -> Array:
        key = None
        if settings.model.dropout:
            key = jax.random.fold_in(stream_key(replica.seed, Stream.DROPOUT), step)
        return cross_entropy(experiment.model(parameters).logits(batch, key), batch)

    def update(replica: Replica, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        value, gradient = jax.value_and_grad(loss)(state.parameters, replica, batch, state.step)
        rule = make_optimizer(replica.of(settings.optimizer), steps)
        updates, optimizer = rule.update(gradient, state.optimizer, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        if settings.train.shard_parameters:
            parameters, optimizer = split_parameters((parameters, optimizer))
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradient)}
        return TrainState(state.step + 1, parameters, optimizer, state.status), metrics

    def train(
        replica: Replica, state: TrainState, task: Task, updates: Array
    ) -> tuple[TrainState, Metrics]:
        def draw(step: Array) -> dict[str, Array]:
            return vars(next_batch(replica, task, step))

        def turn(number: Array, carry: tuple) -> tuple:
            state, sums, _ = carry
            fields = draw(state.step)

            def with_update() -> tuple:
                updated, metrics = update(replica, state, Batch(**fields))
                return updated, jax.tree.map(jnp.add, sums, metrics)

            state, sums = jax.lax.cond(number < updates, with_update, lambda: (state, sums))
            return state, sums, fields

        # The last turn draws the batch that would come next, and updates nothing: a second place
        # to draw a batch would take a quarter more time to compile.
        sums = {"loss": jnp.zeros(()), "gradient_norm": jnp.zeros(())}
        start = (state, sums, zeros(jax.eval_shape(draw, state.step)))
        state, sums, fields = jax.lax.fori_loop(0, updates + 1, turn, start)
        finite = jnp.isfinite(sums["loss"]) & jnp.isfinite(sums["gradient_norm"])
        state = replace(state, status=jnp.where(finite, state.status, Status.FAILED))
        metrics = jax.tree.map(lambda total: total / updates, sums)
        learning_rate = schedule(replica.of(settings.optimizer), steps)
        metrics["learning_rate"] = jnp.asarray(learning_rate(state.step - 1))
        batch = Batch(**fields)
        logits = experiment.model(state.parameters).logits(batch)
        return state, metrics | accuracies(logits, batch)

    return train


def _stopped(
    replica: Replica, state: TrainState, task: Task, updates: Array
) -> tuple[Array, tuple[TrainState, Metrics]]:
    """Whether a replica is no longer in training; the state and metrics it then returns."""
    del replica, task, updates
    metrics = {name: jnp.float32(jnp.nan) for name in METRICS}
    return state.status != Status.TRAINING, (state, metrics)


def zeros(shapes: PyTree) -> PyTree:
    """Arrays of zeros, which have these shapes and dtypes."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def cross_entropy(logits: Float[Array, "batch time vocabulary"], batch: Batch) -> Float[Array, ""]:
    """Mean negative log likelihood of the target tokens, in nats."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.target)
    return jnp.mean(losses, where=batch.target_mask)


def accuracies(logits: Float[Array, "batch time vocabulary"], batch: Batch) -> Metrics:
    """Shares of the target tokens, and of the whole sequences, that the likeliest tokens match."""
    right = jnp.argmax(logits, axis=-1) == batch.target
    return {
        "token_accuracy": jnp.mean(right, where=batch.target_mask),
        "exact_match": jnp.mean(jnp.all(right | ~batch.target_mask, axis=1)),
    }
