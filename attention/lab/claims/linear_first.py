"""Claim: try a linear score first, then a network."""

from pathlib import Path

from attention.lab.claims.claim import Claim, Finding
from attention.lab.claims.results import Results
from attention.lab.claims.score_grid import (
    by_kind_of_digits,
    by_task,
    digits,
    exact_match,
    scores,
)
from attention.lab.claims.size import Size
from attention.lab.claims.tables import table_of_runs
from attention.lab.claims.verdicts import BETTER, is_better, verdict

HEADER = (
    "task",
    "linear",
    "network",
    "its exact match",
    "s, linear",
    "s, network",
    "linear is enough",
)


def finding(results: Results, size: Size, figures: Path) -> Finding:
    """Whether a linear score is as good as a network, task by task."""
    tasks = by_task(results, size) | by_kind_of_digits(results, size)
    rows, suffices = [], {}
    for task, exact in exact_match(tasks, size).items():
        network = "mlp" if "mlp" in exact else "mlp_pooling"
        suffices[task] = not is_better(exact[network], exact["linear"])
        used = [tasks[task][name] for name in ("linear", network)]
        times = [f"{result.seconds:.1f}" for result in used]
        answer = "yes" if suffices[task] else "no"
        rows.append(([task, exact["linear"], network, exact[network], *times, answer], used))
    return Finding(
        verdict(suffices),
        [
            "The advice holds where linear is enough: where the network is not better"
            f" ({BETTER}). Both may fail."
            " Seconds are of the whole run, all seeds and compilation.",
            table_of_runs(HEADER, rows),
            "As a first try linear costs little. But it cannot be a step towards a network for a"
            " task in which queries must look at different keys: it ignores the query, and no"
            " training changes that. There the first thing to try is any score that reads it.",
        ],
    )


CLAIM = Claim("Try a linear score first, then a network.", (scores, digits), finding)
