"""Trains a group of trials of a sweep: what an engine starts. It dies with who started it.

python -m attention.lab.sweeps.train_group <folder of the sweep> <id of the group>
"""

import os
import signal
import sys
import threading
import traceback
from pathlib import Path

from rich.console import Console

from attention.lab.compilation_cache import keep_compiled_programs
from attention.lab.errors import TrainingError, UsageError
from attention.lab.parallel.replicas import join
from attention.lab.sweeps.folder import Group
from attention.lab.training.loop import train


def main(folder: Path, group_id: str) -> int:
    """Trains the group, or goes on with it, and writes the results of its trials.

    Returns:
      The exit status: 0 if all trials are done, 1 if all are over and some failed; another
      status if the training is not over.
    """
    group = Group(folder, group_id)
    trials = group.trials
    settings = join([trial.settings for trial in trials])
    try:
        status = train(settings, group.run.path, Console()).exit_status
    except TrainingError as error:
        _show_cause(error)
        # It is about those trials alone that failed last.
        several = f"the last of a group of {len(trials)} failed: "
        group.fail(f"{several if len(trials) > 1 else ''}{error}")
        status = 1
    except (UsageError, OSError) as error:
        _show_cause(error)
        print(f"error: {error}", flush=True)
        return 2
    group.record()
    return status


def _show_cause(error: Exception) -> None:
    """Shows the traceback of an error in a user's own code: a log has room for it."""
    if error.__cause__ is not None:
        traceback.print_exception(error.__cause__)


def die_with_parent() -> None:
    """Ends this process when the other end of standard input closes, as any death closes it."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGKILL)  # checkpoints withstand it

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    die_with_parent()
    keep_compiled_programs()
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
