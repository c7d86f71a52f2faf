"""What a sweep found: a row a trial, ranks over seeds, plots."""

import csv
import importlib.util
import io
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from attention.lab.runs.files import write_atomically
from attention.lab.sweeps.folder import Result, result_of
from attention.lab.sweeps.plots import Curves, Outcome, plot_curves, plot_fields
from attention.lab.sweeps.trials import Trial

METRICS = ("exact_match", "token_accuracy", "alignment_accuracy")

Row = tuple[Trial, Result | None]


def report(folder: Path, trials: Sequence[Trial], console: Console) -> None:
    """Writes results.csv and the plots, and prints the ranks."""
    rows = [(trial, result_of(folder, trial)) for trial in trials]
    write_atomically(folder / "results.csv", results_csv(rows))
    console.print(ranks(rows))
    console.print(
        "ranked by test exact match, then token accuracy, of mixed lengths: confirm a choice"
        " made here on fresh seeds",
        soft_wrap=True,
    )
    for trial, result in rows:
        if result and result["status"] == "failed":
            told = f"failed: {trial.configuration} seed={trial.overrides['seed']}"
            console.print(f"{told}: {result['reason']}", soft_wrap=True, highlight=False)
    written = "results.csv"
    if importlib.util.find_spec("matplotlib"):
        plot_curves(curves(folder, rows), folder / "curves.png")
        written += ", curves.png"
        if len({json.dumps(fields) for fields, _ in outcomes(rows)}) > 1:
            plot_fields(outcomes(rows), folder / "fields.png")
            written += ", fields.png"
    else:
        console.print("nothing is drawn: matplotlib is in the extra `bench`")
    console.print(f"in {folder}: {written}", soft_wrap=True)
    done = next((result for _, result in rows if result and result["status"] == "done"), None)
    if done:
        run = folder / done["group"]
        console.print(
            f"next: python eval.py --workdir {run} --replica {done['replica']}",
            soft_wrap=True,
            highlight=False,
        )


def results_csv(rows: Sequence[Row]) -> str:
    """A row a trial: its id, overrides, status, metrics, and where it lies."""
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
    """What differs in nothing but the seed."""
    found: dict[str, list[Row]] = {}
    for trial, result in rows:
        found.setdefault(trial.configuration, []).append((trial, result))
    return found


def ranks(rows: Sequence[Row]) -> Table:
    """A row a configuration, the best first; what has no result comes last."""
    fields = [name for name in rows[0][0].overrides if name != "seed"]
    table = Table(title="test, mean ± sd over seeds", title_justify="left")
    for name in fields:
        table.add_column(name.rpartition(".")[2])
    for column in ("seeds", "exact match", "at longest", "token accuracy", "alignment"):
        table.add_column(column, justify="right", no_wrap=True)
    ranked = sorted(map(_ranked, by_configuration(rows).values()), key=lambda r: r[0], reverse=True)
    for _, overrides, cells in ranked:
        table.add_row(*(str(overrides[name]) for name in fields), *cells)
    return table


def _ranked(trials: Sequence[Row]) -> tuple[tuple[float, ...], dict[str, Any], list[str]]:
    """Of a configuration: what it is ranked by, its overrides, and the cells of its results."""
    tests = [result["test"] for _, result in trials if result and result["status"] == "done"]
    values = {metric: _known(test["all"][metric] for test in tests) for metric in METRICS}
    longest = max((int(length) for test in tests for length in test["by_length"]), default=0)
    at_longest = _known(
        test["by_length"].get(str(longest), {}).get("exact_match") for test in tests
    )
    rank = tuple(statistics.mean(values[m]) if values[m] else -1.0 for m in METRICS[:2])
    count = str(len(tests)) if len(tests) == len(trials) else f"{len(tests)} of {len(trials)}"
    exact, tokens, alignment = (_spread(values[metric]) for metric in METRICS)
    return rank, trials[0][0].overrides, [count, exact, _spread(at_longest), tokens, alignment]


def _known(values: Any) -> list[float]:
    return [value for value in values if value is not None]


def _spread(values: Sequence[float]) -> str:
    """`mean ± sd`, the mean alone of a single value, — of none."""
    if not values:
        return "—"
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"


def outcomes(rows: Sequence[Row]) -> list[Outcome]:
    """Of each configuration its overrides and its mean exact match, None without a result."""
    found: list[Outcome] = []
    for trials in by_configuration(rows).values():
        done = [result for _, result in trials if result and result["status"] == "done"]
        values = _known(result["test"]["all"]["exact_match"] for result in done)
        fields = {name: v for name, v in trials[0][0].overrides.items() if name != "seed"}
        found.append((fields, statistics.mean(values) if values else None))
    return found


def curves(folder: Path, rows: Sequence[Row]) -> Curves:
    """Of each configuration, at each step, the validation exact match of its seeds."""
    found: Curves = {}
    lines: dict[str, dict[int, list[dict]]] = {}
    for name, trials in by_configuration(rows).items():
        found[name] = {}
        for _, result in trials:
            if result is None:
                continue
            group = result["group"]
            if group not in lines:
                lines[group] = _validations(folder / group)
            for line in lines[group].get(result["replica"], []):
                if line["exact_match"] is not None:
                    found[name].setdefault(line["step"], []).append(line["exact_match"])
    return found


def _validations(run: Path) -> dict[int, list[dict]]:
    """The lines about validation in a run's log, by replica."""
    found: dict[int, list[dict]] = {}
    log = run / "metrics.jsonl"
    for text in log.read_text().splitlines() if log.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            break  # the last line of a killed run
        if line["kind"] == "validation":
            found.setdefault(line.get("replica", 0), []).append(line)
    return found
