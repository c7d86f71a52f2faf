"""The training loop: restore, update, log, evaluate, save; and the report at the end."""

import math
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from attention.analysis.figures import save_png
from attention.tasks.text import Text
from attention.training import checkpoints
from attention.training.display import Display, describe, report_table
from attention.training.evaluate import Evaluator
from attention.training.experiment import Experiment, build, read_source, schedule
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
    started = time.perf_counter()
    state = _restored_or_initial(experiment, run, console)
    train_until, evaluator = make_train(experiment), Evaluator(experiment)
    step, reached = int(state.step), False
    with (
        Log(run.path, experiment.settings, step) as log,
        Display(console, settings.steps, step) as display,
    ):
        while step < settings.steps and not reached and not interruption.signal:
            state, metrics = train_until(state, experiment.task, next_stop(step, settings))
            step = int(state.step)
            _record(experiment, run, log, display, step, metrics)
            if _is_due(step, settings.eval_every_steps, settings.steps):
                report = _validate(evaluator, state, log, display)
                reached = 0 < settings.stop_at_exact_match <= report["exact_match"]
            if reached or _is_due(step, settings.checkpoint_every_steps, settings.steps):
                _save(run, state, log, settings.keep_checkpoints)
            display.restart_clock()
        if step < settings.steps and not reached:
            _save(run, state, log, settings.keep_checkpoints)
            display.note(f"{interruption.name} at step {step}: saved in {run.path}")
            return
        _finish(experiment, evaluator, run, state, log, reached, started)


def next_stop(step: int, settings: TrainSettings) -> int:
    """Where the updates after `step` must pause: to log, evaluate, save or end."""
    rhythms = (
        settings.log_every_steps,
        settings.eval_every_steps,
        settings.checkpoint_every_steps,
    )
    return min(settings.steps, *(step + every - step % every for every in rhythms))


def _is_due(step: int, every: int, steps: int) -> bool:
    return step % every == 0 or step == steps


def _restored_or_initial(experiment: Experiment, run: Run, console: Console) -> TrainState:
    if not checkpoints.steps(run.checkpoints):
        return initial_state(experiment)
    state = checkpoints.restore(run.checkpoints, abstract_state(experiment))
    console.print(f"going on from step {int(state.step)}")
    return state


def _record(
    experiment: Experiment,
    run: Run,
    log: Log,
    display: Display,
    step: int,
    metrics: Metrics,
) -> None:
    values = {name: float(value) for name, value in metrics.items()}
    if not math.isfinite(values["loss"]) or not math.isfinite(values["gradient_norm"]):
        saved = checkpoints.steps(run.checkpoints)
        kept = f"the newest checkpoint is step {saved[-1]}" if saved else "nothing was saved"
        raise TrainingError(f"the loss is {values['loss']} at step {step}; {kept}")
    rate = schedule(experiment.settings.optimizer, experiment.settings.train.steps)
    log.scalars(step, "train", {**values, "learning_rate": float(jnp.asarray(rate(step - 1)))})
    display.update(step, values)


def _validate(
    evaluator: Evaluator, state: TrainState, log: Log, display: Display
) -> dict[str, Any]:
    step = int(state.step)
    report = evaluator.report(state.parameters, "validation")["all"]
    log.scalars(step, "validation", report)
    pixels = evaluator.attention_maps(state.parameters)
    if pixels is not None:
        log.image(step, "attention", pixels)
    display.note(f"step {step}: validation  {describe(report)}")
    return report


def _save(run: Run, state: TrainState, log: Log, keep: int) -> None:
    log.flush()  # no log may lag behind a checkpoint
    checkpoints.save(run.checkpoints, state, keep)


def _finish(
    experiment: Experiment,
    evaluator: Evaluator,
    run: Run,
    state: TrainState,
    log: Log,
    stopped_early: bool,
    started: float,
) -> None:
    """Evaluates on the test stream; `result.json`, written last, says that the run is finished."""
    step = int(state.step)
    report = evaluator.report(state.parameters, "test", experiment.settings.eval.lengths)
    log.scalars(step, "test", report["all"])
    log.result(step, report["all"])
    log.flush()
    pixels = evaluator.attention_maps(state.parameters)
    if pixels is not None:
        save_png(pixels, run.path / "attention.png")
    run.write("eval.json", {"step": step, **report})
    seconds = round(time.perf_counter() - started, 2)
    result = {"step": step, "stopped_early": stopped_early, "seconds": seconds, "test": report}
    run.write("result.json", result)


def _announce(experiment: Experiment, run: Run, console: Console) -> None:
    settings, task = experiment.settings, experiment.task
    console.print(
        f"{settings.name}: score {settings.score.name}, seed {settings.seed},"
        f" {settings.train.steps} steps of batch {settings.train.batch_size} on"
        f" {jax.devices()[0].platform}; run {run.path}"
    )
    if isinstance(task, Text):
        lines = (task.train.length, task.validation.length, task.test.length)
        console.print(
            "lines: {} to train, {} to validate, {} to test;".format(*map(len, lines)),
            f"{task.left_out} longer than config.task.max_length={task.max_length} bytes left out",
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
    )
