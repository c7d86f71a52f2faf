"""Train a grid of settings with several seeds each, and rank them.

    python scripts/sweep.py --config configs/copy.py --grid score=linear,mlp,bilinear \
        --grid optimizer.learning_rate=1e-3,3e-3 --seeds 8 --jobs 2

    python scripts/sweep.py --config configs/copy.py --space configs/sweeps/copy.py \
        --random 20 --seeds 2 --jobs 2

A trial is one combination, or draw, with one seed; `--random_seed 1` makes other draws. `score` is
the argument of the config; other fields go by their dotted path, as in
`--config.optimizer.learning_rate`, and are checked as there. Trials that differ only in seed,
learning rate, clip norm or weight decay are trained together, by one program in one process: a
group, of at most `--together` trials. `--jobs` groups are trained at once on this machine or, with
`--engine ray` (extra `sweep`), as many as a Ray cluster has room for, each on a TPU or GPU if there
is any:

    python scripts/sweep.py … --engine ray --address auto --resources TPU=4 --workdir /shared/it

All its machines must see the working directory, this code and the workdir at the same paths.

The same command again skips what is done, goes on with what is half done and tries again what
failed; so does one that asks for more in the same folder. Writes to the workdir results.csv, a row
a trial, and with the extra `bench` curves.png and fields.png, what each field does; prints the
ranks: mean ± standard deviation over seeds.
"""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags
from rich.console import Console

from attention.lab.commands import command_line as command
from attention.lab.errors import UsageError
from attention.lab.parallel.interruption import noticed_interruptions
from attention.lab.parallel.replicas import join
from attention.lab.runs.directory import alone
from attention.lab.settings import read_config
from attention.lab.sweeps.folder import begin, check, left, make_group
from attention.lab.sweeps.jobs import Engine, train_all
from attention.lab.sweeps.local import Local
from attention.lab.sweeps.ray_cluster import Ray, read_resources
from attention.lab.sweeps.results import report
from attention.lab.sweeps.space import draws, extremes, read_space
from attention.lab.sweeps.trials import (
    Command,
    Trial,
    config_flags_of,
    in_groups,
    make_trials,
    read_grid,
    short_hash,
)
from attention.lab.training.build import build, read_source

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "config file, such as configs/copy.py", lock_config=True
)
GRID = flags.DEFINE_multi_string("grid", [], "field=value,value; once for each field")
RANDOM = flags.DEFINE_integer("random", None, "draws from --space, in the place of a grid", 1)
SPACE = flags.DEFINE_string("space", None, "file of a space, such as configs/sweeps/copy.py")
RANDOM_SEED = flags.DEFINE_integer("random_seed", 0, "of the draws")
SEEDS = flags.DEFINE_integer("seeds", 1, "of each combination, from config.seed on", 1)
TOGETHER = flags.DEFINE_integer("together", None, "trials in one program (default: all alike)", 1)
ENGINE = flags.DEFINE_enum("engine", "local", ["local", "ray"], "what trains the groups")
JOBS = flags.DEFINE_integer("jobs", 1, "of engine local: processes at once", 1)
ADDRESS = flags.DEFINE_string(
    "address", "local", "of engine ray: host:port of a cluster, auto for this machine's, or local"
)
RESOURCES = flags.DEFINE_string(
    "resources", "", "of engine ray: for a group, as TPU=4 (default: a TPU or GPU, if any, or CPU)"
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "where to keep the sweep (default: runs/sweep-<config>-<hash>)"
)

WIDTH = 120  # of tables that go to a file


def main() -> int:
    base = read_config(CONFIG.value)
    trials = _trials(*config_flags_of(sys.argv[1:]))
    given = WORKDIR.value
    named_by = trials[:1] if RANDOM.value else trials  # so that more draws go on in the folder
    folder = Path(given or f"runs/sweep-{base.name}-{_hash_of(named_by)}")
    check(folder, trials)
    engine = _engine()
    jax.config.update("jax_platforms", "cpu")  # the accelerator is for those who train
    for group in in_groups(trials, TOGETHER.value):
        settings = join([trial.settings for trial in group])
        build(settings, read_source(settings))
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    with engine if left(folder, trials) else nullcontext():
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder):
            begin(folder, trials)
            return _sweep(folder, trials, engine, console)


def _trials(file: str, fields: list[str]) -> list[Trial]:
    if SPACE.value is None and RANDOM.value is None:
        return make_trials(Command(file, fields), read_grid(GRID.value), SEEDS.value)
    if SPACE.value is None or RANDOM.value is None:
        raise UsageError("--random and --space: one needs the other, a number of draws from a file")
    if GRID.value:
        raise UsageError(f"--grid={GRID.value[0]!r}: goes into --space as a list, with --random")
    random, space = Command(file, fields, "--random"), read_space(SPACE.value)
    asked = draws(space, RANDOM.value, RANDOM_SEED.value)
    for values in extremes(space, asked[0]):
        random.settings(values)  # what is out of range is told, whether drawn or not
    return make_trials(random, asked, SEEDS.value)


def _hash_of(trials: Sequence[Trial]) -> str:
    return short_hash([trial.settings.model_dump_json() for trial in trials])[:8]


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


def _sweep(folder: Path, trials: Sequence[Trial], engine: Engine, console: Console) -> int:
    waiting = left(folder, trials)
    if not waiting:
        console.print(f"{folder}: finished already, nothing to do", soft_wrap=True)
    else:
        # What is left of the groups of all trials: then one that is half done is the same again.
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
            train_all(groups, engine, console, interruption)
        if interruption.signal:
            console.print(f"{interruption.name}: run the same command again to go on")
            return 128 + interruption.signal
    report(folder, trials, console)
    return 1 if left(folder, trials) else 0


if __name__ == "__main__":
    command.run(main)
