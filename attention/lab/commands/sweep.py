r"""Train a grid of settings with several seeds each, and rank them.

    python scripts/sweep.py --config copy --grid score=linear,mlp,bilinear \
        --grid optimizer.learning_rate=1e-3,3e-3 --seeds 8 --jobs 2

    python scripts/sweep.py --config copy --space copy --random 20 --seeds 2 --jobs 2

Where the package is installed, `attention-sweep` is the same command. The names of configs and
spaces are those that `train.py --list` shows; a path, configs/copy.py, will do as well.
A trial is one combination of the grid, or one draw from the space, with one seed; `--random_seed 1`
makes other draws. The field `score` is the argument of the config; other fields go by their dotted
path, as in `--config.optimizer.learning_rate`, and their values are checked as there. Trials that
differ only in seed, learning rate, clip norm or weight decay are trained together, by one program
in one process: a group, of at most `--together` trials. `--jobs` groups are trained at once on this
machine or, with `--engine ray` (extra `sweep`), as many as a Ray cluster has room for, each group
on a TPU or GPU if the cluster has any:

    python scripts/sweep.py … --engine ray --address auto --resources TPU=4 --workdir /shared/it

All machines of the cluster must see the working directory and the workdir at the same paths, and
have this package.

The same command again skips the trials that are done, goes on with those that are half done and
tries those again that failed; so does a command that asks for more trials in the same folder. The
workdir gets results.csv, a row for each trial, and with the extra `figures` curves.png, and
fields.png, which shows what each field does. The ranks are printed: mean ± standard deviation over
seeds.
"""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

import jax
from absl import flags
from rich.console import Console

from attention.lab.commands.command_line import define_compilation_cache, run
from attention.lab.commands.config_flags import settings_of, told_what_config_suits
from attention.lab.commands.places import folder_for
from attention.lab.commands.swept_config import SweptConfig
from attention.lab.compilation_cache import keep_compiled_programs
from attention.lab.errors import UsageError
from attention.lab.parallel.interruption import noticed_interruptions
from attention.lab.parallel.replicas import join
from attention.lab.runs.directory import alone
from attention.lab.sweeps.folder import begin, check, left, make_group
from attention.lab.sweeps.jobs import Engine, train_all
from attention.lab.sweeps.local import Local
from attention.lab.sweeps.ray_cluster import Ray, read_resources
from attention.lab.sweeps.results import report
from attention.lab.sweeps.space import draws, extremes, read_space
from attention.lab.sweeps.trials import Trial, in_groups, make_trials, read_grid, short_hash
from attention.lab.training.build import build, read_source
from attention.lab.training.limits import refuse_64_bits

FLAGS = flags.FlagValues()
CONFIG = flags.DEFINE_string(
    "config", None, "config, such as copy, or a file, configs/copy.py", flag_values=FLAGS
)
GRID = flags.DEFINE_multi_string(
    "grid", [], "field=value,value; one such flag for each field", flag_values=FLAGS
)
RANDOM = flags.DEFINE_integer(
    "random", None, "how many draws from --space, in the place of a grid", 1, flag_values=FLAGS
)
SPACE = flags.DEFINE_string(
    "space",
    None,
    "space, such as copy, or a file, configs/sweeps/copy.py",
    flag_values=FLAGS,
)
RANDOM_SEED = flags.DEFINE_integer("random_seed", 0, "seed of the draws", flag_values=FLAGS)
SEEDS = flags.DEFINE_integer(
    "seeds", 1, "how many seeds of each combination, from config.seed on", 1, flag_values=FLAGS
)
TOGETHER = flags.DEFINE_integer(
    "together",
    None,
    "most trials in one program (default: all that can be)",
    1,
    flag_values=FLAGS,
)
ENGINE = flags.DEFINE_enum(
    "engine", "local", ["local", "ray"], "what trains the groups", flag_values=FLAGS
)
JOBS = flags.DEFINE_integer(
    "jobs", 1, "of engine local: how many processes at once", 1, flag_values=FLAGS
)
ADDRESS = flags.DEFINE_string(
    "address",
    "local",
    "of engine ray: host:port of a cluster, auto for this machine's, or local to start one here",
    flag_values=FLAGS,
)
RESOURCES = flags.DEFINE_string(
    "resources",
    "",
    "of engine ray: for each group, as TPU=4 (default: a TPU or GPU, if any, or a CPU)",
    flag_values=FLAGS,
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "where to keep the sweep (default: runs/sweep-<config>-<hash>)",
    flag_values=FLAGS,
)
COMPILATION_CACHE = define_compilation_cache(FLAGS)

WIDTH = 120  # of tables that go to a file


def main() -> NoReturn:
    """Runs the command."""
    run(_sweep, FLAGS, __doc__)


