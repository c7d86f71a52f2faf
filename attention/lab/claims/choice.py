"""Claim: the choice of the score function matters."""

from collections.abc import Iterable
from pathlib import Path

from attention.lab.analysis.mean_sd import MeanSd
from attention.lab.claims import drawing
from attention.lab.claims.claim import Claim, Finding
from attention.lab.claims.results import DEPENDENCE, Result, Results
from attention.lab.claims.score_grid import (
    by_task,
    exact_match,
    greatest_length,
    lengths_told,
    scores,
)
from attention.lab.claims.size import STATIC, Size
from attention.lab.claims.tables import figure, table_of_runs
from attention.lab.claims.verdicts import BETTER, SOLVED, is_better, is_solved, verdict

STATIC_AT_MOST = 0.01  # query dependence of scores that ignore the query


def finding(results: Results, size: Size, figures: Path) -> Finding:
    """Whether the best score is better than the worst, task by task."""
    tasks, names = by_task(results, size), size.scores
    exact = exact_match(tasks, size)
    dependence = {
        task: {
            name: result.over_seeds(DEPENDENCE, greatest_length(task, size))
            for name, result in of_score.items()
        }
        for task, of_score in tasks.items()
    }
    matters = {task: _differ(values.values()) for task, values in exact.items()}
    asking = [name for name in names if name not in STATIC]
    among = {task: _differ([values[name] for name in asking]) for task, values in exact.items()}
    path = figures / "scores.png"
    means = [[exact[task][name].mean for name in names] for task in exact]
    drawing.heat_map(path, list(exact), names, means, title=f"exact match ({lengths_told(size)})")
    return Finding(
        f"{verdict(matters)}. Between scores that read the query: {verdict(among)}",
        [
            "A choice matters on a task where the best mean is better than the least mean"
            f" ({BETTER}). Exact match at the greatest length ({lengths_told(size)}):",
            _table(exact, tasks),
            figure(path, "exact match by task and score"),
            "Query dependence: of the queries of a sequence, the share that looks at another key"
            " than most do. Zero is static attention (arXiv 2105.14491).",
            _table(dependence, tasks),
            _about_static(exact, dependence),
            "A score that ignores the query gives every query the same context. What then tells"
            " steps apart must be elsewhere: on sort it is the state of a GRU decoder.",
        ],
    )


def _differ(values: Iterable[MeanSd]) -> bool:
    known = sorted((value for value in values if value.is_known), key=lambda value: value.mean)
    return len(known) > 1 and is_better(known[-1], known[0])


def _table(values: dict[str, dict[str, MeanSd]], tasks: dict[str, dict[str, Result]]) -> str:
    header = ["task", *next(iter(values.values()))]
    rows = [([task, *of_score.values()], tasks[task].values()) for task, of_score in values.items()]
    return table_of_runs(header, rows)


def _about_static(
    exact: dict[str, dict[str, MeanSd]], dependence: dict[str, dict[str, MeanSd]]
) -> str:
    """Whether scores that ignore the query look as if they did, and what they solve."""
    largest = {name: max(dependence[task][name].mean for task in exact) for name in STATIC}
    is_static = {name: value <= STATIC_AT_MOST for name, value in largest.items()}
    parallel = [task for task in exact if task != "sort"]  # sort has the state of its decoder
    solved = [
        f"{name} on {task}" for task in parallel for name in STATIC if is_solved(exact[task][name])
    ]
    told = (
        f"Yet solved (exact match of {SOLVED}): {', '.join(solved)}."
        if solved
        else f"None of them solves {', '.join(parallel)}, where a query a position must find its"
        " own key."
    )
    return (
        f"Static, at most {STATIC_AT_MOST} on every task, as they must be:"
        f" {verdict(is_static, 'of')}. {told}"
    )


CLAIM = Claim("The choice of the score function matters.", (scores,), finding)
