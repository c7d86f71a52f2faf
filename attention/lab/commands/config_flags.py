"""The flags `--config` and `--config.…`: which experiment, and what is changed in it."""

from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from attention.lab.commands.command_line import refuse
from attention.lab.configs import CHOICES, change, load, read_config
from attention.lab.errors import UsageError
from attention.lab.settings import Settings


def settings_of(named: str | None, rest: Sequence[str]) -> Settings:
    """The checked settings of a config file, changed by flags.

    Args:
      named: the file and, behind a colon, the score: `configs/copy.py:bilinear`.
      rest: flags `--config.…`, and nothing else.

    Raises:
      UsageError: there is no such file, field or value, or something else is left.
    """
    if named is None:
        raise UsageError("--config is missing: name a config file, such as configs/copy.py")
    file, *score = named.split(":", 1)
    config = load(file, *score)
    change(config, _choices_in(rest))  # first, for they decide which fields there are
    flag_values, arguments = flags.FlagValues(), ["", *rest]
    _refuse_unknown_fields(config, rest)
    try:
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=flag_values, sys_argv=arguments
        )
        left = flag_values(arguments, known_only=True)[1:]
    except (flags.Error, ValueError, TypeError) as error:
        raise UsageError(str(error).strip()) from None
    refuse(left)
    return read_config(config)


def _choices_in(rest: Sequence[str]) -> dict[str, str]:
    """What flags say of the fields whose value decides which other fields there are."""
    values = {}
    for argument, following in zip(rest, [*rest, ""][1:], strict=True):
        name, equals, value = argument.lstrip("-").partition("=")
        field = name.removeprefix("config.")
        if argument.startswith("-") and field in CHOICES:
            values[field] = value if equals else following
    return values


def _refuse_unknown_fields(config: ConfigDict, rest: Sequence[str]) -> None:
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
                choices = ", ".join(section) or "no fields"
                raise UsageError(f"--{name}: {'.'.join(path[:depth])} has {choices}")
            section = section[field]
