"""Config files: each returns a `ConfigDict`, which flags may change and settings are made from."""

import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from attention.lab.choices import find_decoder, find_encoder, find_task
from attention.lab.errors import UsageError
from attention.lab.fields import options_of
from attention.lab.settings import NO_ATTENTION, Settings, read_settings
from attention.lab.tasks.catalogue import DEFAULT
from attention.scores import find_score, score_options

# The fields whose values decide which other fields a config has.
CHOICES = ("task.name", "model.encoder", "model.decoder")


def default_config(
    score: str = "mlp", *, task: str = DEFAULT, decoder: str = "parallel"
) -> ConfigDict:
    """A config in which every field has its default, for a config file to change.

    Args:
      score: name of the score, whose options become fields.
      task: name of the task, whose settings become fields.
      decoder: name of the decoder, whose settings become fields; a decoder may also change the
        defaults of the rest of the model.

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
    """The options of a score, with their defaults; no options for `none`, which is no attention.

    Raises:
      ValueError: there is no such score.
    """
    return {} if score == NO_ATTENTION else score_options(find_score(score))


def load(file: str, *score: str) -> ConfigDict:
    """The config that a file makes.

    An experiment has the name of its file, unless the file sets another name.

    Args:
      file: path of the file.
      *score: name of a score, the argument of the file's `get_config`; nothing for the score
        that the file chooses by default.

    Raises:
      UsageError: the file cannot be read or run, or makes no config; the message names the file.
    """
    if not Path(file).is_file():
        raise UsageError(f"--config={file}: there is no such file; name one as configs/copy.py")
    try:
        config = runpy.run_path(file)["get_config"](*score)
    except SyntaxError as error:
        raise UsageError(f"--config: {error.filename} is not Python: {error.msg}") from None
    except Exception as error:  # the file is a user's program: anything may go wrong in it
        raise UsageError(f"--config={file}: {type(error).__name__}: {error}") from None
    if not isinstance(config, ConfigDict):
        raise UsageError(f"--config={file}: get_config() returns no ConfigDict, but {config!r}")
    if config.get("name") == Settings.model_fields["name"].default:
        config.name = Path(file).stem
    return config


def change(config: ConfigDict, changes: Mapping[str, Any]) -> None:
    """Changes fields of a config.

    Where the task changes, so do its fields: a field that the old task has too keeps its value, any
    other field has its default. Where the encoder or the decoder changes, the fields of the new
    class are added.

    Args:
      config: the config to change, in place.
      changes: new values of fields, by the dotted paths of the fields.

    Raises:
      UsageError: a name is of no task, encoder or decoder.
    """
    for field in CHOICES:
        if field in changes:
            _choose(config, field, changes[field])
    config.update_from_flattened_dict(dict(changes))


def read_config(config: ConfigDict) -> Settings:
    """The checked settings of a config.

    Raises:
      UsageError: the config is refused, as by `read_settings`.
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
