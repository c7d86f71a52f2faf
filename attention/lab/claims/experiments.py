"""Experiments behind the claims: a config file, a score, and what is changed in the config."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attention.lab import configs
from attention.lab.claims.size import Size
from attention.lab.settings import Settings

FIRST_SEED = 100

Changes = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Experiment:
    """A config file, the score it is asked for, and the fields that are changed in it.

    Attributes:
      config: name of a file in `configs/`.
      score: name of a score.
      changes: dotted paths and values.
    """

    config: str
    score: str
    changes: Changes

    def settings(self) -> Settings:
        """The checked settings.

        Raises:
          UsageError: the experiment cannot be run; in words.
        """
        config = configs.load(str(configs.shipped()[self.config]), self.score)
        configs.change(config, dict(self.changes))
        return configs.read_config(config)


# Experiments by what sets them apart: the row and the column of a table.
Grid = dict[tuple[Any, Any], Experiment]


def experiment(config: str, score: str, changes: Mapping[str, Any]) -> Experiment:
    """An experiment that compares equal to another with its changes in any order."""
    return Experiment(config, score, tuple(sorted(changes.items())))


def of_size(size: Size, config: str, score: str, changes: Mapping[str, Any]) -> Experiment:
    """An experiment of this size; `changes` come last, and win."""
    shared = {
        "seed": FIRST_SEED,
        "num_seeds": size.seeds,
        "eval.sequences": size.sequences,
        "train.eval_every_steps": 100_000,  # the end is enough
    }
    return experiment(config, score, {**shared, **size.changes.get(config, {}), **changes})


def folder(settings: Settings) -> str:
    """A readable name for the directory of a run; other settings have another name."""
    digest = hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:10]
    model, task = settings.model, settings.task
    words = (task.name, task.max_length, model.decoder, settings.score.name)
    return "-".join([*map(str, words), digest])
