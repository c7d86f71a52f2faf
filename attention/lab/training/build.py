"""From settings to the things that run: task, model and optimizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import optax
from flax import nnx
from jax.extend.core import ClosedJaxpr
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from attention.lab.choices import NO_ATTENTION, find_bias, find_normalizer
from attention.lab.errors import UsageError
from attention.lab.fields import options_of
from attention.lab.models.reconstructor import Reconstructor
from attention.lab.parallel import hosts
from attention.lab.parallel.devices import can_split, make_mesh
from attention.lab.settings import (
    Settings,
    decoder_of,
    encoder_of,
    task_of,
)
from attention.lab.tasks.task import Task
from attention.lab.training.limits import (
    check_encoder,
    check_model,
    check_optimizer,
    check_questions,
    check_score,
)
from attention.lab.training.optimizer import make_optimizer
from attention.scores import find_score

Parameters = PyTree


@dataclass(frozen=True)
class Experiment:
    """What a run is made of.

    Attributes:
      settings: all settings.
      task: where batches come from.
      model_def: the model without its parameters; `model` joins the two.
      optimizer: the optimizer with its schedule and the numbers of the settings. A replica whose
        numbers differ has another optimizer (`make_optimizer`), with a state of the same form.
      devices: the devices that may be used; `mesh` has as many of them as can share the work.
      shapes: the shapes of the parameters of a replica, in the place of arrays.
      forward: the program that draws a training batch and makes logits of it, as JAX traced it.
    """

    settings: Settings
    task: Task
    model_def: nnx.GraphDef
    optimizer: optax.GradientTransformation
    devices: Sequence[jax.Device]
    shapes: Parameters
    forward: ClosedJaxpr

    @property
    def mesh(self) -> Mesh:
        """The devices in use, along the axes `seed` and `data`."""
        settings = self.settings
        return make_mesh(self.devices, settings.num_replicas, settings.train.batch_size)

    def model(self, parameters: Parameters) -> Reconstructor:
        """The model with these parameters."""
        return nnx.merge(self.model_def, parameters)

    def initial_parameters(self, key: Key[Array, ""]) -> Parameters:
        """Fresh parameters, drawn at random from this key."""
        model = _make_model(self.settings, self.task, key)
        return nnx.to_pure_dict(nnx.split(model)[1])


def read_source(settings: Settings) -> bytes | None:
    """The data that the task reads; None if it reads none.

    Raises:
      UsageError: the data cannot be had: a file cannot be read, or a package is missing.
    """
    try:
        return task_of(settings).source(settings.task)
    except ValueError as error:
        raise UsageError(f"config.task.{error}") from None


def build(
    settings: Settings, source: bytes | None, devices: Sequence[jax.Device] | None = None
) -> Experiment:
    """The experiment of these settings. Nothing is computed or written yet.

    Args:
      settings: all settings.
      source: the data of the task, as `read_source` returned them.
      devices: the devices to run on; None for all that this machine has.

    Raises:
      UsageError: the settings do not fit each other, or do not fit the devices.
    """
    task = _make_task(settings, source)
    check_score(settings)
    check_optimizer(settings)
    check_encoder(settings)
    check_model(settings)
    check_questions(settings, task)
    try:
        model = nnx.eval_shape(lambda: _make_model(settings, task, jax.random.key(0)))
        model_def, state = nnx.split(model)
        shapes = nnx.to_pure_dict(state)
        forward = _trace(settings, task, model_def, shapes)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(_blame(settings, error)) from error
    rule = make_optimizer(settings.optimizer, settings.train.steps)
    experiment = Experiment(
        settings,
        task,
        model_def,
        rule,
        jax.devices() if devices is None else devices,
        shapes,
        forward,
    )
    _check_devices(experiment)
    return experiment


def _make_task(settings: Settings, source: bytes | None) -> Task:
    try:
        task = task_of(settings).build(settings.task, source)
    except ValueError as error:
        raise UsageError(f"config.task.{error}") from None
    if jax.tree_util.all_leaves([task]):
        raise UsageError(
            f"config.task.name={settings.task.name!r}: is no pytree; its class needs the decorator"
            " attention.pytrees.register_dataclass"
        )
    return task


def _blame(settings: Settings, error: Exception) -> str:
    """What went wrong in making a model: the field, if the error names one, or all there are."""
    named = str(error).partition("=")[0]
    if named in settings.score.options:
        return f"config.score.options.{error}"
    if named in type(settings.model).model_fields:
        return f"config.model.{error}"
    model = settings.model.model_dump()
    sizes = {field: model.pop(field) for field in ("dim", "heads")}
    fields = ", ".join(f"{field}={value!r}" for field, value in {**sizes, **model}.items())
    return (
        f"config.score={settings.score.name!r} with options {settings.score.options} and"
        f" config.model.{fields}: {error}"
    )


def _make_model(settings: Settings, task: Task, key: Key[Array, ""]) -> Reconstructor:
    model = settings.model
    rngs = nnx.Rngs(key)
    encoder_class, decoder_class = encoder_of(settings), decoder_of(settings)
    make_decoder: Any = decoder_class  # every decoder class has other arguments
    chosen = model.model_dump() | {
        "normalizer": find_normalizer(model.normalizer),
        "bias": find_bias(model.bias),
    }
    encoder = encoder_class(
        task.source_features,
        task.source_time,
        model.dim,
        rngs=rngs,
        **{name: chosen[name] for name in options_of(encoder_class)},
    )
    decoder = make_decoder(
        None if settings.score.name == NO_ATTENTION else find_score(settings.score.name),
        task.vocabulary,
        task.target_time,
        model.dim,
        rngs=rngs,
        **{name: chosen[name] for name in options_of(decoder_class)},
        **settings.score.options,
    )
    return Reconstructor(encoder, decoder)


def _trace(
    settings: Settings, task: Task, model_def: nnx.GraphDef, shapes: Parameters
) -> ClosedJaxpr:
    """The model asked for an output, at no cost: settings that do not fit the model fail here."""

    def logits(parameters: Parameters, key: Key[Array, ""]) -> Array:
        model = nnx.merge(model_def, parameters)
        return model.logits(task.sample(key, settings.train.batch_size))

    return jax.make_jaxpr(logits)(shapes, jax.eval_shape(lambda: jax.random.key(0)))


def _check_devices(experiment: Experiment) -> None:
    settings, mesh, devices = experiment.settings, experiment.mesh, len(experiment.devices)
    if hosts.are_several() and mesh.size < devices:
        raise UsageError(
            f"config.train.batch_size={settings.train.batch_size}: {settings.num_replicas}"
            f" replicas and their batches can be shared out to {mesh.size} devices, but the"
            f" processes have {devices}, and each has to take part"
        )
    if settings.train.shard_parameters and not can_split(experiment.shapes, mesh):
        raise UsageError(
            "config.train.shard_parameters=True: no parameter has an axis that divides by"
            f" {mesh.shape['data']}, the devices that share a batch"
        )
