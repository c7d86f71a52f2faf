"""The training loop: restore, update, log, evaluate, save; and the report at the end."""

import math
import time
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from attention.analysis.figures import save_png
from attention.tasks.text import Text
from attention.training.checkpoints import Checkpoints, restore
from attention.training.checkpoints import steps as saved_steps
from attention.training.display import Display, describe, report_table
from attention.training.evaluate import Evaluator
from attention.training.experiment import Experiment, build, read_source
from attention.training.interruption import Interruption, noticed_interruptions
from attention.training.log import Log
from attention.training.run import Run, default_path, open_for_training
from attention.training.settings import Settings, TrainSettings
from attention.training.state import (
    Metrics,
    TrainState,
    abstract_state,
    initial_state,
    make_train,
)
from attention.training.version import code_version


class TrainingError(RuntimeError):
    """Training cannot go on, told in one line."""


def train(settings: Settings, workdir: Path | None, console: Console) -> int:
    """Trains an experiment to its end, or on from where it stopped.

    Args:
      settings: the experiment.
      workdir: where to keep the run; None for `runs/<config>-<score>`.
      console: where to show progress and results.

    Returns:
      The exit status: 0, or 128 + the signal that interrupted it.

    Raises:
      UsageError: the request cannot be met; nothing was written.
      TrainingError: the loss is no longer finite.
    """
    source = read_source(settings)
    experiment = build(settings, source)
    path = default_path(settings) if workdir is None else workdir
    with open_for_training(path, settings, source) as run:
        if run.result():
            console.print(f"{path}: finished already, nothing to do")
        else:
            _announce(experiment, run, console)
            with noticed_interruptions() as interruption:
                _train_to_end(experiment, run, console, interruption)
            if not run.result():
                console.print("run the same command again to go on")
                return 128 + interruption.signal
        _show_result(run, console)
    return 0


def _train_to_end(
    experiment: Experiment, run: Run, console: Console, interruption: Interruption
) -> None:
    """Trains until the run is finished, or saves what there is if interrupted."""
    settings = experiment.settings.train
    state = _restored_or_initial(experiment, run, console)
    step = int(state.step)
    with (
        Log(run.path, experiment.settings, step) as log,
        Display(console, settings.steps, step) as display,
        Checkpoints(run.checkpoints, settings.keep_checkpoints, run.record()) as checkpoints,
    ):
        session = _Session(experiment, run, log, display, checkpoints)
        train_until = make_train(experiment)
        # A run that was killed between its target and its result has met the target.
        reached = step > 0 and _is_due(step, settings.eval_every_steps) and session.reached(state)
        while step < settings.steps and not reached and not interruption.signal:
            state, metrics = train_until(state, experiment.task, next_stop(step, settings))
            step = int(state.step)
            is_last = step == settings.steps
            session.record(step, metrics)
            if is_last or _is_due(step, settings.eval_every_steps):
                session.validate(state)
                reached = session.reached(state)
            if is_last or reached or _is_due(step, settings.checkpoint_every_steps):
                session.save(state)
            display.restart_clock()
        if step < settings.steps and not reached:
            session.save(state)
            checkpoints.wait()
            display.note(f"{interruption.name} at step {step}: saved in {run.path}")
        else:
            session.finish(state, stopped_early=step < settings.steps)


def next_stop(step: int, settings: TrainSettings) -> int:
    """Where the updates after `step` must pause: to log, evaluate, save or end."""
    rhythms = (
        settings.log_every_steps,
        settings.eval_every_steps,
        settings.checkpoint_every_steps,
    )
    return min(settings.steps, *(step + every - step % every for every in rhythms))


def _is_due(step: int, every: int) -> bool:
    return step % every == 0


def _restored_or_initial(experiment: Experiment, run: Run, console: Console) -> TrainState:
    if not saved_steps(run.checkpoints):
        return initial_state(experiment)
    state = restore(run.checkpoints, abstract_state(experiment))
    console.print(f"going on from step {int(state.step)}")
    begun_by, now = run.record().get("code_version"), code_version()
    if begun_by != now:
        console.print(f"the run was begun by version {begun_by}; this is {now}", soft_wrap=True)
    return state


