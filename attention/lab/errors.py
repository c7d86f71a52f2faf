"""Errors that a person can mend: a command shows their message alone, without a traceback."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """A request that cannot be met: a wrong setting, flag, file or directory."""


class TrainingError(RuntimeError):
    """Training cannot go on: every replica has failed, or the process that trains has."""


def did_you_mean(name: str, choices: Iterable[str], mark: str = "") -> str:
    """A question that names the choice that is most like a name, and a blank; nothing if none is.

    Args:
      name: what there is not.
      choices: what there is.
      mark: what stands before the choice, such as the dashes of a flag.
    """
    alike = difflib.get_close_matches(name, list(choices), n=1)
    return f"did you mean {mark}{alike[0]}? " if alike else ""
