"""Train an experiment: `python train.py --config copy`, or `attention-train --config copy`.

A config is named as it is listed by `--list`, or by its file, `configs/copy.py`; a file is taken
before a name. The score is an argument of the config, `copy:bilinear`; every field is a flag,
`--config.optimizer.learning_rate=1e-3`. `--help` with `--config` shows the fields of that config.
The same command again goes on where the run stopped. Where there are several hosts, each runs it.
"""

from pathlib import Path
from typing import NoReturn

from absl import flags
from rich.console import Console

from attention.lab.commands.command_line import define_compilation_cache, refuse, run
from attention.lab.commands.config_flags import settings_of, told_what_config_suits
from attention.lab.commands.places import folder_for
from attention.lab.compilation_cache import keep_compiled_programs
from attention.lab.parallel import hosts
from attention.lab.runs.directory import default_path
from attention.lab.training.loop import train

FLAGS = flags.FlagValues()
CONFIG = flags.DEFINE_string(
    "config", None, "config, with a score: copy:bilinear, configs/copy.py", flag_values=FLAGS
)
LIST = flags.DEFINE_boolean(
    "list", False, "show the names of configs, scores, tasks, …, and exit", flag_values=FLAGS
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
COMPILATION_CACHE = define_compilation_cache(FLAGS)


def main() -> NoReturn:
    run(_train, FLAGS, __doc__, _fields)


def _train(rest: list[str]) -> int:
    if LIST.value:
        return _list(rest)
    keep_compiled_programs(COMPILATION_CACHE.value)
    settings = settings_of(CONFIG.value, rest)  # what is wrong with it, each process finds alone
    hosts.join(ADDRESS.value, NUM_PROCESSES.value, PROCESS_ID.value)
    workdir = default_path(settings) if WORKDIR.value is None else WORKDIR.value
    with hosts.in_agreement():
        if hosts.is_first():
            folder_for("--workdir", workdir)
    with told_what_config_suits(CONFIG.value, rest):
        return train(settings, Path(workdir), Console()).exit_status


def _fields(rest: list[str]) -> str:
    from attention.lab.commands.shown_fields import fields_of  # reads all that a config can choose

    return fields_of(CONFIG.value, rest)


def _list(rest: list[str]) -> int:
    from attention.lab.commands.listing import listing

    refuse(rest)
    print(listing())
    return 0


if __name__ == "__main__":  # `repeat` starts it as a module: train.py may not be at hand
    main()
