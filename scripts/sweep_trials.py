"""The trials of a sweep: what `--grid` asks for, checked by the flags of `train.py`."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from absl import flags
from ml_collections import config_flags

from attention.training.command import parse
from attention.training.replicas import shared
from attention.training.settings import Settings, UsageError, read_config, read_settings

BETWEEN_VALUES = re.compile(r",(?![^(\[]*[)\]])")  # a comma in brackets is part of a value
COUNTED = ("seed", "num_seeds", "replicas")

Grid = dict[str, list[str]]


@dataclass(frozen=True)
class Trial:
    """One training of a sweep.

    Attributes:
      overrides: what sets it apart: the value of each field of the grid, and the seed.
      settings: all of it, of one replica.
    """

    overrides: dict[str, Any]
    settings: Settings

    @property
    def id(self) -> str:
        """A hash of the overrides, the same in every process."""
        return short_hash(self.overrides)

    @property
    def configuration(self) -> str:
        """The overrides in words, without the seed: what a mean over seeds is of."""
        fields = (f"{name}={value}" for name, value in self.overrides.items() if name != "seed")
        return " ".join(fields) or self.settings.name


def short_hash(content: Any) -> str:
    """Of anything that JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def read_grid(flags_given: Sequence[str]) -> Grid:
    """The values of each field, as they were typed.

    Raises:
      UsageError: a flag is not `field=value,value`, or says something twice.
    """
    grid: Grid = {}
    for given in flags_given:
        field, equals, listed = given.partition("=")
        values = BETWEEN_VALUES.split(listed)
        if not (field and equals and all(values)):
            raise UsageError(
                f"--grid={given!r}: give a field and its values, as in score=linear,mlp or"
                " optimizer.learning_rate=1e-3,3e-3"
            )
        if field in grid:
            raise UsageError(f"--grid={given!r}: there is a --grid of {field} already")
        if field.partition(".")[0] in COUNTED:
            raise UsageError(f"--grid={given!r}: seeds are swept by --seeds, from config.seed on")
        grid[field] = values
    return grid


def config_flags_of(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Of a command line that was parsed before: the config file, and the flags `--config.…`."""
    file, fields = "", []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or name.partition(".")[0] != "config":
            continue
        value = value if equals else next(rest)
        if name == "config":
            file = value
        else:
            fields.append(f"--{name}={value}")
    return file, fields


def make_trials(file: str, fields: list[str], grid: Grid, seeds: int) -> list[Trial]:
    """Every combination of the grid, with so many seeds each.

    Raises:
      UsageError: a field, a value or a combination is refused, as `train.py` would.
    """
    if "score" in grid and ":" in file:
        raise UsageError(f"--config={file}: names a score, and so does --grid score=…")
    for field in fields:
        name = field.partition("=")[0].removeprefix("--config.")
        if name in grid:
            raise UsageError(f"{field}: sets what --grid {name}=… sweeps")
    trials = [
        trial
        for values in itertools.product(*grid.values())
        for trial in _with_seeds(file, fields, dict(zip(grid, values, strict=True)), seeds)
    ]
    by_id: dict[str, Trial] = {}
    for trial in trials:
        if trial.id in by_id:
            raise UsageError(f"--grid: lists {trial.configuration} twice")
        by_id[trial.id] = trial
    return trials


def _with_seeds(
    file: str, fields: list[str], values: dict[str, str], seeds: int
) -> Iterator[Trial]:
    settings = _settings(file, fields, values)
    if settings.num_replicas > 1:
        raise UsageError(f"config.num_seeds={settings.num_seeds}: seeds are swept by --seeds")
    read_settings({**settings.model_dump(), "num_seeds": seeds})  # the last seed is in range
    overrides = {name: _value(settings, name) for name in values}
    for seed in range(settings.seed, settings.seed + seeds):
        yield Trial({**overrides, "seed": seed}, settings.model_copy(update={"seed": seed}))


def _settings(file: str, fields: list[str], values: dict[str, str]) -> Settings:
    """Those of `train.py` with the same flags."""
    swept = [f"--config.{name}={value}" for name, value in values.items() if name != "score"]
    score = f":{values['score']}" if "score" in values else ""
    arguments = ["sweep.py", f"--config={file}{score}", *fields, *swept]
    flag_values = flags.FlagValues()
    config = config_flags.DEFINE_config_file(
        "config", lock_config=True, flag_values=flag_values, sys_argv=arguments
    )
    try:
        parse(flag_values, arguments)
        return read_config(config.value)
    except UsageError as error:
        asked = " ".join(f"{name}={value}" for name, value in values.items())
        raise UsageError(f"--grid {asked}: {error}" if values else str(error)) from None


def _value(settings: Settings, name: str) -> Any:
    """Of a field by its dotted path, as it was understood: 1e-3 and 0.001 are one value."""
    if name == "score":
        return settings.score.name
    value: Any = json.loads(settings.model_dump_json())
    for part in name.split("."):
        value = value[part]
    return value


def in_groups(trials: Iterable[Trial]) -> list[list[Trial]]:
    """The trials that one program can train at once, together."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(shared(trial.settings).model_dump_json(), []).append(trial)
    return list(groups.values())
