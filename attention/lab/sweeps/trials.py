"""The trials of a sweep: what it asks for, checked by the flags of `train.py`."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from absl import flags
from ml_collections import config_flags

from attention.lab.commands.command_line import parse
from attention.lab.configs import read_config
from attention.lab.errors import UsageError
from attention.lab.parallel.replicas import shared
from attention.lab.settings import Settings, read_settings

BETWEEN_VALUES = re.compile(r",(?![^(\[]*[)\]])")  # a comma in brackets is part of a value
COUNTED = ("seed", "num_seeds", "replicas")

Values = dict[str, str]  # of each swept field, as it is typed


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


def read_grid(flags_given: Sequence[str]) -> list[Values]:
    """Every combination of what `--grid` lists.

    Raises:
      UsageError: a flag is not `field=value,value`, or says something twice.
    """
    grid: dict[str, list[str]] = {}
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
        refuse_seeds(field, f"--grid={given!r}")
        grid[field] = values
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def refuse_seeds(field: str, where: str) -> None:
    """Refuses a field that sets seeds.

    Raises:
      UsageError: naming `where` it was asked for.
    """
    if field.partition(".")[0] in COUNTED:
        raise UsageError(f"{where}: seeds are swept by --seeds, from config.seed on")


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


@dataclass(frozen=True)
class Command:
    """What the trials of a sweep have in common.

    Attributes:
      file: the config file.
      fields: flags `--config.…`.
      flag: what asked for the trials, `--grid` or `--random`.
    """

    file: str
    fields: Sequence[str]
    flag: str = "--grid"

    def settings(self, values: Values) -> Settings:
        """Those of `train.py` with the same flags.

        Raises:
          UsageError: a field, a value or a combination is refused, as `train.py` would.
        """
        swept = [f"--config.{name}={value}" for name, value in values.items() if name != "score"]
        score = f":{values['score']}" if "score" in values else ""
        arguments = ["sweep.py", f"--config={self.file}{score}", *self.fields, *swept]
        flag_values = flags.FlagValues()
        config = config_flags.DEFINE_config_file(
            "config", lock_config=True, flag_values=flag_values, sys_argv=arguments
        )
        try:
            parse(flag_values, arguments)
            return read_config(config.value)
        except UsageError as error:
            asked = " ".join(f"{name}={value}" for name, value in values.items())
            raise UsageError(f"{self.flag} {asked}: {error}" if values else str(error)) from None

    def refuse_twice(self, swept: Values) -> None:
        """Refuses to sweep what a flag sets.

        Raises:
          UsageError: naming the flag.
        """
        if "score" in swept and ":" in self.file:
            raise UsageError(
                f"--config={self.file}: names a score, and so does {self.flag} score=…"
            )
        for field in self.fields:
            name = field.partition("=")[0].removeprefix("--config.")
            if name in swept:
                raise UsageError(f"{field}: sets what {self.flag} {name}=… sweeps")


def make_trials(command: Command, asked: Sequence[Values], seeds: int) -> list[Trial]:
    """Each of what is asked for, with so many seeds.

    Raises:
      UsageError: a field, a value or a combination is refused, as `train.py` would.
    """
    command.refuse_twice(asked[0])
    by_id: dict[str, Trial] = {}
    for trial in (trial for values in asked for trial in _with_seeds(command, values, seeds)):
        if trial.id in by_id:
            raise UsageError(f"{command.flag}: lists {trial.configuration} twice")
        by_id[trial.id] = trial
    return list(by_id.values())


def _with_seeds(command: Command, values: Values, seeds: int) -> Iterator[Trial]:
    settings = command.settings(values)
    if settings.num_replicas > 1:
        raise UsageError(f"config.num_seeds={settings.num_seeds}: seeds are swept by --seeds")
    read_settings({**settings.model_dump(), "num_seeds": seeds})  # the last seed is in range
    overrides = {name: _value(settings, name) for name in values}
    for seed in range(settings.seed, settings.seed + seeds):
        yield Trial({**overrides, "seed": seed}, settings.model_copy(update={"seed": seed}))


def _value(settings: Settings, name: str) -> Any:
    """Of a field by its dotted path, as it was understood: 1e-3 and 0.001 are one value."""
    if name == "score":
        return settings.score.name
    value: Any = json.loads(settings.model_dump_json())
    for part in name.split("."):
        value = value[part]
    return value


def in_groups(trials: Iterable[Trial], most: int | None = None) -> list[list[Trial]]:
    """The trials that one program can train at once, together; no more than so many."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(shared(trial.settings).model_dump_json(), []).append(trial)
    return [
        group[start : start + (most or len(group))]
        for group in groups.values()
        for start in range(0, len(group), most or len(group))
    ]
