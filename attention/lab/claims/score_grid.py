"""The experiments that compare scores, on tasks and on digits; several claims read them."""

from typing import Any

from attention.lab.analysis.mean_sd import MeanSd
from attention.lab.claims.experiments import Experiment, Grid, of_size
from attention.lab.claims.results import EXACT, Result, Results
from attention.lab.claims.size import STATIC, Size

DIGITS = {"none": "digits", "feedforward": "digits with a network on each patch"}

# In place of a decoder that knows where it has looked: a query for each position, and a GRU over
# the source that tells each position its distance from the end.
PARALLEL = {
    "model.decoder": "parallel",
    "model.mixer": "gru",
    "model.positions": "learned",
    "model.normalizer": "softmax",
    "model.embedding_std": 0.5,
}


def scores(size: Size) -> Grid:
    """Task × score. Each task at the greatest length that it is trained on."""
    return {
        (task, score): of_task(task, score, size) for task in size.tasks for score in size.scores
    }


def of_task(task: str, score: str, size: Size) -> Experiment:
    """A task by the config file of this name.

    Reverse is without its location: the score alone decides what differs between queries.
    """
    length = greatest_length(task, size)
    changes: dict[str, Any] = {"task.max_length": length, "eval.lengths": (length,)}
    return of_size(size, task, score, changes | (PARALLEL if task == "reverse" else {}))


def greatest_length(task: str, size: Size) -> int:
    """What a task of `scores` is trained up to."""
    return {"copy": 16, "lookup": 10, "recall": 4}.get(task, size.short)


def digits(size: Size) -> Grid:
    """Network on each patch or not × score; a picture is classified, so there is no query."""
    return {
        (mixer, score): of_size(size, "digits", score, {"model.mixer": mixer})
        for mixer in DIGITS
        for score in STATIC
    }


def by_task(results: Results, size: Size) -> dict[str, dict[str, Result]]:
    """The results of `scores` by task and score."""
    tasks: dict[str, dict[str, Result]] = {}
    for (task, score), experiment in scores(size).items():
        tasks.setdefault(task, {})[score] = results[experiment]
    return tasks


def by_kind_of_digits(results: Results, size: Size) -> dict[str, dict[str, Result]]:
    """The results of `digits` by kind, as the page names it, and score."""
    kinds: dict[str, dict[str, Result]] = {}
    for (mixer, score), experiment in digits(size).items():
        kinds.setdefault(DIGITS[mixer], {})[score] = results[experiment]
    return kinds


def exact_match(results: dict[str, dict[str, Result]], size: Size) -> dict[str, dict[str, MeanSd]]:
    """By task and score: exact match at the greatest length; of digits, accuracy."""
    lengths = {task: greatest_length(task, size) for task in size.tasks}
    return {
        task: {score: result.over_seeds(EXACT, lengths.get(task)) for score, result in row.items()}
        for task, row in results.items()
    }


def lengths_told(size: Size) -> str:
    """The greatest length of each task, in words."""
    return ", ".join(f"{task} {greatest_length(task, size)}" for task in size.tasks)
