"""What training and evaluation show: a live line on a terminal, plain lines elsewhere, tables."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from attention.lab.analysis.mean_sd import MeanSd
from attention.lab.analysis.naming import EXACT, TOKENS, Named, described, headings, shown
from attention.lab.parallel.interruption import before_the_end
from attention.lab.runs.directory import Run
from attention.lab.runs.tables import Column, print_prose, print_table
from attention.lab.runs.version import own_code_changed
from attention.lab.settings import Settings

ALL = "all"  # the row of mixed lengths
SEQUENCES = "sequences"
# Columns of counts, the latter two where there are any: sequences that training drew, too.
COUNTS = {
    SEQUENCES: SEQUENCES,
    "trained_on": "of them trained on",
    "left_out": "left out, trained on",
}
BY_HEAD = "alignment_accuracy_by_head"
FEW_LENGTHS = 3  # of more, a table shows the worst and the longest

# In characters: the bar of the live line, the width of a terminal from which there is one, and the
# time left, with the spaces beside what is between them.
BAR, WITH_BAR, TIME = 20, 100, 9


class Display:
    """Shows the progress of a run. Use as a context manager.

    Args:
      console: where to show it.
      steps: updates in the whole run.
      task: the task, or its class, whose metrics are shown.
    """

    def __init__(self, console: Console, steps: int, task: Named):
        self._console, self._steps, self._task = console, steps, task
        self._time, self._step = time.perf_counter(), 0
        self._text = "training"  # of the live line
        self._open = ExitStack()
        self._bar: Progress | None = None
        if console.is_terminal:
            bar = [BarColumn(bar_width=BAR)] if console.width >= WITH_BAR else []
            self._bar = Progress(
                TextColumn("{task.completed}/{task.total}"),
                *bar,
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
                console=console,
                refresh_per_second=4,
                transient=True,  # what is over is no progress
            )
            self._line = self._bar.add_task("", total=steps, text="")

    def __enter__(self) -> "Display":
        if self._bar:
            self._bar.start()
            self._open.enter_context(before_the_end(self._bar.stop))
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()
        if self._bar:
            self._bar.stop()

    def begin_at(self, step: int) -> None:
        """Says how many updates were completed before."""
        self._step = step
        if self._bar:
            self._bar.update(self._line, completed=step)

    def update(self, step: int, metrics: dict[str, float]) -> None:
        """Shows the progress after `step` updates.

        Args:
          step: updates completed.
          metrics: values by name, of which some are shown.
        """
        now = time.perf_counter()
        rate = (step - self._step) / (now - self._time)
        self._time, self._step = now, step
        words = [*described(metrics, self._task), f"{rate:.0f} updates/s"]
        if self._bar:
            self._text = "  ".join(self._fitting(words))
            self._bar.update(self._line, completed=step, text=self._text)
        else:
            left = (self._steps - step) / rate
            told = "  ".join([f"step {step}/{self._steps}", *words, f"{left:.0f} s left"])
            self._console.print(told, soft_wrap=True)

    def _fitting(self, words: list[str]) -> list[str]:
        """As many of the first as the live line has room for."""
        width = self._console.width
        bar = BAR + 1 if width >= WITH_BAR else 0
        room = width - bar - TIME - len(f"{self._steps}/{self._steps}")
        while words and len("  ".join(words)) > room:
            words = words[:-1]
        return words

    def note(self, text: str) -> None:
        """Prints a line, above the live line if there is one."""
        self._console.print(text, soft_wrap=True)

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Shows in the live line what is done that is no update, and leaves its time out."""
        if self._bar:
            self._bar.update(self._line, text=what)
            self._bar.refresh()
        yield
        if self._bar:
            self._bar.update(self._line, text=self._text)
        self._time = time.perf_counter()


@contextmanager
def shown_while(console: Console, what: str) -> Iterator[None]:
    """Shows on a terminal what is done, as long as it lasts."""
    status = console.status(what)
    with status, before_the_end(status.stop):
        yield


