"""What training and evaluation show: a live line on a terminal, plain lines elsewhere, tables."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from attention.lab.analysis.mean_sd import MeanSd

# Metrics that some tasks or models do not have, and their headings in tables.
NOT_OF_ALL = {"query_dependence": "query dependence"}

Headings = Mapping[str, str]  # of metrics that only one task has, by the metrics' names


class Display:
    """Shows the progress of a run. Use as a context manager.

    Args:
      console: where to show it.
      steps: updates in the whole run.
      step: updates completed before.
      headings: the headings of metrics that only this task has.
    """

    def __init__(self, console: Console, steps: int, step: int, headings: Headings):
        self._console = console
        self._steps, self._headings = steps, headings
        self._time, self._step = time.perf_counter(), step
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.completed}/{task.total}"),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
                console=console,
                refresh_per_second=4,
            )
            self._task = self._bar.add_task("", total=steps, completed=step, text="compiling")

    def __enter__(self) -> "Display":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, step: int, metrics: dict[str, float]) -> None:
        """Shows the progress after `step` updates.

        Args:
          step: updates completed.
          metrics: values by name, of which those that `describe` knows are shown.
        """
        now = time.perf_counter()
        rate = (step - self._step) / (now - self._time)
        self._time, self._step = now, step
        text = f"{describe(metrics, self._headings)}  {rate:.0f} updates/s"
        if self._bar:
            self._bar.update(self._task, completed=step, text=text)
        else:
            left = (self._steps - step) / rate
            self._console.print(
                f"step {step}/{self._steps}  {text}  {left:.0f} s left", soft_wrap=True
            )

    def note(self, text: str) -> None:
        """Prints a line, above the live line if there is one."""
        (self._bar.console if self._bar else self._console).print(text, soft_wrap=True)

    def restart_clock(self) -> None:
        """Begins to time updates anew, so that updates per second leave evaluation out."""
        self._time = time.perf_counter()


def describe(metrics: Mapping[str, Any], headings: Headings) -> str:
    """Loss and accuracies in a few words; a metric that is absent or null is left out.

    Args:
      metrics: values by name.
      headings: the headings of metrics that only this task has.
    """
    names = {
        "loss": "loss",
        "token_accuracy": "tokens",
        "exact_match": "exact",
        "alignment_accuracy": "alignment",
        **headings,
    }
    return "  ".join(
        f"{word} {metrics[name]:.4f}"
        for name, word in names.items()
        if isinstance(metrics.get(name), int | float)
    )


def report_table(report: dict[str, Any], title: str, headings: Headings) -> Table:
    """The table of an evaluation: a row for the mixture of lengths, a row for each length.

    Of several replicas it shows the mean ± the standard deviation.

    Args:
      report: what `Evaluator.report` returned.
      title: the line above the table.
      headings: the headings of metrics that only this task has.
    """
    table = Table(title=title + _population(report["replicas"]), title_justify="left")
    table.add_column("length")
    deviations = report.get("sd", {"all": {}, "by_length": {}})
    rows = [("all", report["all"], deviations["all"])] + [
        (length, row, deviations["by_length"].get(length, {}))
        for length, row in report["by_length"].items()
    ]
    aligned = [row for _, row, _ in rows if row["alignment_accuracy"] is not None]
    heads = max((len(row["alignment_accuracy_by_head"]) for row in aligned), default=0)
    if len(report["replicas"]) > 1:
        heads = 0  # head 1 of a replica has nothing to do with head 1 of another
    optional = {**NOT_OF_ALL, **headings}
    extra_metrics = [name for name in optional if report["all"].get(name) is not None]
    columns = ["sequences", "token accuracy", "exact match", "alignment accuracy"]
    columns += [optional[name] for name in extra_metrics]
    for column in columns + [f"head {head}" for head in range(heads if heads > 1 else 0)]:
        table.add_column(column, justify="right", overflow="fold")  # no digit is cut off
    for name, row, deviation in rows:
        cells = map(
            _written, _shares(row, extra_metrics, heads), _shares(deviation, extra_metrics, heads)
        )
        table.add_row(name, str(row["sequences"]), *cells)
    return table


def _population(replicas: list[dict[str, Any]]) -> str:
    """What the title says of the replicas that the table is about; nothing if there is one."""
    if len(replicas) == 1:
        return ""
    failed = sum(replica["failed"] for replica in replicas)
    left_out = f" ({failed} failed, left out)" if failed else ""
    differ_by_seed = len({replica["seed"] for replica in replicas}) == len(replicas)
    members = "seeds" if differ_by_seed else "replicas"
    return f", mean ± sd of {len(replicas) - failed} {members}{left_out}"


def _shares(row: dict[str, Any], extra_metrics: list[str], heads: int) -> list[float | None]:
    """The numbers in the cells of a row, None where a cell has none."""
    names = ("token_accuracy", "exact_match", "alignment_accuracy", *extra_metrics)
    by_head = row.get("alignment_accuracy_by_head") or [None] * heads
    return [row.get(name) for name in names] + (by_head if heads > 1 else [])


def _written(value: float | None, deviation: float | None) -> str:
    measured = MeanSd(float("nan") if value is None else value, deviation or 0.0)
    return measured.written(4, in_full=deviation is not None)
