"""Claim: attention makes recurrence unnecessary."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attention.lab.claims.claim import Claim, Finding
from attention.lab.claims.experiments import Experiment, Grid, of_size
from attention.lab.claims.results import EXACT, Results
from attention.lab.claims.score_grid import PARALLEL, of_task
from attention.lab.claims.size import Size
from attention.lab.claims.tables import table_of_runs
from attention.lab.claims.verdicts import BETTER, SOLVED, is_better, is_solved, verdict

PLACES = {
    "none": "nowhere",
    "encoder": "GRU encoder",
    "decoder": "GRU decoder",
    "weights": "weights fed back",
}


def places(size: Size) -> Grid:
    """Task × where recurrence is, with the bilinear score."""
    length = {"task.max_length": size.short, "eval.lengths": (size.short,)}

    def of(config: str, changes: Mapping[str, Any]) -> Experiment:
        return of_size(size, config, "bilinear", {**length, **changes})

    bare = {**PARALLEL, "model.mixer": "none"}
    return {
        ("sort", "none"): of("sort", {"model.decoder": "parallel"}),
        ("sort", "encoder"): of("sort", {"model.decoder": "parallel", "model.mixer": "gru"}),
        ("sort", "decoder"): of_task("sort", "bilinear", size),
        ("reverse", "none"): of("reverse", bare),
        ("reverse", "encoder"): of("reverse", PARALLEL),
        ("reverse", "weights"): of("reverse", {}),
        ("duplicate", "none"): of("duplicate", bare),
        ("duplicate", "encoder"): of("duplicate", PARALLEL),
        ("duplicate", "weights"): of("duplicate", {}),
    }


def finding(results: Results, size: Size, figures: Path) -> Finding:
    """Whether models without recurrence solve tasks in which the order or the length matters."""
    runs = {key: results[experiment] for key, experiment in places(size).items()}
    exact = {key: result.over_seeds(EXACT, size.short) for key, result in runs.items()}
    tasks = list(dict.fromkeys(task for task, _ in runs))
    rows = [
        (
            [task, *(exact.get((task, place), "") for place in PLACES)],
            [result for (of_task, _), result in runs.items() if of_task == task],
        )
        for task in tasks
    ]
    without = {task: is_solved(exact[task, "none"]) for task in tasks}
    helped = [
        f"{task} ({PLACES[place]})"
        for (task, place), value in exact.items()
        if place != "none" and is_better(value, exact[task, "none"])
    ]
    solved = [
        f"{task} ({PLACES[place]})" for (task, place), value in exact.items() if is_solved(value)
    ]
    return Finding(
        verdict(without),
        [
            "Where recurrence is in the model; bilinear score. “Weights fed back” is the"
            " location-aware decoder: no cell, but where it looks depends on where it has looked."
            f" Exact match at length {size.short}; the verdict is of the first column, at"
            f" {SOLVED}.",
            table_of_runs(["task", *PLACES.values()], rows),
            f"Better with recurrence ({BETTER}): {', '.join(helped) or 'none'}. Solved:"
            f" {', '.join(solved) or 'none'}.",
            "Sort asks for the least symbol above the one before: what came before has to be"
            " known. Reverse and duplicate ask where the end is: the length has to be known, and"
            " a score compares two positions at a time. This says what one layer of attention"
            " does; more layers were not tried.",
        ],
    )


CLAIM = Claim("Attention makes recurrence unnecessary.", (places,), finding)
