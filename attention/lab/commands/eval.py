"""Evaluate a trained run: `python eval.py --workdir runs/copy-mlp --lengths 8,16`.

The config and the data travel with the run; nothing else is needed. Of a run with several
seeds, `--replica 0` evaluates the first alone; `--step 500` takes an older checkpoint, if it is
kept. With `--text`, a run of `configs/text.py` reconstructs that line instead, and one of
`configs/cmudict.py` pronounces that word.
"""

from pathlib import Path
from typing import NoReturn

from absl import flags
from rich.console import Console

from attention.lab.commands.command_line import refuse, run
from attention.lab.compilation_cache import keep_compiled_programs
from attention.lab.errors import UsageError
from attention.lab.training.trained_run import evaluate, reconstruct

FLAGS = flags.FlagValues()
WORKDIR = flags.DEFINE_string("workdir", None, "the run, such as runs/copy-mlp", flag_values=FLAGS)
STEP = flags.DEFINE_integer(
    "step", None, "which checkpoint (default: the newest)", flag_values=FLAGS
)
REPLICA = flags.DEFINE_integer(
    "replica", None, "which replica, from 0 (default: all)", flag_values=FLAGS
)
LENGTHS = flags.DEFINE_string(
    "lengths", None, "lengths to report, such as 8,16,32", flag_values=FLAGS
)
TEXT = flags.DEFINE_string(
    "text", None, "a line to reconstruct, or a word to pronounce", flag_values=FLAGS
)
COMPILATION_CACHE = flags.DEFINE_boolean(
    "compilation_cache", True, "keep compiled programs for the next run", flag_values=FLAGS
)


def main() -> NoReturn:
    run(_evaluate, FLAGS, __doc__)


def _evaluate(rest: list[str]) -> int:
    refuse(rest)
    keep_compiled_programs(COMPILATION_CACHE.value)
    if WORKDIR.value is None:
        raise UsageError("--workdir is missing: name a run, such as runs/copy-mlp")
    workdir, console = Path(WORKDIR.value), Console()
    if TEXT.value is None:
        evaluate(workdir, STEP.value, _lengths(), console, REPLICA.value)
    elif LENGTHS.value is None:
        reconstruct(workdir, STEP.value, TEXT.value, console, REPLICA.value)
    else:
        raise UsageError("--text and --lengths exclude each other")
    return 0


def _lengths() -> list[int] | None:
    if LENGTHS.value is None:
        return None
    try:
        return [int(length) for length in LENGTHS.value.split(",")]
    except ValueError:
        raise UsageError(f"--lengths={LENGTHS.value}: give whole numbers, 8,16,32") from None


if __name__ == "__main__":
    main()
