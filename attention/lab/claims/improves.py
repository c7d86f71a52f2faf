"""Claim: attention improves on a uniform average of the inputs."""

from pathlib import Path

from attention.lab.claims.claim import Claim, Finding
from attention.lab.claims.results import Results
from attention.lab.claims.score_grid import (
    by_kind_of_digits,
    by_task,
    digits,
    exact_match,
    lengths_told,
    scores,
)
from attention.lab.claims.size import Size
from attention.lab.claims.tables import table_of_runs
from attention.lab.claims.verdicts import BETTER, is_better, verdict

SHOWN = ("uniform", "linear", "mlp_pooling", "mlp", "bilinear")


def finding(results: Results, size: Size, figures: Path) -> Finding:
    """Whether a network as score is better than a score of zero, task by task."""
    tasks = by_task(results, size) | by_kind_of_digits(results, size)
    rows, beats = [], {}
    for task, exact in exact_match(tasks, size).items():
        network = exact.get("mlp", exact["mlp_pooling"])
        beats[task] = is_better(network, exact["uniform"])
        linear = "yes" if is_better(exact["linear"], exact["uniform"]) else "no"
        cells = [task, *(exact.get(score, "") for score in SHOWN), linear]
        used = [result for score, result in tasks[task].items() if score in SHOWN]
        rows.append(([*cells, "yes" if beats[task] else "no"], used))
    return Finding(
        verdict(beats),
        [
            f"Exact match at the greatest length ({lengths_told(size)}); of the digits, accuracy."
            " The columns with a question mark say whether linear, and whether mlp (mlp_pooling on"
            f" digits), is better than uniform ({BETTER}). The verdict is that of the network.",
            table_of_runs(["exact match", *SHOWN, "linear?", "network?"], rows),
            "`uniform` has the same model and the same training, and a score of zero. Where one"
            " context serves the whole input, as on the digits, a network before the mean can"
            " do what a score would do; and where a recurrent decoder reads the mean, as on"
            " sort, the mean is a list of what is there.",
        ],
    )


CLAIM = Claim("Attention improves on a uniform average of the inputs.", (scores, digits), finding)
