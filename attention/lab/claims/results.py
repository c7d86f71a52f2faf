"""What the finished run of an experiment measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention.lab.analysis.mean_sd import MeanSd, mean_sd
from attention.lab.claims.experiments import Experiment
from attention.lab.runs.directory import Run

EXACT, TOKENS, DEPENDENCE = "exact_match", "token_accuracy", "query_dependence"
UNKNOWN = "unknown"  # the code of runs that are older than its record


@dataclass(frozen=True)
class Result:
    """What a finished run measured, on test sequences.

    Attributes:
      replicas: their reports in `result.json`; replicas that failed are left out.
      failed: how many replicas did.
      seconds: of the whole run: all replicas, compilation and evaluation.
      steps: updates of each replica.
      code_hash: of the sources that began the run.
    """

    replicas: list[dict[str, Any]]
    failed: int = 0
    seconds: float = 0.0
    steps: int = 0
    code_hash: str = UNKNOWN

    def values(self, metric: str, length: int | None = None) -> list[float]:
        """A metric of each replica that has it.

        Args:
          metric: name of the metric.
          length: of the sequences; None for all of the test, of mixed lengths.
        """
        reports = [
            replica["all"] if length is None else replica["by_length"][str(length)]
            for replica in self.replicas
        ]
        return [report[metric] for report in reports if report[metric] is not None]

    def over_seeds(self, metric: str, length: int | None = None) -> MeanSd:
        """Mean and standard deviation of a metric over the replicas."""
        return mean_sd(self.values(metric, length))


Results = Mapping[Experiment, Result]


def read(path: Path) -> Result | None:
    """The result of the run in a directory, None if there is none or the run is not finished."""
    run = Run(path)
    written = run.result()
    if written is None:
        return None
    replicas = [replica for replica in written["test"]["replicas"] if not replica["failed"]]
    failed = len(written["test"]["replicas"]) - len(replicas)
    return Result(replicas, failed, written["seconds"], written["step"], begun_by(path))


def begun_by(path: Path) -> str:
    """The hash of the sources that began the run in a directory, `UNKNOWN` if it says none."""
    if not (path / "config.json").exists():
        return UNKNOWN
    return Run(path).record().get("code_hash", UNKNOWN)
