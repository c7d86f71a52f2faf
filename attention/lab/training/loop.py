"""The training loop: restore, update, log, evaluate, save; and the report at the end."""

import shlex
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from attention.lab.errors import TrainingError
from attention.lab.own_code import errors_told, own_parts
from attention.lab.parallel import hosts
from attention.lab.parallel.devices import described
from attention.lab.parallel.interruption import Interruption, noticed_interruptions
from attention.lab.parallel.replicas import named
from attention.lab.repository import command
from attention.lab.runs.checkpoints import Checkpoints
from attention.lab.runs.checkpoints import steps as saved_steps
from attention.lab.runs.directory import PICTURE, Run, default_path, open_for_training
from attention.lab.runs.display import Display, print_report, tell_own_code
from attention.lab.runs.log import Log, NoLog
from attention.lab.runs.tables import print_prose
from attention.lab.runs.version import code_version
from attention.lab.settings import Settings, TrainSettings, task_of
from attention.lab.training.build import Experiment, build, read_source
from attention.lab.training.memory import check_memory, sizes_of
from attention.lab.training.outcome import Finished, Interrupted, Outcome
from attention.lab.training.session import Session, remedy
from attention.lab.training.state import (
    Status,
    TrainState,
    completed,
    initial_state,
    replicas_with,
    restored_state,
)
from attention.lab.training.update import make_train


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
      TrainingError: the loss is no longer finite, in every replica; or a user's own code raised
        an error.
    """
    if not hosts.is_first():
        console = Console(quiet=True, force_terminal=False)
    path = default_path(settings) if workdir is None else workdir
    with ExitStack() as stack:
        with hosts.in_agreement():
            source = read_source(settings)
            experiment = build(settings, source)
            check_memory(experiment)
        hosts.check_alike(settings.model_dump_json().encode(), source or b"", bytes(path))
        with hosts.in_agreement():
            run = stack.enter_context(open_for_training(path, settings, source))
        if run.replaced:
            console.print(f"{path}: held a run without a checkpoint; begun anew", soft_wrap=True)
        if hosts.are_several():
            run.check_is_seen()
        result = run.result()
        if hosts.from_first(result is not None):
            console.print(f"{path}: finished already, nothing to do")
            tell_own_code(run, settings, console)
        else:
            with noticed_interruptions() as interruption, _failures_told(settings, run):
                _announce(experiment, run, console)
                result = _train_to_end(experiment, run, console, interruption)
            if result is None:
                console.print("run the same command again to go on")
                return Interrupted(interruption.signal)
        assert result is not None
        outcome = Finished(result)
        _show(outcome, run, settings, console)
        return outcome


def _failures_told(settings: Settings, run: Run) -> AbstractContextManager:
    """Tells errors in a user's own code that came up in training, and what is kept."""

    def failure(told: str) -> TrainingError:
        saved = saved_steps(run.checkpoints)
        kept = f"the newest checkpoint is step {saved[-1]}" if saved else "nothing was saved"
        return TrainingError(f"{told}; {kept}")

    return errors_told(own_parts(settings), failure)


