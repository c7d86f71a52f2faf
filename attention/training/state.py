"""The training state, and one compiled program that makes many updates to it."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from attention.pytrees import register_dataclass
from attention.tasks.batch import Batch, Task
from attention.training.experiment import Experiment, Parameters, schedule
from attention.training.streams import Stream, stream_key

Metrics = dict[str, Float[Array, ""]]


@register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that changes in training.

    Attributes:
      step: updates completed.
      parameters: of the model.
      optimizer: the optimizer's own state.
    """

    step: PyTree  # an integer, on the device, on the host or abstract
    parameters: Parameters
    optimizer: PyTree


def initial_state(experiment: Experiment) -> TrainState:
    """The state before the first update."""

    @jax.jit
    def make() -> TrainState:
        key = stream_key(experiment.settings.seed, Stream.PARAMETERS)
        parameters = experiment.initial_parameters(key)
        return TrainState(
            jnp.zeros((), jnp.int32), parameters, experiment.optimizer.init(parameters)
        )

    return make()


def abstract_state(experiment: Experiment) -> TrainState:
    """The shapes and dtypes of a state, at no cost."""
    return jax.eval_shape(lambda: initial_state(experiment))


def make_train(
    experiment: Experiment,
) -> Callable[[TrainState, Task, int], tuple[TrainState, Metrics]]:
    """A compiled function that updates a state until it has completed a number of steps.

    The task is an argument, not a constant of the program, because a text may be large.
    The number of updates is an argument too, so every rhythm of logging and evaluation
    runs the same program. The state passed in is donated.

    Returns:
      `train(state, task, until)`, which returns the new state and, over its updates, the
      mean loss and gradient norm, the last learning rate, and the accuracies on the
      training batch that would come next (teacher-forced).
    """
    settings = experiment.settings
    train_key = stream_key(settings.seed, Stream.TRAIN)
    dropout_key = stream_key(settings.seed, Stream.DROPOUT)
    learning_rate = schedule(settings.optimizer, settings.train.steps)

    def next_batch(task: Task, step: Array) -> Batch:
        return task.sample(jax.random.fold_in(train_key, step), settings.train.batch_size)

    def loss(parameters: Parameters, batch: Batch, step: Array) -> Array:
        key = jax.random.fold_in(dropout_key, step) if settings.model.dropout else None
        return cross_entropy(experiment.model(parameters).logits(batch, key), batch)

    def update(state: TrainState, task: Task) -> tuple[TrainState, Metrics]:
        batch = next_batch(task, state.step)
        value, gradient = jax.value_and_grad(loss)(state.parameters, batch, state.step)
        updates, optimizer = experiment.optimizer.update(
            gradient, state.optimizer, state.parameters
        )
        parameters = optax.apply_updates(state.parameters, updates)
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradient)}
        return TrainState(state.step + 1, parameters, optimizer), metrics

    def train(state: TrainState, task: Task, until: Array) -> tuple[TrainState, Metrics]:
        def body(_, carry):
            state, sums = carry
            state, metrics = update(state, task)
            return state, jax.tree.map(jnp.add, sums, metrics)

        sums = {"loss": jnp.zeros(()), "gradient_norm": jnp.zeros(())}
        first = state.step
        state, sums = jax.lax.fori_loop(first, until, body, (state, sums))
        metrics = jax.tree.map(lambda total: total / (until - first), sums)
        metrics["learning_rate"] = jnp.asarray(learning_rate(state.step - 1))
        batch = next_batch(task, state.step)
        logits = experiment.model(state.parameters).logits(batch)
        return state, metrics | accuracies(logits, batch)

    compiled = jax.jit(train, donate_argnums=0)
    return lambda state, task, until: compiled(state, task, jnp.asarray(until, jnp.int32))


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
