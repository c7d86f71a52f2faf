"""The trials of a sweep: one for each combination of values and each seed; and their groups."""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attention.lab.errors import UsageError
from attention.lab.parallel.replicas import shared
from attention.lab.settings import Settings, read_settings
from attention.lab.sweeps.listed import split_values

GRID_FORM = (
    "give a field and its values, as in score=linear,mlp or optimizer.learning_rate=1e-3,3e-3"
)
COUNTED = ("seed", "num_seeds", "replicas")
MOST_TRIALS = 2**16

LONGEST_VALUE, LONGEST_NAME = 24, 80  # characters of the name of a folder; a hash comes behind

Values = dict[str, str]  # the value of each swept field, as a person types it
SettingsOf = Callable[[Values], Settings]


@dataclass(frozen=True)
class Trial:
    """One training of a sweep.

    Attributes:
      overrides: what sets it apart from the others: the value of each swept field, and the seed.
      settings: the whole experiment, of one replica.
    """

    overrides: dict[str, Any]
    settings: Settings

    @property
    def id(self) -> str:
        """A hash of the overrides, the same in every process."""
        return short_hash(self.overrides)

    @property
    def name(self) -> str:
        """The overrides and the id, as the name of a folder: `score=dot-seed=7-6f52a3372345`."""
        return folder_name(self.overrides, self.id)

    @property
    def configuration(self) -> str:
        """The overrides without the seed, in words: trials that share it differ in their seed."""
        fields = (f"{name}={value}" for name, value in self.overrides.items() if name != "seed")
        return " ".join(fields) or self.settings.name


def short_hash(content: Any) -> str:
    """A hash of anything that JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def folder_name(fields: Mapping[str, Any], unique: str) -> str:
    """A name for a folder that a person can read, and every file system can hold.

    Args:
      fields: what to tell, by the dotted paths of fields; what is long is cut.
      unique: what comes behind, by which no two names are equal.
    """
    told = (f"{name.rpartition('.')[2]}={_safe(value)}" for name, value in fields.items())
    return f"{'-'.join(told)[:LONGEST_NAME]}-{unique}".lstrip("-")


def _safe(value: Any) -> str:
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", str(value)).strip("_")[:LONGEST_VALUE]


def read_grid(flags_given: Sequence[str]) -> list[Values]:
    """Every combination of what `--grid` lists.

    Raises:
      UsageError: a flag is not `field=value,value`, or says something twice.
    """
    grid: dict[str, list[str]] = {}
    for given in flags_given:
        field, equals, listed = given.partition("=")
        if not (field and equals and listed):
            raise UsageError(f"--grid={given!r}: {GRID_FORM}")
        try:
            values = split_values(listed)
        except ValueError as error:
            raise UsageError(f"--grid={given!r}: {error}") from None
        if field in grid:
            raise UsageError(f"--grid={given!r}: there is a --grid of {field} already")
        refuse_seeds(field, f"--grid={given!r}")
        grid[field] = values
    refuse_too_many(math.prod(map(len, grid.values())), "--grid")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def refuse_seeds(field: str, where: str) -> None:
    """Refuses a field that sets seeds.

    Raises:
      UsageError: naming `where` it was asked for.
    """
    if field.partition(".")[0] in COUNTED:
        raise UsageError(f"{where}: seeds are swept by --seeds, from config.seed on")


def refuse_too_many(trials: int, where: str) -> None:
    """Refuses more trials than a sweep can list.

    Raises:
      UsageError: naming `where` they were asked for.
    """
    if trials > MOST_TRIALS:
        raise UsageError(f"{where}: asks for {trials} trials; a sweep has at most {MOST_TRIALS}")


def make_trials(
    settings_of: SettingsOf, asked: Sequence[Values], seeds: int, asked_by: str = "--grid"
) -> list[Trial]:
    """A trial for each combination of values with each seed.

    Args:
      settings_of: makes the settings of a combination; it refuses what `train.py` would refuse.
      asked: the combinations.
      seeds: how many, from the seed of the settings on.
      asked_by: the flag that asks for the combinations, to be named in an error.

    Raises:
      UsageError: a field, a value or a combination is refused, or two trials are alike.
    """
    refuse_too_many(len(asked) * seeds, f"--seeds={seeds}")
    by_id: dict[str, Trial] = {}
    for values in asked:
        for trial in _with_seeds(settings_of(values), list(values), seeds):
            if trial.id in by_id:
                raise UsageError(f"{asked_by}: lists {trial.configuration} twice")
            by_id[trial.id] = trial
    return list(by_id.values())


def _with_seeds(settings: Settings, swept: Sequence[str], seeds: int) -> Iterator[Trial]:
    if settings.num_replicas > 1:
        raise UsageError(f"config.num_seeds={settings.num_seeds}: seeds are swept by --seeds")
    read_settings({**settings.model_dump(), "num_seeds": seeds})  # the last seed is in range
    overrides = {name: _value(settings, name) for name in swept}
    for seed in range(settings.seed, settings.seed + seeds):
        yield Trial({**overrides, "seed": seed}, settings.model_copy(update={"seed": seed}))


def _value(settings: Settings, name: str) -> Any:
    """The value of a field, given by its dotted path, as it was read: 1e-3 and 0.001 are equal."""
    if name == "score":
        return settings.score.name
    value: Any = json.loads(settings.model_dump_json())
    for part in name.split("."):
        value = value[part]
    return value


def in_groups(trials: Iterable[Trial], most: int | None = None) -> list[list[Trial]]:
    """Groups of trials that one program can train at once.

    Args:
      trials: in the order in which the groups will have them.
      most: the largest number of trials in a group; None where any number will do.
    """
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(shared(trial.settings).model_dump_json(), []).append(trial)
    return [
        group[start : start + (most or len(group))]
        for group in groups.values()
        for start in range(0, len(group), most or len(group))
    ]