def print_report(
    console: Console,
    report: dict[str, Any],
    title: str,
    task: Named,
    all_lengths: str | None = None,
) -> None:
    """Prints the table of an evaluation: a row for the mixture of lengths, a row for each length.

    Of several replicas it shows the mean ± the standard deviation.

    Args:
      console: where to print it.
      report: what `Evaluator.report` returned.
      title: the line above the table.
      task: the task, or its class.
      all_lengths: the command that shows all lengths. If it is given and there are many, those
        shown are the one with the fewest sequences right, and the longest.
    """
    replicas, by_length = report["replicas"], report["by_length"]
    which = _worst_and_longest(by_length) if all_lengths else {}
    if len(by_length) <= FEW_LENGTHS or not which:
        which = {length: length for length in by_length}
        all_lengths = None
    deviations = report.get("sd", {ALL: {}, "by_length": {}})
    rows = [_values(report[ALL], replicas, task)]
    rows += [_values(by_length[length], replicas, task) for length in which]
    spreads = [_values(deviations[ALL], replicas, task)]
    spreads += [_values(deviations["by_length"].get(n, {}), replicas, task) for n in which]
    shown_rows = [report[ALL], *(by_length[n] for n in which)]
    counts = [
        Column(heading, [f"{row.get(name, 0):.0f}" for row in shown_rows])
        for name, heading in COUNTS.items()
        if name == SEQUENCES or any(row.get(name) for row in shown_rows)
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))
    measured = list(zip(rows, spreads, strict=True))
    columns = [
        Column(name, [_written(row.get(name), deviation.get(name)) for row, deviation in measured])
        for name in names
        if any(row.get(name) is not None for row in rows)
    ]
    print_table(
        console,
        title + _population(replicas),
        [Column("length", [ALL, *which.values()], "left")],
        [*counts, *columns],
    )
    if told := nothing_left(report[ALL]):
        print_prose(console, told)
    if all_lengths:
        console.print(
            f"all {len(by_length)} lengths: {all_lengths}", highlight=False, soft_wrap=True
        )


def tell_own_code(run: Run, settings: Settings, console: Console) -> None:
    """Says in a line which files of the user's own code have changed since a run began."""
    if changed := own_code_changed(run.record(), settings):
        console.print(changed, soft_wrap=True)


def left_out(row: Mapping[str, Any]) -> str:
    """What a line about progress says of the sequences that are left out; nothing if none is."""
    count = row.get("left_out") or 0
    return f"{count:.0f} of {row[SEQUENCES] + count:.0f} left out, trained on" if count else ""


def nothing_left(row: Mapping[str, Any]) -> str:
    """Why there are no figures, and what to do, where all sequences are left out; else nothing."""
    if row[SEQUENCES] or not row.get("left_out"):
        return ""
    return (
        f"training drew each of the {row['left_out']:.0f} sequences, too, so all are left out;"
        " config.eval.leave_out_trained=False counts them"
    )


def _worst_and_longest(by_length: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """The two lengths that say most, and what to call them; of lengths that there are any of."""
    known = [length for length, row in by_length.items() if row[EXACT] is not None]
    if not known:
        return {}
    longest = max(known, key=int)
    rights = {length: (by_length[length][EXACT], by_length[length][TOKENS]) for length in known}
    if len(set(rights.values())) == 1:
        return {longest: f"{longest} longest"}
    # Of lengths that are equally bad, the longest.
    worst = min(known, key=lambda length: (*rights[length], -int(length)))
    if worst == longest:
        return {longest: f"{longest} longest, worst"}
    return {worst: f"{worst} worst", longest: f"{longest} longest"}


def _population(replicas: list[dict[str, Any]]) -> str:
    """What the title says of the replicas that the table is about; nothing if there is one."""
    if len(replicas) == 1:
        return ""
    failed = sum(replica["failed"] for replica in replicas)
    left_out = f" ({failed} failed, left out)" if failed else ""
    differ_by_seed = len({replica["seed"] for replica in replicas}) == len(replicas)
    members = "seeds" if differ_by_seed else "replicas"
    return f", mean ± sd of {len(replicas) - failed} {members}{left_out}"


def _values(row: Mapping[str, Any], replicas: Sequence[Any], task: Named) -> dict[str, Any]:
    """The shares in a row by their headings."""
    values = shown(row, task)
    shares = {heading: values.get(name) for name, heading in headings(task).items()}
    by_head = row.get(BY_HEAD) or []
    # Head 1 of a replica has nothing to do with head 1 of another.
    if len(replicas) == 1 and len(by_head) > 1:
        shares |= {f"alignment head {number}": share for number, share in enumerate(by_head)}
    return shares


def _written(value: float | None, deviation: float | None) -> str:
    measured = MeanSd(float("nan") if value is None else value, deviation or 0.0)
    return measured.written(4)
