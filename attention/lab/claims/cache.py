"""The cache of finished runs: no experiment is run twice, unless its sources have changed."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from attention.lab.claims.experiments import Experiment, folder
from attention.lab.claims.results import Result, begun_by, read
from attention.lab.errors import TrainingError
from attention.lab.runs.directory import alone
from attention.lab.runs.version import code_hash
from attention.lab.training.loop import train
from attention.lab.training.outcome import Interrupted


@dataclass(frozen=True)
class Cache:
    """Runs, each in a directory that is named by the settings of its experiment.

    To run an experiment again, its directory is renamed to `<name>.old`. What lies there counts
    until the new run is finished and is deleted then: a kill at any moment leaves a whole result.

    Attributes:
      path: the directory of the runs' directories.
    """

    path: Path

    def result(self, experiment: Experiment) -> Result | None:
        """The result of a finished run, None where the experiment has none."""
        path = self._path_of(experiment)
        new = read(path)
        return read(_aside(path)) if new is None else new

    def results(self, experiments: Iterable[Experiment]) -> dict[Experiment, Result] | None:
        """The results of all these experiments, None if one of them has no result."""
        results = {experiment: self.result(experiment) for experiment in experiments}
        known = {key: result for key, result in results.items() if result is not None}
        return known if len(known) == len(results) else None

    def run(self, experiment: Experiment, console: Console, *, refresh: bool = False) -> None:
        """Runs an experiment, or goes on with it, if the cache has no result of it.

        Where all its replicas fail, the console says so, and the cache is left as it was.

        Args:
          experiment: what to run.
          console: where to show how it goes.
          refresh: whether a result that other sources made counts as none.

        Raises:
          KeyboardInterrupt: the run was interrupted, and saved; it goes on when called again.
        """
        path = self._path_of(experiment)
        if read(path) is not None:
            _delete(_aside(path))  # where a kill came between the end of a run and its deletion
        result = self.result(experiment)
        if result is not None and (not refresh or result.code_hash == code_hash()):
            return
        if path.exists() and begun_by(path) != code_hash():
            if read(path) is None:  # gone on with, it would be of two codes
                console.print(f"{path.name}: was begun by other sources, is begun anew")
                _delete(path)
            else:
                _put_aside(path)
        try:
            outcome = train(experiment.settings(), path, console)
        except TrainingError as error:
            console.print(f"{path.name}: {error}")
            return
        if isinstance(outcome, Interrupted):
            raise KeyboardInterrupt
        _delete(_aside(path))

    def _path_of(self, experiment: Experiment) -> Path:
        return self.path / folder(experiment.settings())


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.old")


def _put_aside(path: Path) -> None:
    with alone(path):
        path.rename(_aside(path))


def _delete(path: Path) -> None:
    """Deletes a directory, if it is there; half of it would be a run that nobody began."""
    if path.exists():
        with alone(path):
            (path / "config.json").unlink(missing_ok=True)
            shutil.rmtree(path)
