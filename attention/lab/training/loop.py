"""The training loop: restore, update, log, evaluate, save; and the report at the end."""

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from attention.lab.analysis.figures import save_png
from attention.lab.analysis.mean_sd import means
from attention.lab.errors import TrainingError
from attention.lab.parallel import hosts
from attention.lab.parallel.devices import described
from attention.lab.parallel.interruption import Interruption, noticed_interruptions
from attention.lab.parallel.replicas import named
from attention.lab.runs.checkpoints import Checkpoints
from attention.lab.runs.checkpoints import steps as saved_steps
from attention.lab.runs.directory import Run, default_path, open_for_training
from attention.lab.runs.display import Display, describe, report_table
from attention.lab.runs.log import Log, NoLog
from attention.lab.runs.version import code_version
from attention.lab.settings import Settings, TrainSettings, task_of
from attention.lab.training.build import Experiment, build, read_source
from attention.lab.training.evaluate import Evaluator, Report
from attention.lab.training.outcome import Finished, Interrupted, Outcome
from attention.lab.training.state import (
    Status,
    TrainState,
    completed,
    initial_state,
    replicas_with,
    restored_state,
)
from attention.lab.training.update import Metrics, make_train


def train(settings: Settings, workdir: Path | None, console: Console) -> Outcome:
    """Trains an experiment to its end, or on from where it stopped.

    Args:
      settings: all settings of the experiment.
      workdir: the directory of the run; None for `runs/<config>-<score>`.
      console: where to show progress and results.

    Returns:
      The result of the finished run, or the signal that interrupted it.

    Raises:
      UsageError: the request cannot be met; nothing was written.
      TrainingError: the loss is no longer finite, in every replica.
    """
    if not hosts.is_first():
        console = Console(quiet=True, force_terminal=False)
    path = default_path(settings) if workdir is None else workdir
    with ExitStack() as stack:
        with hosts.in_agreement():
            source = read_source(settings)
            experiment = build(settings, source)
        hosts.check_alike(settings.model_dump_json().encode(), source or b"", bytes(path))
        with hosts.in_agreement():
            run = stack.enter_context(open_for_training(path, settings, source))
        if hosts.are_several():
            run.check_is_seen()
        result = run.result()
        if hosts.from_first(result is not None):
            console.print(f"{path}: finished already, nothing to do")
        else:
            _announce(experiment, run, console)
            with noticed_interruptions() as interruption:
                result = _train_to_end(experiment, run, console, interruption)
            if result is None:
                console.print("run the same command again to go on")
                return Interrupted(interruption.signal)
        assert result is not None
        outcome = Finished(result)
        _show(outcome, run, settings, console)
        return outcome


def _train_to_end(
    experiment: Experiment, run: Run, console: Console, interruption: Interruption
) -> dict[str, Any] | None:
    """Trains until the run is finished; if a signal interrupts it, saves the state.

    Returns:
      The result of the finished run, None if the run was interrupted.
    """
    settings = experiment.settings.train
    state = _restored_or_initial(experiment, run, console)
    step = completed(state)
    with (
        Log(run.path, experiment.settings, step) if hosts.is_first() else NoLog() as log,
        Display(console, settings.steps, step, experiment.task.metrics) as display,
        Checkpoints(
            run.checkpoints, settings.keep_checkpoints, run.record(), restored=step or None
        ) as checkpoints,
    ):
        session = _Session(experiment, run, log, display, checkpoints)
        train_until = make_train(experiment)
        while not _is_over(state, settings) and not interruption.reached():
            state, metrics = train_until(state, experiment.task, next_stop(step, settings))
            step = completed(state)
            session.record(state, metrics)
            if step == settings.steps or _is_due(step, settings.eval_every_steps):
                state = session.validate(state)
            if _is_over(state, settings) or _is_due(step, settings.checkpoint_every_steps):
                session.save(state)
            display.restart_clock()
        if _is_over(state, settings):
            return session.finish(state)
        session.save(state)
        checkpoints.wait()
        display.note(f"{interruption.name} at step {step}: saved in {run.path}")
        return None


def _is_over(state: TrainState, settings: TrainSettings) -> bool:
    in_training = replicas_with(state, Status.TRAINING)
    return completed(state) == settings.steps or not in_training.any()


