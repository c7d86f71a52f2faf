"""Every setting of an experiment: its name, type, default, range and meaning.

What any experiment has is defined here; what a task, an encoder or a decoder brings along is
defined where that class is. A config file starts from `configs.default_config` and changes what
its experiment is about; `read_settings` turns the config back into these checked, frozen objects,
which are all the code below the command line ever sees.
"""

import functools
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, create_model

from attention.biases import BIASES
from attention.lab.errors import UsageError
from attention.lab.fields import Option, Section, options_of, section_with
from attention.lab.models.decoder import Decoder
from attention.lab.models.decoders import DECODERS
from attention.lab.models.encoder import Encoder
from attention.lab.models.encoders import ENCODERS
from attention.lab.tasks.catalogue import DEFAULT, TASKS
from attention.lab.tasks.task import Task, TaskSettings
from attention.names import find_named
from attention.normalizers import NORMALIZERS

NO_ATTENTION = "none"  # in the place of a score's name: a decoder without attention
NO_BIAS = "none"  # in the place of a bias's name
OF_THE_TASK = "auto"  # in the place of an encoder's name: the one that the task's sources need


class ScoreSettings(Section):
    """Which score, and its options."""

    name: str = "mlp"  # of attention.scores.SCORES, or module:Name; none: no attention
    options: dict[str, Any] = Field(default_factory=dict)


class ModelSettings(Section):
    """Encoder, attention and decoder; what each of these brings along are further fields."""

    encoder: str = OF_THE_TASK  # of ENCODERS, or module:Name; auto: as the task's sources need
    decoder: str = "parallel"  # of DECODERS, or module:Name
    dim: int = Field(64, ge=1)
    heads: int = Field(1, ge=1)
    normalizer: str = "softmax"  # of attention.normalizers.NORMALIZERS, or module:name
    bias: str = NO_BIAS  # of attention.biases.BIASES, or module:Name
    embedding_std: float = Field(0.5, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)  # on the memory, in training


class OptimizerNumbers(Section):
    """What of an optimizer may differ between replicas: numbers, arguments of the program."""

    learning_rate: float = Field(5e-3, gt=0)  # at the peak
    clip_norm: float = Field(1.0, gt=0)  # global norm of the gradient
    weight_decay: float = Field(0.0, ge=0)  # of adamw alone


