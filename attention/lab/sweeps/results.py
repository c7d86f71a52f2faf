"""What a sweep found: a row for each trial, ranks over seeds, plots."""

import csv
import importlib.util
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from attention.lab.analysis.mean_sd import UNKNOWN, MeanSd, mean_sd
from attention.lab.analysis.naming import ACCURACY, EXACT, HEADINGS
from attention.lab.repository import command
from attention.lab.runs.files import write_atomically
from attention.lab.runs.log import Line, read_lines
from attention.lab.runs.tables import Column, print_prose, print_table
from attention.lab.settings import task_of
from attention.lab.sweeps.folder import Result, result_of
from attention.lab.sweeps.plots import Curves, Outcome, plot_curves, plot_fields
from attention.lab.sweeps.trials import Trial

METRICS = ("exact_match", "token_accuracy", "alignment_accuracy")

Row = tuple[Trial, Result | None]


def report(folder: Path, trials: Sequence[Trial], console: Console) -> None:
    """Writes results.csv and the plots, and prints the ranks."""
    rows = [(trial, result_of(folder, trial)) for trial in trials]
    write_atomically(folder / "results.csv", results_csv(rows))
    print_ranks(rows, console)
    then = "" if are_classified(rows) else ", then token accuracy, of mixed lengths"
    print_prose(
        console,
        f"ranked by test {accuracy_of(rows)}{then}: confirm a choice made here on fresh seeds",
    )
    for failure in failures(rows):
        console.print(f"failed: {failure}", soft_wrap=True, highlight=False)
    files = ["results.csv"]
    if importlib.util.find_spec("matplotlib"):
        files += _draw(folder, rows)
    else:
        console.print("nothing is drawn: matplotlib is in the extra `figures`")
    console.print(f"in {folder}: {', '.join(files)}", soft_wrap=True)
    if done := best(rows):
        run = folder / done["group"]
        console.print(
            f"next, for the best: {command('eval')} --workdir {run} --replica {done['replica']}",
            soft_wrap=True,
            highlight=False,
        )


def failures(rows: Sequence[Row]) -> list[str]:
    """A sentence for each cause of failures, with the configurations and seeds that have it."""
    causes: dict[str, list[Row]] = {}
    for trial, result in rows:
        if result and result["status"] == "failed":
            causes.setdefault(result["reason"], []).append((trial, result))
    return [f"{_who(failed)}: {reason}{_when(failed)}" for reason, failed in causes.items()]


def _who(rows: Sequence[Row]) -> str:
    told = []
    for configuration, trials in by_configuration(rows).items():
        seeds = [str(trial.overrides["seed"]) for trial, _ in trials]
        told.append(f"{configuration}, seed{'s' if seeds[1:] else ''} {', '.join(seeds)}")
    return "; ".join(told)


def _when(rows: Sequence[Row]) -> str:
    steps = sorted({result["step"] for _, result in rows if result and "step" in result})
    return f", at step {' or '.join(map(str, steps))}" if steps else ""


def _draw(folder: Path, rows: Sequence[Row]) -> list[str]:
    """Draws the plots that the rows allow, and returns the names of their files."""
    plot_curves(curves(folder, rows), folder / "curves.png", accuracy_of(rows))
    if len({json.dumps(fields) for fields, _ in outcomes(rows)}) == 1:
        return ["curves.png"]
    plot_fields(outcomes(rows), folder / "fields.png", accuracy_of(rows))
    return ["curves.png", "fields.png"]


