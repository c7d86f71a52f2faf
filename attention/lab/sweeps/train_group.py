"""Trains a group of trials of a sweep: what `sweep.py` starts. It dies with who started it.

python scripts/sweep_group.py <folder of the sweep> <id of the group>
"""

import os
import signal
import sys
import threading
from pathlib import Path

from rich.console import Console

from attention.lab.errors import TrainingError, UsageError
from attention.lab.parallel.replicas import join
from attention.lab.sweeps.folder import Group
from attention.lab.training.loop import train


def main(folder: Path, group_id: str) -> int:
    """The exit status: 0 if all trials are over, 1 if some failed; or else they are not over."""
    group = Group(folder, group_id)
    settings = join([trial.settings for trial in group.trials])
    try:
        status = train(settings, group.run.path, Console())
    except TrainingError as error:
        count = len(group.trials)  # the error is of those that failed last
        group.fail(
            str(error) if count == 1 else f"all {count} of the group failed, the last {error}"
        )
        status = 1
    except (UsageError, OSError) as error:
        print(f"error: {error}", flush=True)
        return 2
    group.record()
    return status


def die_with_parent() -> None:
    """Ends this process when the other end of standard input closes, as any death closes it."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGKILL)  # checkpoints withstand it

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
