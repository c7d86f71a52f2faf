"""Config files: they return a `ConfigDict`, which flags may change, and settings are made of."""

import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from attention.lab.errors import UsageError
from attention.lab.fields import options_of
from attention.lab.settings import (
    NO_ATTENTION,
    Settings,
    find_decoder,
    find_encoder,
    find_task,
    read_settings,
)
from attention.lab.tasks.catalogue import DEFAULT
from attention.scores import find_score, score_options

# The fields whose value decides which other fields there are.
CHOICES = ("task.name", "model.encoder", "model.decoder")


def default_config(
    score: str = "mlp", *, task: str = DEFAULT, decoder: str = "parallel"
) -> ConfigDict:
    """The defaults as a config to change.

    Args:
      score: name of the score, whose options become fields.
      task: name of the task, whose settings become fields.
      decoder: name of the decoder, whose settings become fields; some decoders have defaults
        of their own for the rest of the model.

    Raises:
      ValueError: there is no such score, task or decoder.
    """
    settings = read_settings(
        {
            "score": {"name": score, "options": default_options(score)},
            "task": {"name": task},
            "model": {"decoder": decoder, **find_decoder(decoder).defaults},
        }
    )
    return ConfigDict(settings.model_dump())


def default_options(score: str) -> dict[str, Any]:
    """The options of a score, with their defaults; where there is no attention, there are none.

    Raises:
      ValueError: there is no such score.
    """
    return {} if score == NO_ATTENTION else score_options(find_score(score))


def load(file: str, *score: str) -> ConfigDict:
    """The config that a file makes, with the score that is asked for, if one is.

    An experiment is named by its file, unless that gives it another name.

    Args:
      file: path of the file.
      score: at most one: name of a score, the argument of `get_config`.

    Raises:
      UsageError: the file cannot be read or run, or makes no config; the message names it.
    """
    if not Path(file).is_file():
        raise UsageError(f"--config={file}: there is no such file; name one as configs/copy.py")
    try:
        config = runpy.run_path(file)["get_config"](*score)
    except SyntaxError as error:
        raise UsageError(f"--config: {error.filename} is not Python: {error.msg}") from None
    except Exception as error:  # it is somebody's program: anything may go wrong in it
        raise UsageError(f"--config={file}: {type(error).__name__}: {error}") from None
    if not isinstance(config, ConfigDict):
        raise UsageError(f"--config={file}: get_config() returns no ConfigDict, but {config!r}")
    if config.get("name") == Settings.model_fields["name"].default:
        config.name = Path(file).stem
    return config


def change(config: ConfigDict, changes: Mapping[str, Any]) -> None:
    """Changes fields of a config.

    Another task brings its own fields along: those that it shares with the task before keep their
    values, the others have their defaults. Another encoder or decoder adds its fields.

    Args:
      config: to change.
      changes: values of fields, by their dotted paths.

    Raises:
      UsageError: there is no task, encoder or decoder of a name.
    """
    for field in CHOICES:
        if field in changes:
            _choose(config, field, changes[field])
    config.update_from_flattened_dict(dict(changes))


def read_config(config: ConfigDict) -> Settings:
    """The checked settings of a config.

    Raises:
      UsageError: as `read_settings`.
    """
    return read_settings(config.to_dict())


def _choose(config: ConfigDict, field: str, name: str) -> None:
    if field == "task.name":
        defaults = find_task(name).settings()(name=name).model_dump()
        kept = {field: config.task[field] for field in config.task if field in defaults}
        config.task = ConfigDict({**defaults, **kept, "name": name})
        return
    if field == "model.encoder":
        part: Any = find_encoder(name, find_task(config.task.name))
    else:
        part = find_decoder(name)
    for option, (_, default) in options_of(part).items():
        if option not in config.model:
            config.model[option] = default
