"""Train an experiment: `python train.py --config configs/copy.py`.

The score is an argument of the config, `configs/copy.py:bilinear`; every field is a
flag, `--config.optimizer.learning_rate=1e-3`. The same command again goes on where the
run stopped. Where there are several hosts, each runs it.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags
from rich.console import Console

from attention.training import command, hosts
from attention.training.loop import train
from attention.training.settings import read_config

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "config file, with a score: configs/copy.py:bilinear", lock_config=True
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "where to keep the run (default: runs/<config>-<score>)"
)
ADDRESS = flags.DEFINE_string(
    "coordinator_address", None, "host:port of process 0 of several (default: the environment's)"
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "how many processes train together")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "which of them this is, from 0")


def main() -> int:
    settings = read_config(CONFIG.value)  # first, for what is wrong with it needs no meeting
    hosts.join(ADDRESS.value, NUM_PROCESSES.value, PROCESS_ID.value)
    workdir = None if WORKDIR.value is None else Path(WORKDIR.value)
    return train(settings, workdir, Console())


if __name__ == "__main__":
    command.run(main)
