"""What a Ray worker does for a sweep. It imports nothing of this project, which takes seconds."""

import os
import signal
import subprocess
import sys
import time

LOOK_EVERY_SECONDS = 0.1


def run_command(arguments: list[str], directory: str, log: str, environment: dict[str, str]) -> int:
    """Runs Python with these arguments, in the environment that Ray gave the worker.

    Args:
      arguments: of a program that ends when its standard input closes, as it does when the
        worker dies, and saves and ends on SIGTERM.
      directory: where to run it.
      log: a file to append to, since it may run anew after a worker died.
      environment: what to add.

    Returns:
      Its exit status.

    Raises:
      KeyboardInterrupt: the task was cancelled; the program has ended.
    """
    # How Ray cancels; in a shell's background it would be ignored, by all that was started there.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(log, "a") as file:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            start_new_session=True,
        )
    try:
        while process.poll() is None:  # a wait would not notice that the task is cancelled
            time.sleep(LOOK_EVERY_SECONDS)
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    return process.returncode
