"""Running a command line: bad input ends in one line on standard error and exit status 2."""

import sys
from collections.abc import Callable
from typing import NoReturn

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from attention.training import hosts
from attention.training.loop import TrainingError
from attention.training.settings import UsageError


def run(main: Callable[[], int]) -> NoReturn:
    """Parses the flags, calls `main`, and exits with its status."""
    app.define_help_flags()
    try:
        parse(flags.FLAGS, sys.argv)
        status = main()
    except (UsageError, TrainingError, OSError) as error:
        # Processes that train together end alike, but for what the system refused to one alone.
        if hosts.is_first() or isinstance(error, OSError):
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        status = 2 if isinstance(error, UsageError) else 1
    sys.exit(status)


def parse(values: flags.FlagValues, arguments: list[str]) -> None:
    """Parses a command line, with the program's name first, into flags.

    Raises:
      UsageError: it names what is wrong with it.
    """
    try:
        leftover = values(arguments)[1:]
    except flags.Error as error:
        # An exception in a config file comes with its traceback; its last line says it all.
        message = str(error).strip()
        raise UsageError(message.splitlines()[-1] if "Traceback" in message else message) from None
    except SyntaxError as error:
        raise UsageError(f"--config: {error.filename} is not Python: {error.msg}") from None
    except Exception as error:  # a config file is somebody's program: anything may go wrong in it
        kind = type(error).__name__
        raise UsageError(_unknown_field(arguments) or f"--config: {kind}: {error}") from None
    if leftover:
        raise UsageError(f"{leftover[0]!r} is not a flag; flags begin with --")


def _unknown_field(arguments: list[str]) -> str | None:
    """Which `--config.…` flag names a field that is not there, and which are."""
    try:
        config = _config_without_overrides(arguments)
    except Exception:  # then no field is to blame
        return None
    for argument in arguments[1:]:
        name = argument.lstrip("-").partition("=")[0]
        path = name.split(".")
        if path[0] != "config":
            continue
        section = config
        for depth, field in enumerate(path[1:], start=1):
            if not isinstance(section, ConfigDict):
                return f"--{name}: {'.'.join(path[:depth])} has no fields"
            if field not in section:
                choices = ", ".join(section) or "no fields"
                return f"--{name}: {'.'.join(path[:depth])} has {choices}"
            section = section[field]
    return None


def _config_without_overrides(arguments: list[str]) -> ConfigDict:
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=[])
    rest = iter(arguments[1:])
    for argument in rest:
        name, _, path = argument.lstrip("-").partition("=")
        if name == "config":
            values(["", f"--config={path or next(rest)}"])
    return config.value
