"""Programs that a command runs, one at a time, and waits for."""

import subprocess
from collections.abc import Sequence
from typing import Any

from attention.lab.parallel.interruption import Interruption, before_the_end


def call(command: Sequence[str], interruption: Interruption | None = None, **options: Any) -> int:
    """Runs a program to its end, and ends it where this process is ended.

    The program is in a session of its own, where Ctrl-C does not reach it.

    Args:
      command: the program and its arguments.
      interruption: what notes signals here, which are then passed on: the program answers them.
      options: of `subprocess.Popen`.

    Returns:
      The exit status.
    """
    process = subprocess.Popen(command, start_new_session=True, **options)
    with process, before_the_end(process.kill):
        if interruption is not None:
            interruption.answer, interruption.pass_on = "", process.send_signal
        return process.wait()
