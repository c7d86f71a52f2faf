"""The training state, and one compiled program that makes many updates to it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from attention.lab.parallel import hosts
from attention.lab.parallel.devices import places, split_parameters, split_rows
from attention.lab.parallel.replicas import Replica, all_replicas, over_replicas
from attention.lab.tasks.batch import Batch
from attention.lab.tasks.task import Task
from attention.lab.training.build import Experiment, Parameters
from attention.lab.training.optimizer import make_optimizer, schedule
from attention.lab.training.streams import Stream, stream_key
from attention.pytrees import register_dataclass

Metrics = dict[str, Float[Array, "*replicas"]]
METRICS = ("loss", "gradient_norm", "learning_rate", "token_accuracy", "exact_match")


class Status(IntEnum):
    """Whether a replica is trained on. The numbers are in every checkpoint."""

    TRAINING = 0
    REACHED = 1  # its target accuracy
    FAILED = 2  # its loss or gradient was not finite


@register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that changes in training: of one replica, or with a leading axis of replicas.

    Attributes:
      step: updates completed.
      parameters: of the model.
      optimizer: the optimizer's own state.
      status: a number of `Status`.
    """

    step: PyTree  # integers, on the device, on the host or abstract
    parameters: Parameters
    optimizer: PyTree
    status: PyTree  # likewise


def initial_state(experiment: Experiment) -> TrainState:
    """The state of all replicas before the first update."""
    make = jax.jit(_make_all(experiment), out_shardings=_places(experiment))
    return make(all_replicas(experiment.settings))


def abstract_state(experiment: Experiment) -> TrainState:
    """The shapes, dtypes and places of the state of all replicas, at no cost."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        _shapes(experiment),
        _places(experiment),
    )


def _make_all(experiment: Experiment) -> Callable[[Replica], TrainState]:
    def make(replica: Replica) -> TrainState:
        parameters = experiment.initial_parameters(stream_key(replica.seed, Stream.PARAMETERS))
        return TrainState(
            jnp.zeros((), jnp.int32),
            parameters,
            experiment.optimizer.init(parameters),
            jnp.full((), Status.TRAINING, jnp.int32),
        )

    return over_replicas(make, experiment.mesh)


def _shapes(experiment: Experiment) -> TrainState:
    return jax.eval_shape(_make_all(experiment), all_replicas(experiment.settings))


def _places(experiment: Experiment) -> TrainState:
    split = experiment.settings.train.shard_parameters
    return places(_shapes(experiment), experiment.mesh, split=split)


def completed(state: TrainState) -> int:
    """Updates completed by the replicas that went furthest, those in training among them."""
    return int(np.max(hosts.fetch(state.step)))


def replicas_with(state: TrainState, status: Status) -> np.ndarray:
    """For each replica, whether its status is this."""
    return hosts.fetch(state.status) == status


def make_train(
    experiment: Experiment,
) -> Callable[[TrainState, Task, int], tuple[TrainState, Metrics]]:
    """A compiled function that updates a state until it has completed a number of steps.

    The task is an argument, not a constant of the program, because a text may be large.
    The number of updates and what sets replicas apart are arguments too, so every rhythm of
    logging and evaluation, every seed and every learning rate runs the same program. The state
    passed in is donated.

    Returns:
      `train(state, task, until)`, which returns the new state and, for each replica, over its
      updates, the mean loss and gradient norm, the last learning rate, and the accuracies on
      the training batch that would come next (teacher-forced). A replica that has stopped or
      failed stays as it is, its metrics are NaN.
    """
    own = all_replicas(experiment.settings)
    train = over_replicas(_train_one(experiment), experiment.mesh, own=2, unless=_stopped)

    def train_all(
        own: Replica, state: TrainState, task: Task, until: Array
    ) -> tuple[TrainState, Metrics]:
        # The same for all: under vmap, a loop of another length for each would keep or discard
        # every array in every turn.
        updates = until - jnp.max(state.step)
        return train(own, state, task, updates)

    compiled = jax.jit(train_all, donate_argnums=1, out_shardings=(_places(experiment), None))
    return lambda state, task, until: compiled(own, state, task, jnp.asarray(until, jnp.int32))


def _train_one(experiment: Experiment) -> Callable:
    """A function that makes a number of updates to one replica."""
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

    def update(replica: Replica, state: TrainState, task: Task) -> tuple[TrainState, Metrics]:
        batch = next_batch(replica, task, state.step)
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
        def body(_, carry):
            state, sums = carry
            state, metrics = update(replica, state, task)
            return state, jax.tree.map(jnp.add, sums, metrics)

        sums = {"loss": jnp.zeros(()), "gradient_norm": jnp.zeros(())}
        state, sums = jax.lax.fori_loop(0, updates, body, (state, sums))
        finite = jnp.isfinite(sums["loss"]) & jnp.isfinite(sums["gradient_norm"])
        state = replace(state, status=jnp.where(finite, state.status, Status.FAILED))
        metrics = jax.tree.map(lambda total: total / updates, sums)
        learning_rate = schedule(replica.of(settings.optimizer), steps)
        metrics["learning_rate"] = jnp.asarray(learning_rate(state.step - 1))
        batch = next_batch(replica, task, state.step)
        logits = experiment.model(state.parameters).logits(batch)
        return state, metrics | accuracies(logits, batch)

    return train


def _stopped(
    replica: Replica, state: TrainState, task: Task, updates: Array
) -> tuple[Array, tuple[TrainState, Metrics]]:
    """Whether a replica is no longer in training, and what it then has to show."""
    del replica, task, updates
    metrics = {name: jnp.float32(jnp.nan) for name in METRICS}
    return state.status != Status.TRAINING, (state, metrics)


def cross_entropy(logits: Float[Array, "batch time vocabulary"], batch: Batch) -> Float[Array, ""]:
    """Mean negative log likelihood of the target tokens, in nats."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.target)
    return jnp.mean(losses, where=batch.target_mask)


def accuracies(logits: Float[Array, "batch time vocabulary"], batch: Batch) -> Metrics:
    """Share of target tokens, and of whole sequences, whose likeliest token is right."""
    right = jnp.argmax(logits, axis=-1) == batch.target
    return {
        "token_accuracy": jnp.mean(right, where=batch.target_mask),
        "exact_match": jnp.mean(jnp.all(right | ~batch.target_mask, axis=1)),
    }
