"""The training state: all that changes in training, and what a checkpoint holds."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from attention.lab.parallel import hosts
from attention.lab.parallel.devices import fast_to_compile, places
from attention.lab.parallel.replicas import Replica, all_replicas, over_replicas
from attention.lab.runs.checkpoints import restore
from attention.lab.training.build import Experiment, Parameters
from attention.lab.training.streams import Stream, stream_key
from attention.pytrees import register_dataclass


class Status(IntEnum):
    """Whether a replica is still being trained. These numbers are written in every checkpoint."""

    TRAINING = 0
    REACHED = 1  # the replica met its target accuracy
    FAILED = 2  # the replica's loss or gradient was not finite


@register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that changes in training: of one replica, or with a leading axis of replicas.

    Attributes:
      step: updates completed.
      parameters: the parameters of the model.
      optimizer: the state of the optimizer.
      status: a number of `Status`.
    """

    step: PyTree  # integers: on the device, on the host, or abstract (shapes alone)
    parameters: Parameters
    optimizer: PyTree
    status: PyTree  # integers, in the same place as `step`


def initial_state(experiment: Experiment) -> TrainState:
    """The state of all replicas before the first update."""
    make = jax.jit(
        _make_all(experiment),
        out_shardings=state_places(experiment),
        compiler_options=fast_to_compile(experiment.devices),  # for it runs but once
    )
    return make(all_replicas(experiment.settings))


def abstract_state(experiment: Experiment) -> TrainState:
    """The shapes, dtypes and places of the state of all replicas, at no cost."""
    shapes = _shapes(experiment)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        _places(experiment, shapes),
    )


def restored_state(directory: Path, experiment: Experiment, step: int | None = None) -> TrainState:
    """The state of all replicas from a checkpoint.

    Args:
      directory: where the checkpoints are.
      experiment: the experiment that the checkpoint was saved from.
      step: which checkpoint; None for the newest that is intact.

    Raises:
      UsageError: there is no checkpoint of this step, or no checkpoint is intact.
    """
    return TrainState(**restore(directory, vars(abstract_state(experiment)), step))


def _make_all(experiment: Experiment) -> Callable[[Replica], TrainState]:
    def make(replica: Replica) -> TrainState:
        key = stream_key(replica.seed, Stream.PARAMETERS)
        return _begun(experiment, experiment.initial_parameters(key))

    return over_replicas(make, experiment.mesh)


def _begun(experiment: Experiment, parameters: Parameters) -> TrainState:
    """The state of one replica before the first update."""
    return TrainState(
        jnp.zeros((), jnp.int32),
        parameters,
        experiment.optimizer.init(parameters),
        jnp.full((), Status.TRAINING, jnp.int32),
    )


def _shapes(experiment: Experiment) -> TrainState:
    count = experiment.settings.num_replicas
    alone = jax.eval_shape(functools.partial(_begun, experiment), experiment.shapes)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), alone)


def state_places(experiment: Experiment) -> TrainState:
    """On which devices each array of the state of all replicas lies, in the form of the state."""
    return _places(experiment, _shapes(experiment))


def _places(experiment: Experiment, shapes: TrainState) -> TrainState:
    return places(shapes, experiment.mesh, split=experiment.settings.train.shard_parameters)


def completed(state: TrainState) -> int:
    """Updates completed by the furthest replica; all replicas still in training are as far."""
    return int(np.max(hosts.fetch(state.step)))


def replicas_with(state: TrainState, status: Status) -> np.ndarray:
    """For each replica, whether it has this status: a Boolean array over replicas."""
    return hosts.fetch(state.status) == status
