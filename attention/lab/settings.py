"""Every setting of an experiment: its name, type, default, range and meaning.

The settings that every experiment has are defined here; the settings that a task, an encoder or a
decoder brings along are defined with its class. A config file starts from `configs.default_config`
and changes what its experiment is about; `read_settings` turns the config into the checked, frozen
objects of this module. No code below the command line sees a config, only these objects.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError, create_model

from attention.lab.choices import (
    NO_BIAS,
    OF_THE_TASK,
    find_bias,
    find_decoder,
    find_encoder,
    find_normalizer,
    find_task,
    task_section,
)
from attention.lab.errors import UsageError, did_you_mean
from attention.lab.fields import (
    Option,
    Section,
    Untyped,
    as_json,
    as_tuples,
    given,
    missing,
    options_of,
    reason,
    section_with,
)
from attention.lab.models.decoder import Decoder
from attention.lab.models.decoders import DECODERS
from attention.lab.models.encoder import Encoder
from attention.lab.models.encoders import ENCODERS
from attention.lab.own_code import errors_told, own_parts, refusals_told
from attention.lab.tasks.catalogue import DEFAULT
from attention.lab.tasks.task import Task, TaskSettings
from attention.sizes import LARGEST

LARGEST_FLOAT = float(np.finfo(np.float32).max)  # a number beyond it would become infinite
LONGEST = 2**30 - 1  # indices of a target that is twice as long as its source are of 32 bits
MOST_LENGTHS = 1024  # each is an evaluation
MOST_REPLICAS = 2**16
MOST_HEADS = 2**16
MOST_FEATURES = 2**24
MOST_ERRORS = 20  # in a message
TOLD_CHARACTERS = 100  # of a bad value, which may be a list of any length

Count = Annotated[int, Field(ge=1, le=LARGEST)]  # of steps, rows or features


class ScoreSettings(Section):
    """Which score to attend with, and the options of the score."""

    name: str = "mlp"  # of attention.scores.SCORES, or module:Name; none: no attention
    options: dict[str, Untyped] = Field(default_factory=dict)


class ModelSettings(Section):
    """Encoder, attention and decoder; the chosen classes add their options as further fields."""

    encoder: str = OF_THE_TASK  # of ENCODERS, or module:Name; auto: as the task's sources need
    decoder: str = "parallel"  # of DECODERS, or module:Name
    dim: int = Field(64, ge=1, le=MOST_FEATURES)
    heads: int = Field(1, ge=1, le=MOST_HEADS)
    normalizer: str = "softmax"  # of attention.normalizers.NORMALIZERS, or module:name
    bias: str = NO_BIAS  # of attention.biases.BIASES, or module:Name
    embedding_std: float = Field(0.5, gt=0, le=LARGEST_FLOAT)
    dropout: float = Field(0.0, ge=0, lt=1)  # share of the memory set to zero, in training


class OptimizerNumbers(Section):
    """The numbers of an optimizer, which may differ between replicas of the same program."""

    learning_rate: float = Field(5e-3, gt=0, le=LARGEST_FLOAT)  # at its peak
    clip_norm: float = Field(1.0, gt=0, le=LARGEST_FLOAT)  # global norm of the gradient
    weight_decay: float = Field(0.0, ge=0, le=LARGEST_FLOAT)  # for adamw alone


class OptimizerSettings(OptimizerNumbers):
    """Which optimizer, its numbers, and the schedule of its learning rate."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_fraction: float = Field(0.05, ge=0, lt=1)  # of the steps


class ReplicaSettings(OptimizerNumbers):
    """A replica's seed and numbers, which replace the seed and the numbers of the experiment."""

    seed: int = Field(0, ge=0, lt=2**32)


