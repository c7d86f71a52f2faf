"""A trained run, restored from its checkpoint: to evaluate it, or to give it a line or a word."""

import hashlib
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from rich.console import Console

from attention.lab.errors import UsageError
from attention.lab.own_code import errors_told, own_parts
from attention.lab.parallel.replicas import members
from attention.lab.repository import command
from attention.lab.runs.directory import Run, open_for_evaluation
from attention.lab.runs.display import print_report, shown_while, tell_own_code
from attention.lab.runs.tables import Column, print_table
from attention.lab.settings import check_lengths
from attention.lab.tasks.batch import PAD
from attention.lab.tasks.catalogue import TASKS
from attention.lab.training.build import Experiment, build
from attention.lab.training.evaluate import Evaluator, parameters_of
from attention.lab.training.memory import check_evaluation_memory
from attention.lab.training.state import TrainState, completed, restored_state

LONG = 60  # characters of a list of lengths, beyond which a file is named by a hash of it

Lengths = Sequence[int] | Literal["all"] | None


def evaluate(
    workdir: Path,
    step: int | None,
    lengths: Lengths,
    console: Console,
    replica: int | None = None,
) -> None:
    """Evaluates a checkpoint on the test stream, shows the table and writes what was measured.

    The file is `eval.json` where the same was asked for as at the end of training; the names of
    other files say what was: `eval-step300-lengths-8,16.json`.

    Args:
      workdir: the directory of the run.
      step: which checkpoint, in updates completed; None for the newest.
      lengths: lengths to report beside the mixture; None for the lengths in the config, of which
        the table shows the most telling, and `all` for a table of all of them.
      console: where to show the table.
      replica: the number of the replica to evaluate, from 0; None for all.

    Raises:
      UsageError: there is no such run, checkpoint, length or replica.
    """
    given = () if lengths is None or isinstance(lengths, str) else tuple(lengths)
    with shown_while(console, "evaluating"):
        run, experiment, state = _restore(workdir, step, given, replica)
        of_config = tuple(experiment.settings.eval.lengths)
        with errors_told(own_parts(experiment.settings)):
            report = Evaluator(experiment).report(state, "test", given or of_config)
    asked, step = step, completed(state)
    which = "" if replica is None else f", replica {replica} (seed {experiment.settings.seed})"
    title = f"{workdir}, step {step}, test{which}"
    again = _command(workdir, asked, replica) if lengths is None else None
    tell_own_code(run, experiment.settings, console)
    print_report(console, report, title, experiment.task, again)
    name = "eval.json"
    if replica is not None or given not in ((), of_config) or step != _trained_to(run):
        name = _name(step, replica, given if given != of_config else ())
    run.write(name, {"step": step, **report})
    console.print(f"in {run.path / name}", highlight=False, soft_wrap=True)


def _trained_to(run: Run) -> int | None:
    """The step of the evaluation at the end of training, None if training is not over."""
    result = run.result()
    return None if result is None else result["step"]


def _command(workdir: Path, step: int | None, replica: int | None) -> str:
    """The command that shows all lengths."""
    chosen = {"step": step, "replica": replica}
    flags = [f" --{name} {number}" for name, number in chosen.items() if number is not None]
    return f"{command('eval')} --workdir {shlex.quote(str(workdir))}{''.join(flags)} --lengths all"


def _name(step: int, replica: int | None, lengths: Sequence[int]) -> str:
    """The name of a file, by what was asked for."""
    parts = [f"eval-step{step}"]
    if replica is not None:
        parts.append(f"replica{replica}")
    if lengths:
        listed = ",".join(map(str, lengths))
        if len(listed) > LONG:
            listed = f"{len(lengths)}-{hashlib.sha256(listed.encode()).hexdigest()[:8]}"
        parts.append(f"lengths-{listed}")
    return "-".join(parts) + ".json"


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
    with shown_while(console, "restoring"):
        run, experiment, state = _restore(workdir, step, None, replica or 0)
    tell_own_code(run, experiment.settings, console)
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
    with shown_while(console, "evaluating"):
        output = Evaluator(experiment).reconstruct(parameters_of(state, 0), batch)
    tokens = np.asarray(output.tokens[0])
    console.print(f"input   {line}", markup=False, highlight=False)
    console.print(f"output  {task.decode(tokens)}", markup=False, highlight=False)
    if output.weights is None:
        console.print("one context for the whole line: there is no position for each output token")
        return
    weights = np.mean(np.asarray(output.weights[0]), axis=0)
    _print_attended(console, np.asarray(batch.source[0]), tokens, weights, task.symbol)


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


def _print_attended(
    console: Console,
    source: np.ndarray,
    tokens: np.ndarray,
    weights: np.ndarray,
    symbol: Callable[[int], str],
) -> None:
    ends = np.flatnonzero(tokens == PAD)
    shown = tokens[: ends[0]] if ends.size else tokens
    looked_at = [int(np.argmax(weights[position])) for position in range(len(shown))]
    columns = {
        "output position": [str(position) for position in range(len(shown))],
        "output": [symbol(int(token)) for token in shown],
        "input position": list(map(str, looked_at)),
        "input": [symbol(int(source[position])) for position in looked_at],
        "weight": [f"{weights[n, position]:.3f}" for n, position in enumerate(looked_at)],
    }
    first, *rest = (Column(heading, cells) for heading, cells in columns.items())
    print_table(console, "largest weight, mean of the heads", [first], rest)
