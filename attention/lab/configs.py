"""Config files: each returns a `ConfigDict`, which flags may change and settings are made from."""

import os
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from ml_collections import ConfigDict, FrozenConfigDict, config_dict

from attention.lab.choices import (
    find_decoder,
    find_encoder,
    find_task,
    score_options,
    task_section,
)
from attention.lab.errors import UsageError, did_you_mean
from attention.lab.fields import (
    REQUIRED,
    Option,
    Section,
    as_json,
    is_section,
    kinds_of,
    options_of,
)
from attention.lab.own_code import begins, in_one_line
from attention.lab.repository import CONFIGS
from attention.lab.settings import Settings, model_section_of, read_settings, settings_class
from attention.lab.tasks.catalogue import DEFAULT

# The fields whose values decide which other fields a config has.
CHOICES = ("task.name", "model.encoder", "model.decoder")

LONGEST_NAME = 100  # bytes of UTF-8; a file system takes 255, and names of runs add to it


def default_config(
    score: str = "mlp", *, task: str = DEFAULT, decoder: str = "parallel"
) -> ConfigDict:
    """A config in which every field has its default, for a config file to change.

    A field without a default holds None until the file or a flag sets it.

    Args:
      score: name of the score, whose options become fields.
      task: name of the task, whose settings become fields.
      decoder: name of the decoder, whose settings become fields; a decoder may also change the
        defaults of the rest of the model.

    Raises:
      ValueError: there is no such score, task or decoder.
    """
    model = {"decoder": decoder, **find_decoder(decoder).defaults}
    chosen = {"score": {"name": score}, "task": {"name": task}, "model": model}
    config = ConfigDict(_defaults(settings_class(chosen)))
    for section, values in chosen.items():
        config[section].update(values)
    config.score.options = ConfigDict(_held(score_options(score)))
    return config


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
        f"{flag}={named}: there is no such file; {did_you_mean(named, names)}name a file, or one of"
        f" {', '.join(names)}"
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
    begin = None
    try:
        get_config = runpy.run_path(file).get("get_config")
        begin = begins(get_config)
        config = get_config(*score) if callable(get_config) else None
    except UsageError as error:
        if score and score[0] in str(error):  # what is wrong was asked for by the flag
            raise
        raise UsageError(f"--config={file}: {in_one_line(error, begin)}") from error.__cause__
    except (Exception, SystemExit) as error:  # the file is a user's program: anything may go wrong
        raise UsageError(f"--config={file}: {in_one_line(error, begin)}") from error
    if not callable(get_config):
        raise UsageError(f"--config={file}: has no function get_config")
    if not isinstance(config, ConfigDict):
        returned = "None" if config is None else f"a value of type {type(config).__name__}"
        raise UsageError(
            f"--config={file}: {begin}: get_config() returns {returned}, where a ConfigDict is due"
        )
    if isinstance(config, FrozenConfigDict):
        config = config.as_configdict()
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
        defaults = _defaults(task_section(name))
        kept = {field: config.task[field] for field in config.task if field in defaults}
        config.task = ConfigDict({**defaults, **kept, "name": name})
        return
    before = model_section_of(config.to_dict()).model_fields
    config.model[field.removeprefix("model.")] = name
    for option, default in _held(_options_of(config, field)).items():
        # A field that nobody has changed takes the default of the class that is now chosen.
        if option not in config.model or config.model[option] == before[option].default:
            with config.model.ignore_type():
                config.model[option] = default


def _options_of(config: ConfigDict, field: str) -> dict[str, Option]:
    """The options of the encoder or decoder that a config has chosen.

    Without those that a config gives by name, where the class wants an object.
    """
    if field == "model.encoder":
        part: Any = find_encoder(config.model.encoder, find_task(config.task.name))
    else:
        part = find_decoder(config.model.decoder)
    options = options_of(part)
    return {option: options[option] for option in options if option not in ("normalizer", "bias")}


def _defaults(section: type[Section]) -> dict[str, Any]:
    """The fields of a section, and of the sections within, as a config has them."""
    fields: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        if is_section(field.annotation):
            fields[name] = _defaults(field.annotation)
        else:
            default = field.get_default(call_default_factory=True)
            option = Option(field.annotation, REQUIRED if field.is_required() else default)
            fields |= _held({name: option})
    return fields


def _held(options: Mapping[str, Option]) -> dict[str, Any]:
    """The defaults of options as a config has them: such that a flag can change each."""
    return {name: _holder(name, option) for name, option in options.items()}


def _holder(name: str, option: Option) -> Any:
    """A default; a placeholder where there is none; of any type where there are several types."""
    kinds = kinds_of(option.annotation)
    if option.default in (None, REQUIRED):
        return config_dict.placeholder(_plain(kinds[0]) if len(kinds) == 1 else object)
    default = as_json(option.default, name)
    return default if len(kinds) == 1 else config_dict.FieldReference(default, field_type=object)


def _plain(kind: Any) -> type:
    """The type that values of a kind have in a config: object, if it cannot be told."""
    if get_origin(kind) is Literal:
        types = {type(value) for value in get_args(kind)}
        kind = types.pop() if len(types) == 1 else object
    kind = get_origin(kind) or kind
    return kind if kind in (bool, int, float, str, tuple) else object
