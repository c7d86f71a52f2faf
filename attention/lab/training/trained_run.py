"""A trained run, restored from its checkpoint: to evaluate it, or to give it a line or a word."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from attention.lab.errors import UsageError
from attention.lab.own_code import errors_told, own_parts
from attention.lab.parallel.replicas import members
from attention.lab.runs.directory import Run, open_for_evaluation
from attention.lab.runs.display import report_table
from attention.lab.settings import check_lengths
from attention.lab.tasks.batch import PAD
from attention.lab.tasks.catalogue import TASKS
from attention.lab.training.build import Experiment, build
from attention.lab.training.evaluate import Evaluator, parameters_of
from attention.lab.training.memory import check_evaluation_memory
from attention.lab.training.state import TrainState, completed, restored_state


def evaluate(
    workdir: Path,
    step: int | None,
    lengths: Sequence[int] | None,
    console: Console,
    replica: int | None = None,
) -> None:
    """Evaluates a checkpoint on the test stream, shows the table and writes `eval.json`.

    Args:
      workdir: the directory of the run.
      step: which checkpoint, in updates completed; None for the newest.
      lengths: lengths to report beside the mixture; None for the lengths in the config.
      console: where to show the table.
      replica: the number of the replica to evaluate, from 0; None for all.

    Raises:
      UsageError: there is no such run, checkpoint, length or replica.
    """
    run, experiment, state = _restore(workdir, step, lengths or (), replica)
    if lengths is None:
        lengths = experiment.settings.eval.lengths
    with errors_told(own_parts(experiment.settings)):
        report = Evaluator(experiment).report(state, "test", lengths)
    which = "" if replica is None else f", replica {replica} (seed {experiment.settings.seed})"
    title = f"{workdir}, step {completed(state)}, test{which}"
    console.print(report_table(report, title, experiment.task.metrics))
    run.write("eval.json", {"step": completed(state), **report})


def reconstruct(
    workdir: Path, step: int | None, line: str, console: Console, replica: int | None = None
) -> None:
    """Shows what the model makes of a line or a word, and where it looks for each output token.

    Args:
      workdir: the directory of the run.
      step: which checkpoint, in updates completed; None for the newest.
      line: the line or the word, as typed.
      console: where to show the output.
      replica: the number of the replica to ask, from 0; None for the first.

    Raises:
      UsageError: there is no such run, checkpoint or replica, the sources of the run's task
        cannot be typed, or the line does not fit the task.
    """
    _, experiment, state = _restore(workdir, step, None, replica or 0)
    with errors_told(own_parts(experiment.settings)):
        _reconstruct(workdir, experiment, state, line, console)


def _reconstruct(
    workdir: Path, experiment: Experiment, state: TrainState, line: str, console: Console
) -> None:
    task = experiment.task
    if not task.typed:
        able = [
            f"{name!r} reads {task_class.typed}"
            for name, task_class in TASKS.items()
            if task_class.typed
        ]
        raise UsageError(
            f"--text={line!r}: the task of {workdir} is {experiment.settings.task.name!r}; only"
            f" sources of these tasks can be typed: {', '.join(able)}"
        )
    try:
        batch = task.encode(line)
    except ValueError as error:
        raise UsageError(f"--text={line!r}: {error}") from None
    output = Evaluator(experiment).reconstruct(parameters_of(state, 0), batch)
    tokens = np.asarray(output.tokens[0])
    console.print(f"input   {line}", markup=False, highlight=False)
    console.print(f"output  {task.decode(tokens)}", markup=False, highlight=False)
    if output.weights is None:
        console.print("one context for the whole line: there is no position for each output token")
        return
    weights = np.mean(np.asarray(output.weights[0]), axis=0)
    console.print(_attended(np.asarray(batch.source[0]), tokens, weights, task.symbol))


def _restore(
    workdir: Path, step: int | None, lengths: Sequence[int] | None, replica: int | None
) -> tuple[Run, Experiment, TrainState]:
    """A run, its experiment and its state; experiment and state of one replica if it is given.

    The lengths are those to evaluate: none for those of the config, None for no evaluation.
    """
    run, settings, source = open_for_evaluation(workdir)
    check_lengths(settings, lengths or (), "--lengths")
    if replica is not None and not 0 <= replica < settings.num_replicas:
        raise UsageError(
            f"--replica={replica}: the replicas of {workdir} are 0 to {settings.num_replicas - 1}"
        )
    experiment = build(settings, source)
    chosen = experiment
    if replica is not None:
        chosen = replace(experiment, settings=members(settings)[replica])
    if lengths is not None:
        asked_by = "--lengths" if lengths else "config.eval.lengths"
        check_evaluation_memory(chosen, lengths or settings.eval.lengths, asked_by)
    state = restored_state(run.checkpoints, experiment, step)
    if replica is None:
        return run, chosen, state
    only = slice(replica, replica + 1)
    return run, chosen, jax.tree.map(lambda leaf: np.asarray(leaf)[only], state)


def _attended(
    source: np.ndarray, tokens: np.ndarray, weights: np.ndarray, symbol: Callable[[int], str]
) -> Table:
    table = Table(title="largest weight, mean of the heads", title_justify="left")
    for column in ("output position", "output", "input position", "input", "weight"):
        table.add_column(column, justify="right")
    for position, token in enumerate(tokens):
        if token == PAD:
            break
        looked_at = int(np.argmax(weights[position]))
        table.add_row(
            str(position),
            symbol(int(token)),
            str(looked_at),
            symbol(int(source[looked_at])),
            f"{weights[position, looked_at]:.3f}",
        )
    return table
