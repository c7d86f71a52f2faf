"""Experiments of `claims.py`: what they are, running them once, and reading their results."""

import hashlib
import importlib.util
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console

from attention.lab.errors import TrainingError
from attention.lab.settings import Settings, read_settings
from attention.lab.training.loop import train

REPOSITORY = Path(__file__).parent.parent
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
        """Its checked settings.

        Raises:
          UsageError: it cannot be run; in words.
        """
        config = read_config_file(self.config, self.score)
        config.update_from_flattened_dict(dict(self.changes))
        return read_settings(config.to_dict())


def experiment(config: str, score: str, changes: Mapping[str, Any]) -> Experiment:
    """One that compares equal however its changes are ordered."""
    return Experiment(config, score, tuple(sorted(changes.items())))


def read_config_file(name: str, score: str) -> ConfigDict:
    path = REPOSITORY / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"config_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(score)


def folder(settings: Settings) -> str:
    """Readable, and another one for any other settings."""
    digest = hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:10]
    model, task = settings.model, settings.task
    words = (task.name, task.max_length, model.decoder, settings.score.name)
    return "-".join([*map(str, words), digest])


@dataclass(frozen=True)
class Result:
    """What a finished run measured, on test sequences.

    Attributes:
      replicas: a report each, of `result.json`; those that failed are left out.
      failed: how many did.
      seconds: of the whole run: all replicas, compilation and evaluation.
      steps: updates of each replica.
      code_version: of the code that began the run.
    """

    replicas: list[dict[str, Any]]
    failed: int = 0
    seconds: float = 0.0
    steps: int = 0
    code_version: str = ""

    def values(self, metric: str, length: int | None = None) -> list[float]:
        """A metric of each replica, of mixed lengths or of one; empty where nothing has it."""
        found = [
            replica["all"] if length is None else replica["by_length"][str(length)]
            for replica in self.replicas
        ]
        return [report[metric] for report in found if report[metric] is not None]

    def spread(self, metric: str, length: int | None = None) -> "Spread":
        """Its mean and standard deviation."""
        return spread(self.values(metric, length))


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation; NaN where there is no value, 0 of a single one."""

    mean: float
    sd: float

    def __str__(self) -> str:
        if self.mean != self.mean:
            return "—"
        return f"{self.mean:.4f}" + (f" ± {self.sd:.4f}" if self.sd else "")


def spread(values: list[float]) -> Spread:
    if not values:
        return Spread(float("nan"), 0.0)
    return Spread(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0)


def cached(each: Experiment, folders: Path) -> Result | None:
    """The result of a finished run, None of any other."""
    path = folders / folder(each.settings())
    file = path / "result.json"
    if not file.exists():
        return None
    result, record = json.loads(file.read_text()), json.loads((path / "config.json").read_text())
    replicas = [one for one in result["test"]["replicas"] if not one["failed"]]
    failed = len(result["test"]["replicas"]) - len(replicas)
    version = record["code_version"]
    return Result(replicas, failed, result["seconds"], result["step"], version)


def run(each: Experiment, folders: Path, console: Console) -> Result | None:
    """Its result, from the run that is there or from a new one; None where all replicas failed.

    Raises:
      KeyboardInterrupt: the run was interrupted, and saved; it goes on when called again.
    """
    if found := cached(each, folders):
        return found
    settings = each.settings()
    try:
        status = train(settings, folders / folder(settings), console)
    except TrainingError as error:
        console.print(f"{folder(settings)}: {error}")
        return None
    if status > 128:
        raise KeyboardInterrupt
    return cached(each, folders)
