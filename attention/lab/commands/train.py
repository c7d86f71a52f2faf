"""Train an experiment: `python train.py --config configs/copy.py`.

The score is an argument of the config, `configs/copy.py:bilinear`; every field is a
flag, `--config.optimizer.learning_rate=1e-3`. The same command again goes on where the
run stopped. Where there are several hosts, each runs it.
"""

from pathlib import Path
from typing import NoReturn

from absl import flags
from rich.console import Console

from attention.lab.commands.command_line import run
from attention.lab.commands.config_flags import settings_of
from attention.lab.compilation_cache import keep_compiled_programs
from attention.lab.parallel import hosts
from attention.lab.training.loop import train

FLAGS = flags.FlagValues()
CONFIG = flags.DEFINE_string(
    "config", None, "config file, with a score: configs/copy.py:bilinear", flag_values=FLAGS
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "where to keep the run (default: runs/<config>-<score>)", flag_values=FLAGS
)
ADDRESS = flags.DEFINE_string(
    "coordinator_address",
    None,
    "host:port of process 0 of several (default: the environment's)",
    flag_values=FLAGS,
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "how many processes train together", flag_values=FLAGS
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "which of them this is, from 0", flag_values=FLAGS
)
COMPILATION_CACHE = flags.DEFINE_boolean(
    "compilation_cache", True, "keep compiled programs for the next run", flag_values=FLAGS
)


def main() -> NoReturn:
    run(_train, FLAGS, __doc__)


def _train(rest: list[str]) -> int:
    keep_compiled_programs(COMPILATION_CACHE.value)
    settings = settings_of(CONFIG.value, rest)  # what is wrong with it, each process finds alone
    hosts.join(ADDRESS.value, NUM_PROCESSES.value, PROCESS_ID.value)
    workdir = None if WORKDIR.value is None else Path(WORKDIR.value)
    return train(settings, workdir, Console()).exit_status


if __name__ == "__main__":  # `repeat` starts it as a module: train.py may not be at hand
    main()
