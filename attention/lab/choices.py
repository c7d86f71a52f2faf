"""What a config chooses by name: something of the package, or a user's own class or function.

The one place where a name of a config becomes code. A task, an encoder, a decoder, a normalizer
and a bias are found here; scores are found by the library, which takes the same names.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attention.biases import BIASES
from attention.lab.errors import UsageError, did_you_mean
from attention.lab.fields import REQUIRED, Option, options_of, read_option
from attention.lab.models.decoder import Decoder
from attention.lab.models.decoders import DECODERS
from attention.lab.models.encoder import Encoder
from attention.lab.models.encoders import ENCODERS
from attention.lab.own_code import errors_told, lines_of
from attention.lab.tasks.catalogue import TASKS
from attention.lab.tasks.task import Task, TaskSettings
from attention.names import find_named
from attention.normalizers import NORMALIZERS
from attention.scores import SCORES, find_score

NO_ATTENTION = "none"  # in the place of a score's name: a decoder without attention
NO_BIAS = "none"  # in the place of a bias's name
OF_THE_TASK = "auto"  # in the place of an encoder's name: the encoder that the task's sources need


def find_choice(field: str, choices: Mapping[str, Any], name: str) -> Any:
    """What a config chooses by name: something of the package, or a user's class or function.

    Args:
      field: dotted path of the field, for the error message.
      choices: what the package offers, by name.
      name: a key of the choices, or a path `module:Name`.

    Raises:
      UsageError: the name is neither a choice nor the path of a class or function; the message
        names the choices or what is wrong with the path.
    """
    _refuse_unknown(field, choices, name)
    kind = field.removesuffix(".name").rpartition(".")[2]
    choice = _found(field, name, lambda: find_named(kind, choices, name))
    if name not in choices and not callable(choice):
        kind = type(choice).__name__
        raise UsageError(f"{field}={name!r}: is a {kind}, not a class or function")
    return choice


def _refuse_unknown(field: str, choices: Iterable[str], name: str) -> None:
    if name not in choices and ":" not in name:
        alike, listed = did_you_mean(name, choices), ", ".join(choices)
        raise UsageError(
            f"{field}={name!r}: is unknown; {alike}choose {listed} or a path module:Name"
        )


def _found(field: str, name: str, find: Callable[[], Any]) -> Any:
    """What a search finds; the error of a search tells the field, that of a module its line too."""
    with errors_told({field: name}):
        try:
            return find()
        except ValueError as error:
            if lines_of(error, {field: name}):  # raised by the module that was imported
                raise
            raise UsageError(f"{field}={name!r}: {error}") from None


def find_task(name: str) -> type[Task]:
    """The class of a task, either from `TASKS` or a user's.

    Raises:
      UsageError: there is no task of this name.
    """
    return _class("config.task.name", TASKS, name, Task)


def task_section(name: str) -> type[TaskSettings]:
    """The fields that a config has for a task.

    Raises:
      UsageError: there is no task of this name, or its class does not tell its settings.
    """
    task = find_task(name)
    with errors_told({"config.task.name": name}):
        try:
            return _section_of(task)
        except TypeError as error:
            if lines_of(error, {"config.task.name": name}):
                raise
            raise UsageError(f"config.task.name={name!r}: {error}") from None


@functools.cache
def _section_of(task: type[Task]) -> type[TaskSettings]:
    return task.settings()


def find_encoder(name: str, task: type[Task]) -> type[Encoder]:
    """The class of an encoder, either from `ENCODERS` or a user's.

    Args:
      name: of the encoder; `auto` for the encoder that suits the task's sources.
      task: the class of the task.

    Raises:
      UsageError: there is no encoder of this name.
    """
    choices = {OF_THE_TASK: ENCODERS[task.encoder], **ENCODERS}
    return _class("config.model.encoder", choices, name, Encoder)


def find_decoder(name: str) -> type[Decoder]:
    """The class of a decoder, either from `DECODERS` or a user's.

    Raises:
      UsageError: there is no decoder of this name.
    """
    return _class("config.model.decoder", DECODERS, name, Decoder)


def find_normalizer(name: str) -> Any:
    """A normalizer, either from `NORMALIZERS` or a user's function.

    Raises:
      UsageError: there is no normalizer of this name.
    """
    return find_choice("config.model.normalizer", NORMALIZERS, name)


def find_bias(name: str) -> Any:
    """The class of a bias, either from `BIASES` or a user's; None for `none`.

    Raises:
      UsageError: there is no bias of this name.
    """
    return find_choice("config.model.bias", {NO_BIAS: None, **BIASES}, name)


def _class(field: str, choices: Mapping[str, Any], name: str, kind: type) -> Any:
    choice = find_choice(field, choices, name)
    is_derived = isinstance(choice, type) and issubclass(choice, kind)
    if not is_derived:
        raise UsageError(f"{field}={name!r}: is no class derived from {kind.__name__}")
    if lacking := getattr(choice, "__abstractmethods__", None):
        raise UsageError(f"{field}={name!r}: does not define {', '.join(sorted(lacking))}")
    return choice


def score_options(name: str) -> dict[str, Option]:
    """The options of a score; where there is no attention, there are none.

    Raises:
      UsageError: there is no such score.
    """
    if name == NO_ATTENTION:
        return {}
    _refuse_unknown("config.score.name", SCORES, name)
    return options_of(_found("config.score.name", name, lambda: find_score(name)))


def read_score_options(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a score's options, of the types that their annotations say.

    Raises:
      UsageError: there is no such score; or an option is missing, of another type, out of range.
    """
    return {
        option: read_option(choice, values.get(option), f"config.score.options.{option}")
        for option, choice in score_options(name).items()
        if option in values or choice.default is REQUIRED
    }
