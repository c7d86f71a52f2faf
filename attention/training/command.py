"""Running a command line: bad input ends in one line on standard error and exit status 2."""

import sys
from collections.abc import Callable
from typing import NoReturn

from absl import app, flags

from attention.training.loop import TrainingError
from attention.training.settings import UsageError


def run(main: Callable[[], int]) -> NoReturn:
    """Parses the flags, calls `main`, and exits with its status."""
    app.define_help_flags()
    try:
        leftover = flags.FLAGS(sys.argv)[1:]
        if leftover:
            raise UsageError(f"{leftover[0]!r} is not a flag; flags begin with --")
        status = main()
    except (flags.Error, UsageError) as error:
        _fail(str(error), 2)
    except (TrainingError, OSError) as error:
        _fail(str(error), 1)
    sys.exit(status)


def _fail(message: str, status: int) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)
