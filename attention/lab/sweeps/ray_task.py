"""What a Ray worker does for a sweep.

It reaches the worker by value (`ray_cluster` sees to that) and imports nothing of this project,
which would take seconds.
"""

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
    # Ray cancels a task by SIGINT. Where Ray was started in the background of a shell, its
    # processes would ignore that signal.
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
