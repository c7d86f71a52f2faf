"""Evaluate a trained run: `python eval.py --workdir runs/copy-mlp --lengths 8,16`.

Where the package is installed, `attention-eval` is the same command. The config and the data travel
with the run; nothing else is needed, but for code of your own that the config names.

Without `--lengths`, those of the config are evaluated, and the table shows the worst and the
longest; `--lengths all` shows every one. What is measured goes into the run: to eval.json if it is
what training measured at its end, or to a file whose name says what it is, such as
eval-step300-lengths-8,16.json. Of a run with several seeds, `--replica 0` evaluates the first
alone; `--step 500` takes an older checkpoint, if it is kept. With `--text`, a run of the config
`text` reconstructs that line instead, and one of `cmudict` pronounces that word.
"""

import os
from pathlib import Path
from typing import NoReturn

from absl import flags
from rich.console import Console

from attention.lab.commands.command_line import define_compilation_cache, refuse, run
from attention.lab.commands.places import folder_for
from attention.lab.compilation_cache import keep_compiled_programs
from attention.lab.errors import UsageError
from attention.lab.training.trained_run import Lengths, evaluate, reconstruct

FLAGS = flags.FlagValues()
WORKDIR = flags.DEFINE_string("workdir", None, "the run, such as runs/copy-mlp", flag_values=FLAGS)
STEP = flags.DEFINE_integer(
    "step", None, "which checkpoint (default: the newest)", flag_values=FLAGS
)
REPLICA = flags.DEFINE_integer(
    "replica", None, "which replica, from 0 (default: all)", flag_values=FLAGS
)
LENGTHS = flags.DEFINE_string(
    "lengths", None, "lengths to report, such as 8,16,32, or all of the config's", flag_values=FLAGS
)
TEXT = flags.DEFINE_string(
    "text", None, "a line to reconstruct, or a word to pronounce", flag_values=FLAGS
)
COMPILATION_CACHE = define_compilation_cache(FLAGS)


def main() -> NoReturn:
    run(_evaluate, FLAGS, __doc__)


def _evaluate(rest: list[str]) -> int:
    refuse(rest)
    keep_compiled_programs(COMPILATION_CACHE.value)
    if WORKDIR.value is None:
        raise UsageError("--workdir is missing: name a run, such as runs/copy-mlp")
    workdir, console = Path(WORKDIR.value), Console()
    if TEXT.value is None:
        if os.path.exists(workdir / "config.json"):
            folder_for("--workdir", workdir)
        evaluate(workdir, STEP.value, _lengths(), console, REPLICA.value)
    elif LENGTHS.value is None:
        reconstruct(workdir, STEP.value, TEXT.value, console, REPLICA.value)
    else:
        raise UsageError("--text and --lengths exclude each other")
    return 0


def _lengths() -> Lengths:
    if LENGTHS.value is None:
        return None
    if LENGTHS.value == "all":
        return "all"
    try:
        return [int(length) for length in LENGTHS.value.split(",")]
    except ValueError:
        raise UsageError(
            f"--lengths={LENGTHS.value}: give whole numbers, 8,16,32, or all"
        ) from None


if __name__ == "__main__":
    main()