class TrainSettings(Section):
    """How long to train, and how often to log, evaluate and save."""

    steps: Count = 1000  # updates
    batch_size: Count = 128
    log_every_steps: Count = 50  # no call of the program makes more updates than this
    eval_every_steps: Count = 250
    checkpoint_every_steps: Count = 500
    keep_checkpoints: Count = 3
    stop_at_exact_match: float = Field(0.0, ge=0, le=1)  # on validation; 0: never stop early
    shard_parameters: bool = False  # over the devices that share a batch, not a copy on each


class EvalSettings(Section):
    """Evaluation on held-out sequences: how many, and of which lengths."""

    sequences: int = Field(4096, ge=1, le=2**20)  # at most, of mixed lengths and of each length
    batch_size: Count = 128
    leave_out_trained: bool = True  # of held-out sequences, those that training drew, too
    lengths: tuple[int, ...] = Field(
        (), max_length=MOST_LENGTHS
    )  # lengths to report beside the mixture


class Settings(Section):
    """All settings of an experiment."""

    name: str = "experiment"  # of the config file, unless that sets another
    seed: int = Field(0, ge=0, lt=2**32)
    num_seeds: int = Field(1, ge=1, le=MOST_REPLICAS)  # replicas, with seeds seed, seed + 1, …
    replicas: tuple[ReplicaSettings, ...] = Field(
        (), max_length=MOST_REPLICAS
    )  # in the place of num_seeds, listed by a sweep
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
      config: nested dictionaries; a field that is absent has its default.

    Raises:
      UsageError: fields or values are not what they must be, and the message lists all of them
        with their dotted paths; or two values do not fit each other, and the message names the
        first such value.
    """
    section = settings_class(config)
    # By way of JSON, so that these settings are those that a run reads back from its config.json.
    text = json.dumps(given(section, {"model": {}, **as_json(config, "config")}))
    try:
        settings = section.model_validate_json(text)
    except ValidationError as error:
        raise UsageError(_in_a_line(section, error.errors())) from None
    model = settings.model
    find_normalizer(model.normalizer)
    find_bias(model.bias)
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
    check_lengths(settings, settings.eval.lengths, "config.eval.lengths")
    return settings


def from_json(config: Mapping[str, Any]) -> Settings:
    """The checked settings of a config that came from JSON, where tuples have become lists.

    Raises:
      UsageError: the config is refused, as by `read_settings`.
    """
    return read_settings(config)


def check_lengths(settings: Settings, lengths: Sequence[int], where: str) -> None:
    """Refuses lengths that the model has no positions for, or the task has no sequences of.

    Args:
      settings: all settings of the experiment.
      lengths: the lengths to evaluate at, in the unit of the task.
      where: the flag or field that the lengths came from, for the error message.

    Raises:
      UsageError: a length is refused, or there are too many.
    """
    if len(lengths) > MOST_LENGTHS:
        raise UsageError(
            f"{where}: lists {len(lengths)} lengths, each an evaluation: {MOST_LENGTHS} at most"
        )
    if not lengths:
        return
    parts = own_parts(settings)
    with errors_told(parts, wherever=True), refusals_told("config.task", parts):
        longest = settings.task.max_length  # some tasks have to be built to tell
    shortest, greatest = min(lengths), max(lengths)
    if shortest >= 1 and greatest > longest and _has_any_length(settings):
        if greatest > LONGEST:
            raise UsageError(f"{where}={greatest}: lengths go from 1 to {LONGEST}")
    elif shortest < 1 or greatest > longest:
        raise UsageError(
            f"{where}={shortest if shortest < 1 else greatest}: the model has positions for lengths"
            f" 1 to {longest} (config.task.max_length)"
        )


def _has_any_length(settings: Settings) -> bool:
    """Whether the task can draw any length, and the model has no parameter tied to a position."""
    options = settings.model.model_dump()
    parts = encoder_of(settings), decoder_of(settings)
    return task_of(settings).any_length and all(part.any_length(options) for part in parts)


# The classes that settings name.


def task_of(settings: Settings) -> type[Task]:
    """The class of the experiment's task."""
    return find_task(settings.task.name)