class _Session:
    """What happens between updates."""

    def __init__(
        self,
        experiment: Experiment,
        run: Run,
        log: Log,
        display: Display,
        checkpoints: Checkpoints,
    ):
        self._settings = experiment.settings
        self._run, self._log, self._display = run, log, display
        self._checkpoints = checkpoints
        self._evaluator = Evaluator(experiment)
        self._started = time.perf_counter()
        self._validated: tuple[int, dict[str, Any]] = (-1, {})  # the newest step and its metrics

    def record(self, step: int, metrics: Metrics) -> None:
        values = {name: float(value) for name, value in metrics.items()}
        if not math.isfinite(values["loss"]) or not math.isfinite(values["gradient_norm"]):
            self._checkpoints.wait()
            saved = saved_steps(self._run.checkpoints)
            kept = f"the newest checkpoint is step {saved[-1]}" if saved else "nothing was saved"
            raise TrainingError(
                f"at step {step} the loss is {values['loss']} and the gradient norm"
                f" {values['gradient_norm']}; {kept}"
            )
        self._log.scalars(step, "train", values)
        self._display.update(step, values)

    def validate(self, state: TrainState) -> None:
        step, report = int(state.step), self._validation(state)
        self._log.scalars(step, "validation", report)
        pixels = self._evaluator.attention_maps(state.parameters)
        if pixels is not None:
            self._log.image(step, "attention", pixels)
        self._display.note(f"step {step}: validation  {describe(report)}")

    def reached(self, state: TrainState) -> bool:
        """Whether the target accuracy is met, if there is one."""
        target = self._settings.train.stop_at_exact_match
        return target > 0 and self._validation(state)["exact_match"] >= target

    def save(self, state: TrainState) -> None:
        self._log.flush()  # no log may lag behind a checkpoint
        self._checkpoints.save(state)

    def _validation(self, state: TrainState) -> dict[str, Any]:
        if self._validated[0] != int(state.step):
            report = self._evaluator.report(state.parameters, "validation")["all"]
            self._validated = int(state.step), report
        return self._validated[1]

    def finish(self, state: TrainState, *, stopped_early: bool) -> None:
        """Evaluates on the test stream; `result.json`, written last, says the run is finished."""
        step, parameters = int(state.step), state.parameters
        report = self._evaluator.report(parameters, "test", self._settings.eval.lengths)
        self._log.scalars(step, "test", report["all"])
        self._log.result(step, report["all"])
        self._log.flush()
        pixels = self._evaluator.attention_maps(parameters)
        if pixels is not None:
            save_png(pixels, self._run.path / "attention.png")
        self._run.write("eval.json", {"step": step, **report})
        self._checkpoints.wait()
        seconds = round(time.perf_counter() - self._started, 2)
        result = {"step": step, "stopped_early": stopped_early, "seconds": seconds, "test": report}
        self._run.write("result.json", result)


def _announce(experiment: Experiment, run: Run, console: Console) -> None:
    settings, task = experiment.settings, experiment.task
    console.print(
        f"{settings.name}: score {settings.score.name}, seed {settings.seed},"
        f" {settings.train.steps} steps of batch {settings.train.batch_size} on"
        f" {jax.devices()[0].platform}; run {run.path}",
        soft_wrap=True,
    )
    if isinstance(task, Text):
        lines = (task.train.length, task.validation.length, task.test.length)
        console.print(
            "lines: {} to train, {} to validate, {} to test;".format(*map(len, lines)),
            f"{task.left_out} longer than config.task.max_length={task.max_length} bytes left out",
            soft_wrap=True,
        )


def _show_result(run: Run, console: Console) -> None:
    result = run.result()
    assert result is not None
    early = " (target reached early)" if result["stopped_early"] else ""
    title = f"{run.path}, step {result['step']}{early}, test, {result['seconds']} s"
    console.print(report_table(result["test"], title))
    console.print(
        f"next: python eval.py --workdir {run.path}\n      tensorboard --logdir {run.path.parent}",
        highlight=False,
        soft_wrap=True,
    )