def results_csv(rows: Sequence[Row]) -> str:
    """A row for each trial: its id, overrides, status, metrics, and where its run lies."""
    table = []
    for trial, result in rows:
        result = result or {"status": "not trained"}
        cells: dict[str, Any] = {"id": trial.id, **trial.overrides, "status": result["status"]}
        cells["step"] = result.get("step")
        if "test" in result:
            cells |= {name: result["test"]["all"].get(name) for name in METRICS}
            for length, metrics in result["test"]["by_length"].items():
                cells[f"exact_match at length {length}"] = metrics["exact_match"]
        cells |= {"group": result.get("group"), "replica": result.get("replica")}
        table.append(cells)
    columns = list(dict.fromkeys(name for cells in table for name in cells))
    written = io.StringIO()
    writer = csv.DictWriter(written, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return written.getvalue()


def by_configuration(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each configuration: its trials differ in nothing but their seed."""
    configurations: dict[str, list[Row]] = {}
    for trial, result in rows:
        configurations.setdefault(trial.configuration, []).append((trial, result))
    return configurations


def are_classified(rows: Sequence[Row]) -> bool:
    """Whether all trials classify: then exact match and token accuracy are one accuracy."""
    return all(task_of(trial.settings).classifier for trial, _ in rows)


def accuracy_of(rows: Sequence[Row]) -> str:
    """What people call the exact match of the trials."""
    return HEADINGS[ACCURACY if are_classified(rows) else EXACT]


def print_ranks(rows: Sequence[Row], console: Console) -> None:
    """Prints a row for each configuration, the best first; those without a result come last."""
    fields = [name for name in rows[0][0].overrides if name != "seed"]
    ranked = sorted(map(_ranked, by_configuration(rows).values()), key=lambda r: r[0], reverse=True)
    swept = [
        Column(
            name.rpartition(".")[2], [str(overrides[name]) for _, overrides, _ in ranked], "left"
        )
        for name in fields
    ]
    columns = ["seeds", accuracy_of(rows), "at longest", "token accuracy", "alignment"]
    hidden = {"token accuracy", "at longest"} if are_classified(rows) else set()
    if all(cells[-1] == UNKNOWN for _, _, cells in ranked):
        hidden.add("alignment")
    measured = [
        Column(column, [cells[number] for _, _, cells in ranked])
        for number, column in enumerate(columns)
        if column not in hidden
    ]
    title = "test, mean ± sd over seeds"
    # A sweep of seeds alone has a single row, and nothing that sets it apart.
    print_table(console, title, swept or measured[:1], measured if swept else measured[1:])


def best(rows: Sequence[Row]) -> Result | None:
    """The first result of the configuration that ranks first; None while there is no result."""
    ranked = max(by_configuration(rows).values(), key=lambda trials: _ranked(trials)[0])
    return next((result for _, result in ranked if _is_done(result)), None)


def _ranked(rows: Sequence[Row]) -> tuple[tuple[float, ...], dict[str, Any], list[str]]:
    """What a configuration is ranked by, its overrides, and the cells of its results."""
    tests = _tests(rows)
    spreads = {metric: mean_sd(test["all"][metric] for test in tests) for metric in METRICS}
    longest = max((int(length) for test in tests for length in test["by_length"]), default=0)
    at_longest = mean_sd(
        test["by_length"].get(str(longest), {}).get("exact_match") for test in tests
    )
    rank = tuple(_mean(spreads[metric], unknown=-1.0) for metric in METRICS[:2])
    count = str(len(tests)) if len(tests) == len(rows) else f"{len(tests)} of {len(rows)}"
    exact, tokens, alignment = (str(spreads[metric]) for metric in METRICS)
    return rank, rows[0][0].overrides, [count, exact, str(at_longest), tokens, alignment]


def outcomes(rows: Sequence[Row]) -> list[Outcome]:
    """The overrides of each configuration and its mean exact match, None without a result."""
    listed: list[Outcome] = []
    for trials in by_configuration(rows).values():
        exact = mean_sd(test["all"]["exact_match"] for test in _tests(trials))
        fields = {name: v for name, v in trials[0][0].overrides.items() if name != "seed"}
        listed.append((fields, _mean(exact, unknown=None)))
    return listed


def _tests(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The test reports of the trials that are done."""
    return [result["test"] for _, result in rows if result and _is_done(result)]


def _is_done(result: Result | None) -> bool:
    return result is not None and result["status"] == "done"


def _mean(spread: MeanSd, unknown: Any) -> Any:
    return spread.mean if spread.is_known else unknown


def curves(folder: Path, rows: Sequence[Row]) -> Curves:
    """The validation exact match of every seed of each configuration, at each step."""
    by_name: Curves = {}
    of_groups: dict[str, dict[int, list[Line]]] = {}
    for name, trials in by_configuration(rows).items():
        by_name[name] = {}
        for _, result in trials:
            if result is None:
                continue
            group = result["group"]
            if group not in of_groups:
                of_groups[group] = _validations(folder / group)
            for line in of_groups[group].get(result["replica"], []):
                if line["exact_match"] is not None:
                    by_name[name].setdefault(line["step"], []).append(line["exact_match"])
    return by_name


def _validations(run: Path) -> dict[int, list[Line]]:
    """The lines about validation in a run's log, by replica."""
    by_replica: dict[int, list[Line]] = {}
    for line in read_lines(run):
        if line["kind"] == "validation":
            by_replica.setdefault(line.get("replica", 0), []).append(line)
    return by_replica
