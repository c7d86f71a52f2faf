"""Every setting of an experiment: its name, type, default, range and meaning.

This is the one place that defines them. A config file starts from `default_config()` and
changes what its experiment is about; `read_settings` turns the config back into these
checked, frozen objects, which are all the code below the command line ever sees.
"""

import json
from typing import Any, Literal

from ml_collections import ConfigDict
from pydantic import BaseModel, Field, ValidationError
from pydantic import ConfigDict as ModelConfig

from attention.lab.errors import UsageError

NO_ATTENTION = "none"  # in the place of a score's name: a decoder without attention


class Section(BaseModel):
    """Frozen, closed and strictly typed."""

    model_config = ModelConfig(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ScoreSettings(Section):
    """Which score, and its options."""

    name: str = "mlp"  # of attention.scores.SCORES, or module:Name; none: no attention
    options: dict[str, Any] = {}


class SymbolsSettings(Section):
    """Random sequences."""

    name: str
    symbols: int = Field(64, ge=1)
    max_length: int = Field(16, ge=1, le=1024)
    length_distribution: Literal["uniform", "log_uniform"] = "uniform"  # of training


class CopySettings(SymbolsSettings):
    """Reproduce them."""

    name: Literal["copy"] = "copy"


class ReverseSettings(SymbolsSettings):
    """Reproduce them from the end."""

    name: Literal["reverse"] = "reverse"


class SortSettings(SymbolsSettings):
    """Reproduce them in rising order; needs at least `max_length` symbols."""

    name: Literal["sort"] = "sort"


class DuplicateSettings(SymbolsSettings):
    """Reproduce them twice."""

    name: Literal["duplicate"] = "duplicate"


class SelectiveCopySettings(SymbolsSettings):
    """Reproduce them from among blanks."""

    name: Literal["selective_copy"] = "selective_copy"
    span: int = Field(32, ge=1, le=1024)  # symbols and blanks of a source


class RecallSettings(SymbolsSettings):
    """Tell the values of keys, listed once, that come again; keys and values share the symbols."""

    name: Literal["recall"] = "recall"
    span: int = Field(64, ge=1, le=1024)  # a source: pairs, questions and blanks


class LookupSettings(SymbolsSettings):
    """Tell the values of the keys of a dictionary; as many keys as values, `symbols`."""

    name: Literal["lookup"] = "lookup"


class TextSettings(Section):
    """The lines of a UTF-8 file."""

    name: Literal["text"] = "text"
    path: str = ""  # the text shipped with the package
    max_length: int = Field(80, ge=1, le=1024)  # in bytes; longer lines are left out
    crop_fraction: float = Field(0.5, ge=0, le=1)  # of the training examples: pieces of lines


class CmudictSettings(Section):
    """Words of the CMU Pronouncing Dictionary to pronounce; needs the extra `tasks`."""

    name: Literal["cmudict"] = "cmudict"
    max_length: int = Field(16, ge=1, le=1024)  # letters, and phonemes; longer ones are left out


class DigitsSettings(Section):
    """Images of scikit-learn's handwritten digits to classify; needs the extra `tasks`."""

    name: Literal["digits"] = "digits"
    patch: Literal[1, 2, 4] = 2  # pixels, the side of a patch of the 8 × 8

    @property
    def max_length(self) -> int:
        """Patches of an image."""
        return (8 // self.patch) ** 2


TaskSettings = (
    CmudictSettings
    | CopySettings
    | DigitsSettings
    | DuplicateSettings
    | LookupSettings
    | RecallSettings
    | ReverseSettings
    | SelectiveCopySettings
    | SortSettings
    | TextSettings
)


class ModelSettings(Section):
    """Encoder, attention and decoder."""

    decoder: Literal["parallel", "location", "pooled", "elman", "gru", "lstm"] = "parallel"
    mixer: Literal["none", "feedforward", "convolution", "elman", "gru", "lstm"] = "none"
    positions: Literal["none", "learned", "sinusoidal", "rotary"] = "learned"
    queries: Literal["learned", "shared"] = "learned"  # of decoder parallel, one a position or one
    dim: int = Field(64, ge=1)
    heads: int = Field(1, ge=1)
    normalizer: Literal["softmax", "sigmoid", "sparsemax", "entmax15"] = "softmax"
    bias: Literal["none", "relative", "alibi"] = "none"  # of positions, with decoder parallel
    embedding_std: float = Field(0.5, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)


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
    """What a replica has in the place of the experiment's own."""

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

    name: str = "experiment"
    seed: int = Field(0, ge=0, lt=2**32)
    num_seeds: int = Field(1, ge=1)  # replicas, with seeds seed, seed + 1, …
    replicas: tuple[ReplicaSettings, ...] = ()  # or each named: what a sweep trains together
    score: ScoreSettings = ScoreSettings()
    task: TaskSettings = Field(CopySettings(), discriminator="name")
    model: ModelSettings = ModelSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    train: TrainSettings = TrainSettings()
    eval: EvalSettings = EvalSettings()

    @property
    def num_replicas(self) -> int:
        """How many are trained together."""
        return len(self.replicas) or self.num_seeds


def default_config(score: str = "mlp", *, task: str = "copy") -> ConfigDict:
    """The defaults as a config to change: this score with its options, and this task."""
    settings = Settings.model_validate(
        {"score": {"name": score, "options": default_options(score)}, "task": {"name": task}}
    )
    return ConfigDict(settings.model_dump())


def default_options(score: str) -> dict[str, Any]:
    """The options of a score, with their defaults; the absence of one has none.

    Raises:
      ValueError: no such score.
    """
    from attention.scores import find_score, score_options

    return {} if score == NO_ATTENTION else score_options(find_score(score))


def read_settings(config: dict[str, Any]) -> Settings:
    """The checked settings of a config.

    Raises:
      UsageError: a field is unknown, of the wrong type or out of range; the message names
        field, value and choices.
    """
    try:
        settings = Settings.model_validate(config)
    except ValidationError as error:
        raise UsageError("; ".join(map(_one_line, error.errors()))) from None
    model = settings.model
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


def from_json(config: dict[str, Any]) -> Settings:
    """The checked settings of a config that was kept as JSON, which has lists for tuples.

    Raises:
      UsageError: as `read_settings`.
    """
    return read_settings(_tuples(config))


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that settings are made of."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def check_length(settings: Settings, length: int, where: str) -> None:
    """Refuses a length that the model has no positions for, or the task no sequences of.

    Raises:
      UsageError: naming `where` the length came from.
    """
    longest = settings.task.max_length
    if length < 1 or (length > longest and not _is_unbounded(settings)):
        raise UsageError(
            f"{where}={length}: the model has positions for lengths 1 to {longest}"
            " (config.task.max_length)"
        )


def _is_unbounded(settings: Settings) -> bool:
    """Whether any length can be drawn, and no parameter of the model belongs to a position."""
    model = settings.model
    bounded = {"parallel": model.queries == "learned", "pooled": True}.get(model.decoder, False)
    has_longer = settings.task.name in ("copy", "duplicate", "reverse")
    return has_longer and model.positions != "learned" and not bounded


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


def _one_line(error: Any) -> str:
    names = [str(part) for part in error["loc"]]
    if names[0] == "task" and len(names) > 2:
        del names[1]  # pydantic puts the task's name between
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"config.{'.'.join(names)}={error['input']!r}: {message}"
