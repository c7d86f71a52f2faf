"""Config files: each returns a `ConfigDict`, which flags may change and settings are made from."""

import os
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from ml_collections import ConfigDict, config_dict

from attention.lab.choices import (
    default_options,
    find_decoder,
    find_encoder,
    find_task,
    task_section,
)
from attention.lab.errors import UsageError
from attention.lab.fields import Section, options_of
from attention.lab.repository import CONFIGS
from attention.lab.settings import Settings, model_section_of, read_settings
from attention.lab.tasks.catalogue import DEFAULT

# The fields whose values decide which other fields a config has.
CHOICES = ("task.name", "model.encoder", "model.decoder")

LONGEST_NAME = 100  # bytes of UTF-8; a file system takes 255, and names of runs add to it


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


def shipped(folder: Path = CONFIGS) -> dict[str, Path]:
    """The files that come with this package, by the names that are enough to name them.

    Args:
      folder: of the files: `CONFIGS`, or the folder of the spaces of sweeps.
    """
    return {file.stem: file for file in sorted(folder.glob("*.py"))}


def find_config(named: str) -> Path:
    """The config file of a path, or the shipped one of a name, such as `copy`.

    A file is taken before a name; so a folder `copy` is in nobody's way.

    Raises:
      UsageError: there is neither; the message lists the names.
    """
    return find_file("--config", named, CONFIGS)


def find_file(flag: str, named: str, folder: Path) -> Path:
    """The file of a path, or the shipped one of a name.

    Args:
      flag: what the file was named by, for the error message.
      named: a path, or the name of a shipped file.
      folder: of the shipped files.

    Raises:
      UsageError: there is neither; the message lists the names.
    """
    if os.path.isfile(named):
        return Path(named)
    names = shipped(folder)
    if named in names:
        return names[named]
    raise UsageError(
        f"{flag}={named}: there is no such file; name a file, or one of {', '.join(names)}"
    )


def load(named: str, *score: str) -> ConfigDict:
    """The config that a file makes.

    An experiment has the name of its file, unless the file sets another name.

    Args:
      named: path of the file, or the name of a config that is shipped, see `find_config`.
      *score: name of a score, the argument of the file's `get_config`; nothing for the score
        that the file chooses by default.

    Raises:
      UsageError: the file cannot be read or run, or makes no config; the message names the file.
    """
    file = str(find_config(named))
    try:
        get_config = runpy.run_path(file).get("get_config")
        if get_config is None:
            raise UsageError(f"--config={file}: has no function get_config")
        config = get_config(*score)
    except UsageError:
        raise
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
    class are added; a field that has the default of the old class takes that of the new class.

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
      UsageError: the config is refused, as by `read_settings`, or its name cannot be part of the
        name of a folder.
    """
    settings = read_settings(config.to_dict())
    _check_name(settings.name)
    return settings


def _check_name(name: str) -> None:
    """Refuses a name that would lead somewhere else as part of a path, or be no path at all."""
    if (
        not name.isprintable()
        or {"/", "\\"} & set(name)
        or name.startswith((".", "-"))
        or not 1 <= len(name.encode()) <= LONGEST_NAME
    ):
        raise UsageError(
            f"config.name={name!r}: names a folder, so give 1 to {LONGEST_NAME} bytes that can be"
            " printed, without / and \\, and not with . or - first"
        )


def _choose(config: ConfigDict, field: str, name: str) -> None:
    """Names another task, encoder or decoder, and has the fields that it brings along."""
    if field == "task.name":
        task = task_section(name)
        defaults = {field: info.default for field, info in task.model_fields.items()}
        kept = {field: config.task[field] for field in config.task if field in defaults}
        config.task = ConfigDict({**_fillable(task, defaults), **kept, "name": name})
        return
    before = model_section_of(config.to_dict()).model_fields
    config.model[field.removeprefix("model.")] = name
    section, options = model_section_of(config.to_dict()), _options_of(config, field)
    for option, default in _fillable(section, options).items():
        # A field that nobody has changed takes the default of the class that is now chosen.
        if option not in config.model or config.model[option] == before[option].default:
            with config.model.ignore_type():
                config.model[option] = default


def _options_of(config: ConfigDict, field: str) -> dict[str, Any]:
    """The defaults of the fields of the encoder or decoder that a config has chosen.

    Without those that a config gives by name, where the class wants an object.
    """
    if field == "model.encoder":
        part: Any = find_encoder(config.model.encoder, find_task(config.task.name))
    else:
        part = find_decoder(config.model.decoder)
    options = {option: default for option, (_, default) in options_of(part).items()}
    return {option: options[option] for option in options if option not in ("normalizer", "bias")}


def _fillable(section: type[Section], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults as a config can have them: in the place of None, one that a flag can fill."""
    return {
        field: _placeholder(section.model_fields[field].annotation) if default is None else default
        for field, default in defaults.items()
    }


def _placeholder(annotation: Any) -> Any:
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    is_plain = len(kinds) == 1 and kinds[0] in (bool, int, float, str, tuple)
    return config_dict.placeholder(kinds[0]) if is_plain else None
