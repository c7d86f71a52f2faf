"""Running a command line: bad input ends in one line on standard error and exit status 2."""

import gc
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

from absl import flags

from attention.lab.errors import TrainingError, UsageError, did_you_mean
from attention.lab.own_code import errors_told
from attention.lab.parallel import hosts
from attention.lab.parallel.interruption import answered_interruptions

# Compiling makes many objects and little garbage: to look for it every 700 objects, as Python does,
# takes 6 % of a short run.
OBJECTS_BETWEEN_COLLECTIONS = 50_000

Main = Callable[[list[str]], int]
More = Callable[[list[str]], str]

HELP = {"--help", "-h"}

# How Python's and absl's complaints about a value begin, and what the value is not.
WRONG_KINDS = {
    "invalid literal for int()": "no whole number",
    "could not convert string to float": "no number",
    "('Non-boolean argument to boolean flag'": "neither true nor false",
}


def run(
    main: Main, flag_values: flags.FlagValues, about: str, more: More | None = None
) -> NoReturn:
    """Parses the flags of a command, calls it, and exits with its status.

    Args:
      main: what the command does. It is given what is no flag of its own, which it must use or
        refuse, and returns the exit status.
      flag_values: the flags of the command.
      about: what `--help` shows above them.
      more: what `--help` shows below them, given what is no flag of the command.
    """
    if "traceback" not in flag_values:
        flags.DEFINE_bool(
            "traceback", False, "of an error in your own code, show all", flag_values=flag_values
        )
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # where a user's own scores and tasks may be
    try:
        with answered_interruptions(), errors_told():
            status = main(parse(flag_values, sys.argv, about, more))
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads on, as in `train.py --list | head -1`
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    except (UsageError, TrainingError, OSError) as error:
        # Processes that train together end alike, but for what the system refused to one alone.
        if hosts.is_first() or isinstance(error, OSError):
            print(_told(error, whole=bool(flag_values["traceback"].value)), file=sys.stderr)
        status = 2 if isinstance(error, UsageError) else 1
    sys.exit(status)


def _told(error: Exception, *, whole: bool) -> str:
    """An error in one line; or as a whole, with the traceback of its cause before that line."""
    line, cause = f"error: {' '.join(str(error).split())}", error.__cause__
    if cause is None:
        return line
    if whole:
        return "".join(traceback.format_exception(cause)) + line
    return f"{line} (--traceback shows all)"


def define_compilation_cache(flag_values: flags.FlagValues) -> flags.FlagHolder[bool]:
    """The flag of a command that keeps compiled programs, or not: see `keep_compiled_programs`."""
    return flags.DEFINE_boolean(
        "compilation_cache",
        True,
        "keep compiled programs for the next run",
        flag_values=flag_values,
    )


def parse(
    flag_values: flags.FlagValues,
    arguments: Sequence[str],
    about: str,
    more: More | None = None,
) -> list[str]:
    """Parses the flags of a command; the rest is returned.

    Args:
      flag_values: the flags.
      arguments: the command line, with the program's name first.
      about: what `--help` shows above the flags, before it exits.
      more: what it shows below them, given the rest.

    Raises:
      UsageError: it names what is wrong.
    """
    if HELP & set(arguments[1:]):
        print(f"{about.strip()}\n\nFlags:\n{flag_values.get_help()}")
        if more is not None:
            others = [argument for argument in arguments if argument not in HELP]
            print(f"\n{more(_parse(flag_values, others))}")
        sys.stdout.flush()
        sys.exit(0)
    return _parse(flag_values, arguments)


def _parse(flag_values: flags.FlagValues, arguments: Sequence[str]) -> list[str]:
    for name in flag_values:
        flag_values[name].unparse()  # or what an earlier call set, in this process, would stay
    flag_values.set_gnu_getopt(True)  # flags are flags wherever they stand
    try:
        rest = flag_values(arguments, known_only=True)[1:]
    except flags.Error as error:
        raise UsageError(in_our_words(error)) from None
    rest = [argument for argument in rest if argument != "--"]  # it only stands between flags
    _refuse_unknown_flags(rest, flag_values)
    return rest


def in_our_words(error: Exception) -> str:
    """What is wrong with the value of a flag: absl has it from Python's own readers of numbers."""
    told = str(error).strip()
    for begin, kind in WRONG_KINDS.items():
        found = re.fullmatch(rf"(?s)flag --(.+?)=(.*): {re.escape(begin)}.*", told)
        if found:
            flag, value = found.groups()
            named = flag if flag.startswith("config.") else f"--{flag}"
            return f"{named}={value!r}: is {kind}"
    return told


def _refuse_unknown_flags(rest: Sequence[str], flag_values: flags.FlagValues) -> None:
    for argument in rest:
        name = argument.lstrip("-").partition("=")[0]
        if re.match("--?[A-Za-z]", argument) and name.partition(".")[0] != "config":
            alike = did_you_mean(name, flag_values, "--")
            raise UsageError(f"Unknown command line flag '{name}'{alike and '; '}{alike}".strip())


def refuse(rest: Sequence[str]) -> None:
    """Refuses what is left of a command line.

    Raises:
      UsageError: naming the first that is left, if anything is.
    """
    if not rest:
        return
    if rest[0].startswith("-"):
        raise UsageError(f"Unknown command line flag '{rest[0].lstrip('-').partition('=')[0]}'")
    raise UsageError(f"{rest[0]!r} is not a flag; flags begin with --")
