"""Claim: what attention learned on short sequences, it does on long ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attention.lab.analysis.mean_sd import MeanSd
from attention.lab.claims import drawing
from attention.lab.claims.claim import Claim, Finding
from attention.lab.claims.experiments import Experiment, Grid, of_size
from attention.lab.claims.results import EXACT, TOKENS, Result, Results
from attention.lab.claims.size import QUICK, Size
from attention.lab.claims.tables import cell, figure, table_of_runs
from attention.lab.claims.verdicts import DEPENDS, FAILS, HOLDS, SOLVED, is_solved
from attention.lab.errors import UsageError

TASKS = ("copy", "reverse")
BAR = 256  # length at which sequences must be right from end to end
BUILT_IN = ("copy", "alibi")  # its bias −|t − i| is largest at the answer
WAYS: dict[str, dict[str, Any]] = {
    "sinusoidal": {"model.positions": "sinusoidal"},
    "rotary": {"model.positions": "rotary"},
    "relative": {"model.positions": "none", "model.bias": "relative"},
    # Of one head the slope would be 2⁻⁸, and 16 places make next to no difference.
    "alibi": {"model.positions": "none", "model.bias": "alibi", "model.heads": 8},
    "location, softmax": {"model.normalizer": "softmax"},
    "location, entmax15": {"model.normalizer": "entmax15"},
    "location, sparsemax": {"model.normalizer": "sparsemax"},
}
WAY_OF_LONG = "location, sparsemax"  # of `configs/long.py`


def generalisation(size: Size) -> Grid:
    """(Task, way to tell positions) × score; all trained up to 16."""
    return {
        ((task, way), score): _of_way(task, way, score, size)
        for task in TASKS
        for way in WAYS
        for score in size.way_scores
        if size.has_all_ways or not _can_wait(task, way, score)
    }


def _can_wait(task: str, way: str, score: str) -> bool:
    """Whether it is left to `--full`.

    So are what lies between two others, what takes a GRU, and a zero score without a bias that
    is worth its time.
    """
    is_between = way == "location, entmax15"
    takes_gru = task == "reverse" and not way.startswith("location")
    has_no_bias = score == "uniform" and way not in ("relative", "alibi", WAY_OF_LONG)
    return is_between or takes_gru or has_no_bias


def _of_way(task: str, way: str, score: str, size: Size) -> Experiment:
    """Reverse with a query for each position must know the length: a GRU tells it."""
    changes: dict[str, Any] = {
        "task.name": task,
        "eval.lengths": size.tested_lengths,
        "eval.sequences": size.long_sequences,
        "eval.batch_size": 64,
        **WAYS[way],
    }
    if way.startswith("location"):
        return of_size(size, "long", score, changes)
    changes["model.queries"] = "shared"
    if task == "reverse":
        changes |= {"model.mixer": "gru", "train.batch_size": 64, "train.steps": 2000}
    return of_size(size, "copy", score, changes)


def learned_positions() -> Experiment:
    """What is refused: lengths that learned positions do not have."""
    return of_size(QUICK, "copy", "mlp", {"eval.lengths": (32,)})


def finding(results: Results, size: Size, figures: Path) -> Finding:
    """Which ways to tell positions reach the bar, and which do so with a score of zero."""
    runs = {key: results[experiment] for key, experiment in generalisation(size).items()}
    solved, alone = _at_bar(runs, size)
    told = [f"{task}: {', '.join(ways) or 'none'}" for task, ways in solved.items()]
    told_alone = [f"{task}: {', '.join(ways) or 'none'}" for task, ways in alone.items()]
    path = figures / "lengths.png"
    drawing.lines(path, _panels(runs, size), x="length", y="tokens right")
    return Finding(
        f"{_of_ways(solved, runs)}. Reaches the bar on {'; on '.join(told)}",
        [
            f"The bar: exact match of {SOLVED} at {BAR} and {SOLVED} of the tokens at"
            f" {size.tested_lengths[-1]}, means over seeds. `uniform` is the same bias of positions"
            " with a score of zero, and does not count; nor does ALiBi on copy, for −|t − i| is"
            " largest at the answer.",
            *(part for task in TASKS for part in _of_task(task, runs, size)),
            figure(path, "tokens right by length"),
            f"With a score of zero the bar is reached on {'; on '.join(told_alone)}. There the"
            " positions do it, whatever the score.",
            f"Learned positions cannot be asked: “{_refusal()}”.",
            "One query serves all positions here, or two do (location), for no parameter may"
            " belong to a position. To reverse without location takes a GRU over the source, which"
            f" tells the length{'' if size.has_all_ways else '; that is left to `--full`'}.",
        ],
    )


Runs = Mapping[tuple[Any, Any], Result]


def _at_bar(runs: Runs, size: Size) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """By task, the ways that reach the bar: with a score, and with a score of zero."""
    solved: dict[str, list[str]] = {task: [] for task in TASKS}
    alone: dict[str, list[str]] = {task: [] for task in TASKS}
    for ((task, way), score), result in runs.items():
        values = (
            result.over_seeds(EXACT, BAR),
            result.over_seeds(TOKENS, size.tested_lengths[-1]),
        )
        if (task, way) == BUILT_IN or not all(map(is_solved, values)):
            continue
        if score == "uniform":
            alone[task].append(way)
        else:
            solved[task].append(f"{way} ({score})")
    return solved, alone


def _of_ways(solved: Mapping[str, list[str]], runs: Runs) -> str:
    tried = sum(score != "uniform" and key != BUILT_IN for key, score in runs)
    reached = sum(map(len, solved.values()))
    kind = HOLDS if reached == tried else FAILS if not reached else DEPENDS
    return f"{kind}: {reached} of {tried} ways"


def _of_task(task: str, runs: Runs, size: Size) -> list[str]:
    lengths = size.tested_lengths
    header = ["positions", "score", *(f"exact, {n}" for n in lengths)]
    rows = []
    for ((task_of_run, way), score), result in runs.items():
        if task_of_run == task:
            exact = [cell(result, EXACT, n) for n in lengths]
            built_in = "yes" if (task, way) == BUILT_IN else ""
            tokens = cell(result, TOKENS, lengths[-1])
            rows.append(([way, score, *exact, tokens, built_in], [result]))
    return [
        f"{task.capitalize()}, trained up to 16:",
        table_of_runs([*header, f"tokens, {lengths[-1]}", "built in"], rows),
    ]


def _panels(runs: Runs, size: Size) -> dict[str, dict[str, dict[int, MeanSd]]]:
    """The lines of a picture for each task: mlp is left out, and most scores of zero."""
    panels: dict[str, dict[str, dict[int, MeanSd]]] = {task: {} for task in TASKS}
    for ((task, way), score), result in runs.items():
        if score != "mlp" and (score != "uniform" or way == WAY_OF_LONG):
            points = {n: result.over_seeds(TOKENS, n) for n in size.tested_lengths}
            panels[task][f"{way}, {score}"] = points
    return panels


def _refusal() -> str:
    try:
        learned_positions().settings()
    except UsageError as error:
        return str(error)
    return "nothing was refused"


CLAIM = Claim(
    "What attention learned on short sequences, it does on long ones.", (generalisation,), finding
)