def next_stop(step: int, settings: TrainSettings) -> int:
    """The step at which the updates after `step` must pause: to log, evaluate, save or end."""
    rhythms = (
        settings.log_every_steps,
        settings.eval_every_steps,
        settings.checkpoint_every_steps,
    )
    return min(settings.steps, *(step + every - step % every for every in rhythms))


def _is_due(step: int, every: int) -> bool:
    return step % every == 0


def _restored_or_initial(experiment: Experiment, run: Run, console: Console) -> TrainState:
    if not hosts.from_first(len(saved_steps(run.checkpoints))):
        return initial_state(experiment)
    state = restored_state(run.checkpoints, experiment)
    console.print(f"going on from step {completed(state)}")
    begun_by, now = run.record().get("code_version"), code_version()
    if begun_by != now:
        console.print(f"the run was begun by version {begun_by}; this is {now}", soft_wrap=True)
    return state


class _Session:
    """What happens between updates: logging, evaluation and saving, for all replicas."""

    def __init__(
        self,
        experiment: Experiment,
        run: Run,
        log: Log,
        display: Display,
        checkpoints: Checkpoints,
    ):
        self._settings, self._headings = experiment.settings, experiment.task.metrics
        self._run, self._log, self._display = run, log, display
        self._checkpoints = checkpoints
        self._evaluator = Evaluator(experiment)
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
        raise TrainingError(f"{failure}; {kept}")

    def validate(self, state: TrainState) -> TrainState:
        """Evaluates on the validation stream, and stops the replicas that met the target.

        Returns:
          The state, in which the replicas that met the target accuracy are no longer trained.
        """
        step, report = completed(state), self._evaluator.report(state, "validation")
        self._log.scalars(step, "validation", _by_number(report))
        pixels = self._evaluator.picture(state)
        if pixels is not None:
            self._log.image(step, "attention", pixels)
        summary = describe(report["all"], self._headings)
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
        report = self._evaluator.report(state, "test", self._settings.eval.lengths)
        self._log.scalars(step, "test", _by_number(report))
        self._log.result(step, report["all"])
        self._log.flush()
        pixels = self._evaluator.picture(state)
        if hosts.is_first() and pixels is not None:
            save_png(pixels, self._run.path / "attention.png")
        self._run.write("eval.json", {"step": step, **report})
        self._checkpoints.wait()
        result = {
            "step": step,
            "stopped_early": step < self._settings.train.steps,
            "seconds": round(time.perf_counter() - self._started, 2),
            "test": report,
        }
        self._run.write("result.json", result)
        return result


def _by_number(report: Report) -> dict[int, dict]:
    """The metrics on mixed lengths of each replica that did not fail, by the replica's number."""
    replicas = enumerate(report["replicas"])
    return {number: replica["all"] for number, replica in replicas if not replica["failed"]}


def _announce(experiment: Experiment, run: Run, console: Console) -> None:
    settings, task = experiment.settings, experiment.task
    console.print(
        f"{settings.name}: score {settings.score.name}, {_told(settings)},"
        f" {settings.train.steps} steps of batch {settings.train.batch_size} on"
        f" {experiment.devices[0].platform}; run {run.path}",
        soft_wrap=True,
    )
    if len(experiment.devices) > 1:
        console.print(described(experiment.mesh, len(experiment.devices)), soft_wrap=True)
    if summary := task.summary():
        console.print(summary, soft_wrap=True)


def _told(settings: Settings) -> str:
    if settings.replicas:
        return f"{settings.num_replicas} replicas"
    first, last = settings.seed, settings.seed + settings.num_seeds - 1
    return f"seed {first}" if first == last else f"seeds {first} to {last}"


def _show(outcome: Finished, run: Run, settings: Settings, console: Console) -> None:
    result, failed = outcome.result, outcome.failed
    early = " (target reached early)" if result["stopped_early"] else ""
    title = f"{run.path}, step {result['step']}{early}, test, {result['seconds']} s"
    console.print(report_table(result["test"], title, task_of(settings).metrics))
    console.print(
        f"next: python eval.py --workdir {run.path}\n"
        f"      tensorboard --logdir {run.path.parent}  (pip install tensorboard)",
        highlight=False,
        soft_wrap=True,
    )
    if failed:
        console.print(
            f"failed: {len(failed)} of {settings.num_replicas} replicas"
            f" ({named(settings, failed)}), whose loss or gradient was not finite",
            soft_wrap=True,
        )