def _train_to_end(
    experiment: Experiment, run: Run, console: Console, interruption: Interruption
) -> dict[str, Any] | None:
    """Trains until the run is finished; if a signal interrupts it, saves the state.

    Returns:
      The result of the finished run, None if the run was interrupted.
    """
    settings, task = experiment.settings.train, experiment.task
    with ExitStack() as stack:
        display = stack.enter_context(Display(console, settings.steps, task))
        with display.during("compiling"):
            state = _restored_or_initial(experiment, run, console)
        step = completed(state)
        display.begin_at(step)
        log = Log(run.path, experiment.settings, step) if hosts.is_first() else NoLog()
        stack.enter_context(log)
        checkpoints = stack.enter_context(
            Checkpoints(
                run.checkpoints, settings.keep_checkpoints, run.record(), restored=step or None
            )
        )
        session = Session(experiment, run, log, display, checkpoints)
        train_until = make_train(experiment)
        if not _is_over(state, settings):
            interruption.answer = answer_while_compiling()
            with display.during("compiling"):
                state, _ = train_until(state, task, step)  # no update: compilation alone
        while not _is_over(state, settings) and not interruption.reached():
            stop = next_stop(step, settings)
            interruption.answer = _told_by_first(_next(stop, settings))
            state, metrics = train_until(state, task, stop)
            step = completed(state)
            session.record(state, metrics)
            if _is_evaluated(step, settings):
                state = session.validate(state)
            if _is_over(state, settings) or _is_due(step, settings.checkpoint_every_steps):
                session.save(state)
        if _is_over(state, settings):
            interruption.answer = _told_by_first("this is the evaluation at the end of training")
            return session.finish(state)
        session.save(state)
        with display.during("saving"):
            checkpoints.wait()
        display.note(f"{interruption.name} at step {step}: saved in {run.path}")
        return None


def answer_while_compiling() -> str | None:
    """Of several processes none ends before the others, which would wait for it."""
    return _told_by_first("stopping after compilation") if hosts.are_several() else None


def _told_by_first(answer: str) -> str:
    """Nothing where another process shows what happens."""
    return answer if hosts.is_first() else ""


def _next(stop: int, settings: TrainSettings) -> str:
    """What happens after Ctrl-C: the updates up to `stop` are a single call."""
    if stop == settings.steps:
        return f"step {stop} is the last, and training ends with its evaluation"
    and_then = " and its evaluation" if _is_evaluated(stop, settings) else ""
    return f"stopping after step {stop}{and_then}"


def _is_evaluated(step: int, settings: TrainSettings) -> bool:
    return step == settings.steps or _is_due(step, settings.eval_every_steps)


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
    tell_own_code(run, experiment.settings, console)
    return state


def _announce(experiment: Experiment, run: Run, console: Console) -> None:
    settings, task = experiment.settings, experiment.task
    print_prose(
        console,
        f"{settings.name}: task {settings.task.name}, score {settings.score.name},"
        f" {_told(settings)},"
        f" {settings.train.steps} steps of batch {settings.train.batch_size} on"
        f" {experiment.devices[0].platform}; run {run.path}",
    )
    if len(experiment.devices) > 1:
        print_prose(console, described(experiment.mesh, len(experiment.devices)))
    print_prose(console, sizes_of(experiment))
    if summary := task.summary():
        print_prose(console, summary)


def _told(settings: Settings) -> str:
    if settings.replicas:
        return f"{settings.num_replicas} replicas"
    first, last = settings.seed, settings.seed + settings.num_seeds - 1
    return f"seed {first}" if first == last else f"seeds {first} to {last}"


def _show(outcome: Finished, run: Run, settings: Settings, console: Console) -> None:
    result, failed = outcome.result, outcome.failed
    early = " (target reached early)" if result["stopped_early"] else ""
    title = f"{run.path}, step {result['step']}{early}, test, in {result['seconds']} s"
    here, above = (shlex.quote(str(path)) for path in (run.path, run.path.parent))
    again = f"{command('eval')} --workdir {here}"
    print_report(console, result["test"], title, task_of(settings), f"{again} --lengths all")
    told = []
    if "parameters" in result:  # older runs did not count them
        told.append(f"{result['parameters']:,} parameters")
    if (run.path / PICTURE).exists():
        told.append(f"where it looks: {run.path / PICTURE}")
    console.print("; ".join(told), highlight=False, soft_wrap=True)
    console.print(
        f"next: {again}\n      tensorboard --logdir {above}  (pip install tensorboard)",
        highlight=False,
        soft_wrap=True,
    )
    if failed:
        print_prose(
            console,
            f"failed: {len(failed)} of {settings.num_replicas} replicas"
            f" ({named(settings, failed)}), whose loss or gradient was not finite;"
            f" {remedy(settings, run)}",
        )