class OptimizerSettings(OptimizerNumbers):
    """Optimizer and learning-rate schedule."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_fraction: float = Field(0.05, ge=0, lt=1)  # of the steps


class ReplicaSettings(OptimizerNumbers):
    """What a replica has in the place of the seed and the numbers of the experiment."""

    seed: int = Field(0, ge=0, lt=2**32)


class TrainSettings(Section):
    """Length and rhythm of the training loop."""

    steps: int = Field(1000, ge=1)  # updates
    batch_size: int = Field(128, ge=1)
    log_every_steps: int = Field(50, ge=1)  # also the most updates in one dispatch
    eval_every_steps: int = Field(250, ge=1)
    checkpoint_every_steps: int = Field(500, ge=1)
    keep_checkpoints: int = Field(3, ge=1)
    stop_at_exact_match: float = Field(0.0, ge=0, le=1)  # on validation; 0: never stop early
    shard_parameters: bool = False  # over the devices that share a batch, not whole on each


class EvalSettings(Section):
    """Held-out evaluation."""

    sequences: int = Field(4096, ge=1, le=2**20)  # at most, for mixed lengths and for each length
    batch_size: int = Field(128, ge=1)
    lengths: tuple[int, ...] = ()  # lengths to report beside the mixture


class Settings(Section):
    """An experiment."""

    name: str = "experiment"  # that of the config file
    seed: int = Field(0, ge=0, lt=2**32)
    num_seeds: int = Field(1, ge=1)  # replicas, with seeds seed, seed + 1, …
    replicas: tuple[ReplicaSettings, ...] = ()  # or each named: what a sweep trains together
    score: ScoreSettings = ScoreSettings()
    task: TaskSettings
    model: ModelSettings = ModelSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    train: TrainSettings = TrainSettings()
    eval: EvalSettings = EvalSettings()

    @property
    def num_replicas(self) -> int:
        """How many replicas are trained together."""
        return len(self.replicas) or self.num_seeds


# From a config.


def read_settings(config: Mapping[str, Any]) -> Settings:
    """The checked settings of a config.

    Args:
      config: nested dictionaries; what is absent has its default.

    Raises:
      UsageError: a field or a value is not what it must be; all of them are told, each with
        its dotted path, or else the first that does not fit another.
    """
    try:
        settings = _class_of(config).model_validate(config)
    except ValidationError as error:
        raise UsageError("; ".join(map(_one_line, error.errors()))) from None
    model = settings.model
    find_choice("config.model.normalizer", NORMALIZERS, model.normalizer)
    find_choice("config.model.bias", {NO_BIAS: None, **BIASES}, model.bias)
    if model.dim % model.heads:
        raise UsageError(
            f"config.model.heads={model.heads}: must divide config.model.dim={model.dim},"
            " the values are split over the heads"
        )
    if settings.seed + settings.num_seeds > 2**32:
        raise UsageError(
            f"config.num_seeds={settings.num_seeds}: from config.seed={settings.seed} on, the"
            " last seed would be above 2**32 - 1"
        )
    if settings.replicas and settings.num_seeds > 1:
        raise UsageError(
            f"config.num_seeds={settings.num_seeds}: config.replicas has"
            f" {len(settings.replicas)}, each with its seed; then num_seeds is 1"
        )
    for length in settings.eval.lengths:
        check_length(settings, length, "config.eval.lengths")
    return settings


def from_json(config: Mapping[str, Any]) -> Settings:
    """The checked settings of a config that came from JSON, which has lists for tuples.

    Raises:
      UsageError: as `read_settings`.
    """
    return read_settings(_with_tuples(config))


def check_length(settings: Settings, length: int, where: str) -> None:
    """Refuses a length that the model has no positions for, or the task no sequences of.

    Args:
      settings: the experiment.
      length: to evaluate at.
      where: the length came from, for the error message.

    Raises:
      UsageError: the length is refused.
    """
    longest = settings.task.max_length
    if length < 1 or (length > longest and not _has_any_length(settings)):
        raise UsageError(
            f"{where}={length}: the model has positions for lengths 1 to {longest}"
            " (config.task.max_length)"
        )


def _has_any_length(settings: Settings) -> bool:
    """Whether any length can be drawn, and no parameter of the model belongs to a position."""
    options = settings.model.model_dump()
    parts = encoder_of(settings), decoder_of(settings)
    return task_of(settings).any_length and all(part.any_length(options) for part in parts)


# What a config chooses by name.


def find_choice(field: str, choices: Mapping[str, Any], name: str) -> Any:
    """What a config chooses by name: what the package has, or a user's own.

    Args:
      field: dotted path of the field.
      choices: what the package has, by name.
      name: a key of the choices, or a path `module:Name`.

    Raises:
      UsageError: there is no such thing; the message names the choices.
    """
    if name not in choices and ":" not in name:
        listed = ", ".join(map(repr, choices))
        raise UsageError(f"{field}={name!r}: choose {listed} or a path module:Name")
    try:
        found = find_named(field.split(".")[1], choices, name)
    except ValueError as error:
        raise UsageError(f"{field}={name!r}: {error}") from None
    if name not in choices and not callable(found):
        kind = type(found).__name__
        raise UsageError(f"{field}={name!r}: is a {kind}, not a class or function")
    return found


def find_task(name: str) -> type[Task]:
    """The class of a task, of `TASKS` or a user's own.

    Raises:
      UsageError: there is none of this name.
    """
    return _class("config.task.name", TASKS, name, Task)


def find_encoder(name: str, task: type[Task]) -> type[Encoder]:
    """The class of an encoder, of `ENCODERS` or a user's own; for `auto`, that of the task.

    Raises:
      UsageError: there is none of this name.
    """
    name = task.encoder if name == OF_THE_TASK else name
    return _class("config.model.encoder", ENCODERS, name, Encoder)


def find_decoder(name: str) -> type[Decoder]:
    """The class of a decoder, of `DECODERS` or a user's own.

    Raises:
      UsageError: there is none of this name.
    """
    return _class("config.model.decoder", DECODERS, name, Decoder)


def task_of(settings: Settings) -> type[Task]:
    """The class of the task."""
    return find_task(settings.task.name)


def encoder_of(settings: Settings) -> type[Encoder]:
    """The class of the encoder."""
    return find_encoder(settings.model.encoder, task_of(settings))


def decoder_of(settings: Settings) -> type[Decoder]:
    """The class of the decoder."""
    return find_decoder(settings.model.decoder)


def _class(field: str, choices: Mapping[str, Any], name: str, kind: type) -> Any:
    found = find_choice(field, choices, name)
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise UsageError(f"{field}={name!r}: is no class derived from {kind.__name__}")
    return found


def _class_of(config: Mapping[str, Any]) -> type[Settings]:
    """The class of settings with the fields of the task, encoder and decoder that are chosen."""
    task = find_task(_name(config, "task", "name", DEFAULT))
    encoder = find_encoder(_name(config, "model", "encoder", OF_THE_TASK), task)
    return _class_with(task, encoder, find_decoder(_name(config, "model", "decoder", "parallel")))


def _name(config: Mapping[str, Any], section: str, field: str, default: str) -> str:
    """A name that a config has; the default where it has none, or no name: pydantic tells that."""
    fields = config.get(section)
    name = fields.get(field) if isinstance(fields, Mapping) else None
    return name if isinstance(name, str) else default


@functools.cache
def _class_with(task: type[Task], encoder: type[Encoder], decoder: type[Decoder]) -> type[Settings]:
    # The fields of what is not chosen stay, so that a config keeps its fields when a flag chooses
    # another decoder; `limits` refuses what the one that is chosen would have to ignore.
    options: dict[str, Option] = {}
    for part in (*ENCODERS.values(), *DECODERS.values(), encoder, decoder):
        options |= options_of(part)
    model: Any = section_with(ModelSettings, options)

    return create_model(
        "Settings", __base__=Settings, task=(task.settings(), ...), model=(model, model())
    )


def differences(old: dict[str, Any], new: dict[str, Any], path: str = "") -> dict[str, tuple]:
    """The fields, by dotted path, in which two nested dictionaries differ: old and new value."""
    found: dict[str, tuple] = {}
    for name in [*old, *(n for n in new if n not in old)]:
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found |= differences(before, after, f"{path}{name}.")
        elif json.dumps(before) != json.dumps(after):
            found[path + name] = before, after
    return found


def _with_tuples(value: Any) -> Any:
    """JSON's lists as the tuples that settings are made of."""
    if isinstance(value, Mapping):
        return {name: _with_tuples(item) for name, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _one_line(error: Any) -> str:
    names = ".".join(str(part) for part in error["loc"])
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"config.{names}={error['input']!r}: {message}"