def _sweep(rest: list[str]) -> int:
    keep_compiled_programs(COMPILATION_CACHE.value)
    refuse_64_bits()  # before it is told as the fault of a trial
    name = settings_of(CONFIG.value, rest).name
    assert CONFIG.value is not None  # settings_of refuses it
    trials = _trials(CONFIG.value, rest)
    named_by = trials[:1] if RANDOM.value else trials  # so that more draws go on in the folder
    default = f"runs/sweep-{name}-{_hash_of(named_by)}"
    folder = folder_for("--workdir", default if WORKDIR.value is None else WORKDIR.value)
    check(folder, trials)
    engine = _engine()
    jax.config.update("jax_platforms", "cpu")  # the accelerator is for those who train
    with told_what_config_suits(CONFIG.value, rest):
        for group in in_groups(trials, TOGETHER.value):
            _try(group)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    with engine if left(folder, trials) else nullcontext():
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder):
            if begin(folder, trials):
                console.print(f"{folder}: held a sweep without a checkpoint; begun anew")
            return _train_and_report(folder, trials, engine, console)


def _trials(named: str, config_flags: Sequence[str]) -> list[Trial]:
    """The trials that the grid asks for, or the draws from the space; all of them are checked."""
    if SPACE.value is None and RANDOM.value is None:
        config, asked = SweptConfig(named, config_flags, "--grid"), read_grid(GRID.value)
        config.refuse_twice(asked[0])
        trials = make_trials(config.settings, asked, SEEDS.value, config.asked_by)
        if not GRID.value and not SEEDS.present:
            raise UsageError(
                "there is nothing to sweep: give --grid=field=value,value, or --seeds=8, or"
                " --space=copy with --random=20"
            )
        return trials
    if SPACE.value is None or RANDOM.value is None:
        raise UsageError("--random and --space: one needs the other, a number of draws from a file")
    if GRID.value:
        raise UsageError(f"--grid={GRID.value[0]!r}: goes into --space as a list, with --random")
    config, space = SweptConfig(named, config_flags, "--random"), read_space(SPACE.value)
    asked = draws(space, RANDOM.value, RANDOM_SEED.value)
    config.refuse_twice(asked[0])
    for values in extremes(space, asked[0]):
        config.settings(values)  # what is out of range is told, whether it was drawn or not
    return make_trials(config.settings, asked, SEEDS.value, config.asked_by)


def _try(group: Sequence[Trial]) -> None:
    """Refuses a group that cannot be built, with the values that were asked for."""
    settings = join([trial.settings for trial in group])
    try:
        build(settings, read_source(settings))
    except UsageError as error:
        asked_by = "--random" if RANDOM.value else "--grid"
        asked = f"{asked_by} {group[0].configuration}: " if group[0].configuration else ""
        raise UsageError(f"{asked}{error}") from error.__cause__


def _hash_of(trials: Sequence[Trial]) -> str:
    """Of what is swept, too: sweeps of other fields may have the same settings."""
    told = [[trial.overrides, trial.settings.model_dump_json()] for trial in trials]
    return short_hash(told)[:8]


def _engine() -> Engine:
    if ENGINE.value == "ray":
        if JOBS.present:
            raise UsageError(
                f"--jobs={JOBS.value}: of engine local; see --resources for engine ray"
            )
        return Ray(ADDRESS.value, read_resources(RESOURCES.value))
    for flag in (ADDRESS, RESOURCES):
        if flag.present:
            raise UsageError(f"--{flag.name}={flag.value}: of engine ray, and --engine is local")
    return Local(JOBS.value)


def _train_and_report(
    folder: Path, trials: Sequence[Trial], engine: Engine, console: Console
) -> int:
    """Trains the trials that are not done, and reports on all; returns the exit status."""
    waiting = left(folder, trials)
    if not waiting:
        console.print(f"{folder}: finished already, nothing to do", soft_wrap=True)
    else:
        # What is left of the groups of all trials: so a group that is half done is made again
        # of the trials that it had.
        ids = {trial.id for trial in waiting}
        whole = in_groups(trials, TOGETHER.value)
        parts = ([trial for trial in group if trial.id in ids] for group in whole)
        groups = [make_group(folder, part) for part in parts if part]
        console.print(
            f"{len(waiting)} of {len(trials)} trials to train, as {len(groups)} groups,"
            f" {engine.promise(len(groups))}; in {folder}",
            soft_wrap=True,
        )
        with noticed_interruptions() as interruption:
            interruption.answer = "stopping once all is saved"
            train_all(groups, engine, console, interruption)
        if interruption.signal:
            console.print(f"{interruption.name}: run the same command again to go on")
            return 128 + interruption.signal
    report(folder, trials, console)
    return 1 if left(folder, trials) else 0


if __name__ == "__main__":
    main()
