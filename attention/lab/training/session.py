"""What happens between updates: logging, evaluation and saving."""

import time
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from attention.lab.analysis.figures import save_png
from attention.lab.analysis.mean_sd import means
from attention.lab.analysis.naming import described
from attention.lab.errors import TrainingError
from attention.lab.parallel import hosts
from attention.lab.parallel.replicas import named
from attention.lab.runs.checkpoints import Checkpoints
from attention.lab.runs.checkpoints import steps as saved_steps
from attention.lab.runs.directory import PICTURE, Run
from attention.lab.runs.display import Display, left_out, nothing_left
from attention.lab.runs.log import METRICS, Log
from attention.lab.settings import Settings
from attention.lab.training.build import Experiment
from attention.lab.training.evaluate import Evaluator, Report
from attention.lab.training.state import Status, TrainState, completed, replicas_with
from attention.lab.training.update import Metrics


class Session:
    """What happens between the updates of a run, for all replicas.

    Args:
      experiment: what is trained.
      run: the directory of the run.
      log: where metrics go.
      display: where progress is shown.
      checkpoints: what saves states.
    """

    def __init__(
        self,
        experiment: Experiment,
        run: Run,
        log: Log,
        display: Display,
        checkpoints: Checkpoints,
    ):
        self._settings, self._task = experiment.settings, experiment.task
        self._run, self._log, self._display = run, log, display
        self._checkpoints = checkpoints
        self._evaluator = Evaluator(experiment)
        self._num_parameters = experiment.num_parameters
        self._started = time.perf_counter()

    def record(self, state: TrainState, metrics: Metrics) -> None:
        """Logs the newest updates, and tells which replicas failed in them.

        Args:
          state: the state of all replicas.
          metrics: the metrics of the updates, each with an axis of replicas.

        Raises:
          TrainingError: every replica has failed.
        """
        # All in one transfer: to fetch the numbers one by one takes longer than an update.
        steps, metrics = hosts.fetch((state.step, metrics))
        step = completed(state)
        values = {
            number: {name: float(value[number]) for name, value in metrics.items()}
            for number in range(len(steps))
            if steps[number] == step  # the other replicas stopped before
        }
        failed = replicas_with(state, Status.FAILED)
        failures = {
            number: values.pop(number)
            for number in np.flatnonzero(failed).tolist()
            if number in values
        }
        if failures:
            self._tell(step, failures, nothing_left=bool(failed.all()))
        if values:
            self._log.scalars(step, "train", values)
            self._display.update(step, means(list(values.values())))

    def _tell(self, step: int, failures: dict[int, dict], *, nothing_left: bool) -> None:
        first = next(iter(failures.values()))
        several = self._settings.num_replicas > 1
        which = f" with {named(self._settings, list(failures))}" if several else ""
        failure = (
            f"at step {step}{which} the loss is {first['loss']} and the gradient norm"
            f" {first['gradient_norm']}"
        )
        if not nothing_left:
            self._display.note(f"{failure}: failed")
            return
        self._checkpoints.wait()
        saved = saved_steps(self._run.checkpoints)
        kept = f"the newest checkpoint is step {saved[-1]}" if saved else "nothing was saved"
        raise TrainingError(f"{failure}; {remedy(self._settings, self._run)}; {kept}")

    def validate(self, state: TrainState) -> TrainState:
        """Evaluates on the validation stream, and stops the replicas that met the target.

        Returns:
          The state, in which the replicas that met the target accuracy are no longer trained.
        """
        step = completed(state)
        try:
            with self._display.during("evaluating"):
                report = self._evaluator.report(state, "validation")
                pixels = self._evaluator.picture(state)
        except Exception:  # in a user's own task, say: no update is lost by it
            self.save(state)
            raise
        self._log.scalars(step, "validation", _by_number(report))
        if pixels is not None:
            self._log.image(step, "attention", pixels)
        words = [*described(report["all"], self._task), left_out(report["all"])]
        summary = nothing_left(report["all"]) or "  ".join(filter(None, words))
        self._display.note(f"step {step}: validation  {summary}")
        return self._without_those_at_target(state, report)

    def _without_those_at_target(self, state: TrainState, report: Report) -> TrainState:
        target = self._settings.train.stop_at_exact_match
        if not target:
            return state
        reached = [(replica["all"]["exact_match"] or 0) >= target for replica in report["replicas"]]
        stops = replicas_with(state, Status.TRAINING) & np.array(reached)
        status = np.where(stops, np.int32(Status.REACHED), hosts.fetch(state.status))
        return replace(state, status=jax.device_put(status, state.status.sharding))

    def save(self, state: TrainState) -> None:
        """Begins to write a checkpoint of the state."""
        self._log.flush()  # no log may lag behind a checkpoint
        self._checkpoints.save(completed(state), vars(state))

    def finish(self, state: TrainState) -> dict[str, Any]:
        """Evaluates on the test stream, and writes the results.

        The file `result.json`, written last, says that the run is finished.

        Returns:
          What `result.json` holds.
        """
        step = completed(state)
        with self._display.during("evaluating"):
            report = self._evaluator.report(state, "test", self._settings.eval.lengths)
            pixels = self._evaluator.picture(state)
        self._log.scalars(step, "test", _by_number(report))
        self._log.result(step, report["all"])
        self._log.flush()
        if hosts.is_first() and pixels is not None:
            save_png(pixels, self._run.path / PICTURE)
        self._run.write("eval.json", {"step": step, **report})
        self._checkpoints.wait()
        result = {
            "step": step,
            "stopped_early": step < self._settings.train.steps,
            "seconds": round(time.perf_counter() - self._started, 2),
            "parameters": self._num_parameters,
            "test": report,
        }
        self._run.write("result.json", result)
        return result


def remedy(settings: Settings, run: Run) -> str:
    """What to do about losses or gradients that are not finite."""
    numbers = settings.optimizer
    fields = {"learning_rate": numbers.learning_rate, "clip_norm": numbers.clip_norm}
    rate, clip = (
        f"config.optimizer.{name}" + ("" if settings.replicas else f" (now {value:g})")
        for name, value in fields.items()
    )
    return (
        f"a smaller {rate} often helps, or a smaller {clip}; the steps before are in"
        f" {run.path / METRICS}"
    )


def _by_number(report: Report) -> dict[int, dict]:
    """The metrics on mixed lengths of each replica that did not fail, by the replica's number."""
    replicas = enumerate(report["replicas"])
    return {number: replica["all"] for number, replica in replicas if not replica["failed"]}
