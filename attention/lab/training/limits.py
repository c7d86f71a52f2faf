"""Checks that settings fit together: what does not is refused before anything starts."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from attention.lab.choices import NO_ATTENTION, read_score_options, score_options
from attention.lab.errors import UsageError
from attention.lab.fields import options_of
from attention.lab.models.decoder import Decoder
from attention.lab.models.decoders import DECODERS
from attention.lab.models.encoders import ENCODERS
from attention.lab.settings import Settings, decoder_of, encoder_of, task_of
from attention.lab.tasks.task import Task


def refuse_64_bits() -> None:
    """Refuses to train or evaluate with JAX's 64 bits: all draws would be others.

    Raises:
      UsageError: JAX has its 64 bits switched on.
    """
    if jax.config.values["jax_enable_x64"]:
        raise UsageError(
            "JAX_ENABLE_X64=1: the lab computes in 32 bits, and with 64 would draw other sequences"
            " and parameters; set JAX_ENABLE_X64=0"
        )


def check_score(settings: Settings) -> None:
    """Refuses a score that does not exist, and options that it does not take, or that are missing.

    Raises:
      UsageError: the score or an option is refused; the message names the choices.
    """
    name, options = settings.score.name, settings.score.options
    choices = score_options(name)
    taken = options_of(decoder_of(settings))
    for option in options:
        if option in taken:
            raise UsageError(
                f"config.score.options.{option}={options[option]!r}: the decoder"
                f" {settings.model.decoder!r} has a setting of this name too; one of them must be"
                " called otherwise"
            )
        if option not in choices:
            raise UsageError(
                f"config.score.options.{option}={options[option]!r}: the score {name!r} takes"
                f" {', '.join(choices) or 'no options'}; name the score with the config to"
                f" get its options, --config={settings.name}:{name}"
            )
    read_score_options(name, options)


def check_optimizer(settings: Settings) -> None:
    """Refuses a weight decay that the optimizer would ignore.

    Raises:
      UsageError: the weight decay is refused; the message names the optimizer.
    """
    name = settings.optimizer.name
    for numbers in settings.replicas or (settings.optimizer,):
        if name != "adamw" and numbers.weight_decay:
            raise UsageError(
                f"config.optimizer.weight_decay={numbers.weight_decay}: only adamw decays"
                f" weights, the optimizer is {name}"
            )


def check_model(settings: Settings) -> None:
    """Refuses settings that neither encoder nor decoder takes, or that the decoder cannot meet.

    Raises:
      UsageError: a setting is refused; the message names the field, its value, and the decoders
        that accept the value.
    """
    model = settings.model
    taken = {*options_of(encoder_of(settings)), *options_of(decoder_of(settings))}
    for field, info in type(model).model_fields.items():
        value = getattr(model, field)
        is_general = field in ("encoder", "decoder", "dim")
        if not is_general and field not in taken and value != info.default:
            raise UsageError(f"config.model.{field}={value!r}: {_needs(settings, field)}")
    if encoder_of(settings).leaves_positions(model.model_dump()):
        _require_of_decoder(
            settings,
            f"model.positions={model.positions!r}",  # type: ignore[attr-defined]
            lambda decoder: decoder.turns_positions,
        )
    if settings.score.name == NO_ATTENTION:
        _require_of_decoder(
            settings,
            f"score.name={settings.score.name!r}",
            lambda decoder: not decoder.needs_attention,
        )


def check_questions(settings: Settings, task: Task) -> None:
    """Refuses a task that asks questions where the decoder answers none.

    Raises:
      UsageError: the task is refused; the message names the decoders that answer questions.
    """
    question = jax.eval_shape(lambda: task.sample(jax.random.key(0), 1).question)
    if question is None or decoder_of(settings).answers_questions:
        return
    able = ", ".join(repr(name) for name, decoder in DECODERS.items() if decoder.answers_questions)
    raise UsageError(
        f"config.model.decoder={settings.model.decoder!r}: the task {settings.task.name!r} asks"
        f" questions, which only the decoder {able} answers"
    )


def check_encoder(settings: Settings) -> None:
    """Refuses an encoder of the package that is not for the sources of the task.

    Raises:
      UsageError: naming the encoder that is.
    """
    named, needed = settings.model.encoder, task_of(settings).encoder
    if named in ENCODERS and named != needed:
        raise UsageError(
            f"config.model.encoder={named!r}: the sources of the task {settings.task.name!r} need"
            f" {needed!r}"
        )


def _needs(settings: Settings, option: str) -> str:
    """Which encoders and decoders of the package have a setting that the chosen ones lack."""
    able, chosen = [], []
    parts: dict[str, Mapping[str, Any]] = {"encoder": ENCODERS, "decoder": DECODERS}
    for part, choices in parts.items():
        names = [name for name, choice in choices.items() if option in options_of(choice)]
        if names:
            able.append(f"config.model.{part}={' or '.join(names)}")
            chosen.append(getattr(settings.model, part))
    return f"needs {', or '.join(able)}, not {' and '.join(chosen)}"


def _require_of_decoder(
    settings: Settings, field: str, is_able: Callable[[type[Decoder]], bool]
) -> None:
    if not is_able(decoder_of(settings)):
        able = " or ".join(name for name, decoder in DECODERS.items() if is_able(decoder))
        raise UsageError(
            f"config.{field}: needs config.model.decoder={able}, not {settings.model.decoder}"
        )
