"""From settings to the things that run: task, model and optimizer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.extend.core import ClosedJaxpr
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from attention.lab.choices import NO_ATTENTION, find_bias, find_normalizer, read_score_options
from attention.lab.errors import UsageError
from attention.lab.fields import options_of
from attention.lab.models.reconstructor import Reconstructor
from attention.lab.own_code import errors_told, field_of, lines_of, own_parts, refusals_told
from attention.lab.parallel import hosts
from attention.lab.parallel.devices import can_split, make_mesh
from attention.lab.settings import (
    EvalSettings,
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
    refuse_64_bits,
)
from attention.lab.training.optimizer import make_optimizer
from attention.scores import find_score

Parameters = PyTree

# Errors of a program that looks at numbers, not at shapes alone. Where no model takes part, it may.
NUMBERS_WANTED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


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

    @property
    def num_parameters(self) -> int:
        """How many numbers a replica learns."""
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.shapes))

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
    parts = own_parts(settings)
    with errors_told(parts), refusals_told("config.task", parts):
        return task_of(settings).source(settings.task)


def build(
    settings: Settings, source: bytes | None, devices: Sequence[jax.Device] | None = None
) -> Experiment:
    """The experiment of these settings. Nothing is computed or written yet.

    Args:
      settings: all settings.
      source: the data of the task, as `read_source` returned them.
      devices: the devices to run on; None for all that this machine has.

    Raises:
      UsageError: the settings do not fit each other, or do not fit the devices; or JAX has its
        64 bits switched on.
    """
    refuse_64_bits()
    with errors_told(own_parts(settings), wherever=True):
        return _build(settings, source, devices)


def _build(
    settings: Settings, source: bytes | None, devices: Sequence[jax.Device] | None
) -> Experiment:
    task = _make_task(settings, source)
    check_score(settings)
    check_optimizer(settings)
    check_encoder(settings)
    check_model(settings)
    check_questions(settings, task)
    own = own_parts(settings)
    try:
        model = nnx.eval_shape(lambda: _make_model(settings, task, jax.random.key(0)))
        model_def, state = nnx.split(model)
        shapes = nnx.to_pure_dict(state)
        forward = _trace(settings, task, model_def, shapes)
        if own:
            jax.eval_shape(lambda parameters: _try(settings, task, model_def, parameters), shapes)
    except (TypeError, ValueError, OverflowError) as error:
        if lines_of(error, own) and not _field_of(error, settings):
            raise
        raise UsageError(_blame(settings, error)) from (error if own else None)
    _refuse_empty(shapes)
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


def _refuse_empty(shapes: Parameters) -> None:
    """Refuses parameters without a number in them, which no checkpoint can hold."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        if 0 in leaf.shape:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise UsageError(f"the parameter {name} has the shape {leaf.shape}: no size may be 0")


def _make_task(settings: Settings, source: bytes | None) -> Task:
    with refusals_told("config.task", own_parts(settings)):
        task = task_of(settings).build(settings.task, source)
    if jax.tree_util.all_leaves([task]):
        raise UsageError(
            f"config.task.name={settings.task.name!r}: is no pytree; its class needs the decorator"
            " attention.pytrees.register_dataclass"
        )
    return task


def _blame(settings: Settings, error: Exception) -> str:
    """What went wrong in making a model: the field, if the error names one, or all there are."""
    if field := _field_of(error, settings):
        return f"{field.rpartition('.')[0]}.{error}"
    model = settings.model.model_dump()
    sizes = {field: model.pop(field) for field in ("dim", "heads")}
    fields = ", ".join(f"{field}={value!r}" for field, value in {**sizes, **model}.items())
    return (
        f"config.score={settings.score.name!r} with options {settings.score.options} and"
        f" config.model.{fields}: {error}"
    )


def _field_of(error: Exception, settings: Settings) -> str | None:
    """The dotted path of the field that an error is about, if its message begins with a field."""
    sections = {
        "config.score.options": settings.score.options,
        "config.model": type(settings.model).model_fields,
    }
    field = field_of(error)
    return next((f"{path}.{field}" for path, names in sections.items() if field in names), None)


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
        **read_score_options(settings.score.name, settings.score.options),
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


def _try(settings: Settings, task: Task, model_def: nnx.GraphDef, parameters: Parameters) -> None:
    """Calls whatever a user wrote, which may fail anywhere: no more than a look at the shapes."""
    batch = task.sample(jax.random.key(0), settings.train.batch_size)

    def total(parameters: Parameters) -> Array:
        return jnp.sum(nnx.merge(model_def, parameters).logits(batch))

    jax.grad(total)(parameters)
    _try_evaluation(nnx.merge(model_def, parameters), task, settings.eval)


def _try_evaluation(model: Reconstructor, task: Task, settings: EvalSettings) -> None:
    task.summary()
    asked = [("validation", None), ("test", None), *(("test", n) for n in settings.lengths)]
    tried = set()
    for split, length in asked:
        try:
            batch = task.held_out(split, jax.random.key(0), settings.sequences, length)
        except NUMBERS_WANTED:
            return
        if batch.source.shape not in tried:
            tried.add(batch.source.shape)
            time, question = batch.target.shape[1], batch.question
            output = model.reconstruct(batch.source, batch.source_length, time, question)
            task.count(output.tokens, batch, batch.target_length > 0)


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