def encoder_of(settings: Settings) -> type[Encoder]:
    """The class of the experiment's encoder."""
    return find_encoder(settings.model.encoder, task_of(settings))


def decoder_of(settings: Settings) -> type[Decoder]:
    """The class of the experiment's decoder."""
    return find_decoder(settings.model.decoder)


def model_section_of(config: Mapping[str, Any]) -> type[ModelSettings]:
    """The settings of the model, with the fields of the encoder and decoder that are chosen."""
    return settings_class(config).model_fields["model"].annotation  # type: ignore[return-value]


def settings_class(config: Mapping[str, Any]) -> type[Settings]:
    """The class of settings with the fields of the task, encoder and decoder that are chosen.

    Args:
      config: nested dictionaries; where it names no task, encoder or decoder, the default counts.

    Raises:
      UsageError: there is no such task, encoder or decoder.
    """
    task_name = _name(config, "task", "name", DEFAULT)
    task = find_task(task_name)
    encoder = find_encoder(_name(config, "model", "encoder", OF_THE_TASK), task)
    decoder = find_decoder(_name(config, "model", "decoder", "parallel"))
    return _class_with(task_section(task_name), encoder, decoder)


def _name(config: Mapping[str, Any], section: str, field: str, default: str) -> str:
    """The name in a field of a config; the default where the field is absent or holds no string.

    Pydantic reports the latter, when it validates the config.
    """
    fields = config.get(section)
    name = fields.get(field) if isinstance(fields, Mapping) else None
    return name if isinstance(name, str) else default


@functools.cache
def _class_with(
    task: type[TaskSettings], encoder: type[Encoder], decoder: type[Decoder]
) -> type[Settings]:
    # Encoders and decoders that are not chosen add their fields too, so that a config keeps its
    # fields when a flag chooses another decoder. A value that the chosen classes would have to
    # ignore is refused by `training.limits`.
    options: dict[str, Option] = {}
    for part in (*ENCODERS.values(), *DECODERS.values(), encoder, decoder):
        options |= options_of(part)
    model: Any = section_with(ModelSettings, options)

    return create_model("Settings", __base__=Settings, task=(task, ...), model=(model, ...))


def differences(old: dict[str, Any], new: dict[str, Any], path: str = "") -> dict[str, tuple]:
    """The fields in which two nested dictionaries differ.

    Args:
      old: a nested dictionary.
      new: the dictionary to compare it with.
      path: dotted path of these dictionaries within larger ones, with a dot at its end.

    Returns:
      For the dotted path of each field that differs, the old and the new value.
    """
    changed: dict[str, tuple] = {}
    for name in [*old, *(n for n in new if n not in old)]:
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            changed |= differences(before, after, f"{path}{name}.")
        elif json.dumps(before) != json.dumps(after):
            changed[path + name] = before, after
    return changed


def _in_a_line(section: Any, errors: Sequence[Any]) -> str:
    more = len(errors) - MOST_ERRORS
    told = [_one_line(section, error) for error in errors[:MOST_ERRORS]]
    return "; ".join([*told, *([f"and {more} more"] if more > 0 else [])])


def _one_line(section: Any, error: Any) -> str:
    *sections, name = error["loc"]
    path, against = ".".join(map(str, ("config", *error["loc"]))), reason(error)
    if error["type"] in ("missing", "extra_forbidden") and "replicas" not in sections:
        for part in sections:
            section = section.model_fields[part].annotation
        if error["type"] == "missing":
            return str(missing(path, section.model_fields[name].annotation))
        of = ".".join(map(str, ("config", *sections)))
        fields = section.model_fields
        against = f"{did_you_mean(str(name), fields)}{of} has {', '.join(fields)}"
    value = repr(as_tuples(error["input"]))
    if len(value) > TOLD_CHARACTERS:
        value = f"{value[:TOLD_CHARACTERS]}…"
    return f"{path}={value}: {against}"
