"""The flags `--config` and `--config.…`: which experiment, and what is changed in it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from absl import flags
from ml_collections import ConfigDict, config_flags

from attention.lab.commands.command_line import in_our_words, refuse
from attention.lab.configs import CHOICES, change, load, read_config, shipped
from attention.lab.errors import UsageError, did_you_mean
from attention.lab.models.decoders import DECODERS
from attention.lab.models.encoders import ENCODERS
from attention.lab.settings import Settings
from attention.lab.tasks.catalogue import TASKS
from attention.lab.tasks.task import Task


def settings_of(named: str | None, rest: Sequence[str]) -> Settings:
    """The checked settings of a config file, changed by flags.

    Args:
      named: the file, or the name of a shipped one, and behind a colon the score:
        `configs/copy.py:bilinear` or `copy:bilinear`.
      rest: flags `--config.…`, and nothing else.

    Raises:
      UsageError: there is no such file, field or value, or something else is left.
    """
    if named is None:
        refuse([argument for argument in rest if not argument.startswith("-")])
    config = _load(named)
    _refuse_other_data(named, config, rest)
    with told_what_config_suits(named, rest):
        return _changed(named, config, rest)


@contextmanager
def told_what_config_suits(named: str | None, rest: Sequence[str]) -> Iterator[None]:
    """Where settings are refused after flags chose another task, encoder or decoder, says so.

    The config was made for other choices; if a shipped config is made for the task, it is named.

    Args:
      named: as in `settings_of`.
      rest: as in `settings_of`.
    """
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{error}{_made_for(named, rest)}") from error.__cause__


def _load(named: str | None) -> ConfigDict:
    if named is None:
        raise UsageError(
            "--config is missing: name a config, such as copy, or a file, such as configs/copy.py"
        )
    file, *score = named.split(":", 1)
    return load(file, *score)


def _changed(named: str | None, config: ConfigDict, rest: Sequence[str]) -> Settings:
    # First what decides which fields there are.
    _refuse_unknown_fields(named, config, [flag for flag in rest if _field_of(flag) in CHOICES])
    change(config, _choices_in(rest))
    flag_values, arguments = flags.FlagValues(), ["", *rest]
    _refuse_unknown_fields(named, config, rest)
    try:
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=flag_values, sys_argv=arguments
        )
        left = flag_values(arguments, known_only=True)[1:]
    except (flags.Error, ValueError, TypeError) as error:
        raise UsageError(in_our_words(error)) from None
    refuse(left)
    return read_config(config)


def _choices_in(rest: Sequence[str]) -> dict[str, str]:
    """What flags say of the fields whose value decides which other fields there are."""
    values = {}
    for argument, following in zip(rest, [*rest, ""][1:], strict=True):
        _, equals, value = argument.partition("=")
        if argument.startswith("-") and _field_of(argument) in CHOICES:
            values[_field_of(argument)] = value if equals else following
    return values


def _field_of(flag: str) -> str:
    return flag.lstrip("-").partition("=")[0].removeprefix("config.")


def _refuse_other_data(named: str | None, config: ConfigDict, rest: Sequence[str]) -> None:
    """Refuses a shipped task that does not draw what the task of the config draws.

    All sizes of a config, such as lengths, are those of its data.

    Raises:
      UsageError: one of the two tasks reads data; the message names the config that suits.
    """
    before, now = _chosen(config, "task.name"), _choices_in(rest).get("task.name")
    if before == now or before not in TASKS or now not in TASKS:
        return
    if _reads_data(TASKS[before]) or _reads_data(TASKS[now]):
        raise UsageError(
            f"--config.task.name={now}: the sizes in the config {named} are for the data of the"
            f" task {before!r}; use --config={now}"
        )


def _reads_data(task: type[Task]) -> bool:
    return task.source.__func__ is not Task.source.__func__  # type: ignore[attr-defined]


def _chosen(config: ConfigDict, field: str) -> str | None:
    """The name in one of the fields `CHOICES`; None if the config has no name there."""
    section, _, name = field.partition(".")
    fields = config.get(section)
    value = fields.get(name) if isinstance(fields, ConfigDict) else None
    return value if isinstance(value, str) else None


def _made_for(named: str | None, rest: Sequence[str]) -> str:
    """What an error message adds where flags have changed what the config was made for."""
    config, known = _load(named), TASKS.keys() | ENCODERS.keys() | DECODERS.keys()
    before = {
        field: there
        for field, value in _choices_in(rest).items()
        if value in known and (there := _chosen(config, field)) not in (None, value)
    }
    if not before:  # or the choice is a user's own class, or unknown: then the reason says all
        return ""
    listed = " and ".join(f"config.{field}={value}" for field, value in before.items())
    task = _choices_in(rest).get("task.name") if "task.name" in before else None
    other = f", for the task {task!r} there is --config={task}" if task in shipped() else ""
    return f"; the config {named} is made for {listed}{other}"


def _refuse_unknown_fields(named: str | None, config: ConfigDict, rest: Sequence[str]) -> None:
    """Refuses flags `--config.…` of fields that are not there.

    Raises:
      UsageError: naming the flag, and the fields that there are.
    """
    for argument in rest:
        name = argument.lstrip("-").partition("=")[0]
        path = name.split(".")
        if not argument.startswith("-") or path[0] != "config":
            continue
        section = config
        for depth, field in enumerate(path[1:], start=1):
            if not isinstance(section, ConfigDict):
                raise UsageError(f"--{name}: {'.'.join(path[:depth])} has no fields")
            if field not in section:
                choices = ", ".join(section) or f"no fields, in {named}"
                alike = did_you_mean(field, section)
                raise UsageError(f"--{name}: {alike}{'.'.join(path[:depth])} has {choices}")
            section = section[field]
