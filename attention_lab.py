"""Where commands begin: answers Ctrl-C while Python imports the rest, which takes seconds.

It stands outside of the package `attention`, which Python imports whole, and JAX with it, before
any module inside. `python -m attention_lab train` is `train.py`, wherever one is.
"""

import importlib
import os
import signal
import sys
from contextlib import suppress
from functools import partial
from types import FrameType

COMMANDS = ("train", "eval", "sweep", "claims", "benchmark", "repeat", "docs")


def start(command: str) -> None:
    """Runs a command, by its name, on the arguments of this process, and exits."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    importlib.import_module(f"attention.lab.commands.{command}").main()


def _end(number: int, frame: FrameType | None) -> None:
    """Ends the process before a command begins, or after it is done, without a traceback."""
    del frame
    with suppress(Exception):
        sys.stdout.flush()
    over_the_echo = "\r" if os.isatty(2) else ""  # of Ctrl-C, which is ^C
    os.write(2, f"{over_the_echo}interrupted ({signal.Signals(number).name})\n".encode())
    os._exit(128 + number)


train, evaluate, sweep, claims, benchmark, repeat, docs = (
    partial(start, name) for name in COMMANDS
)

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(f"error: name a command: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    start(sys.argv.pop(1))
