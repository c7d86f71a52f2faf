"""Claim: attention does on long sequences what it learned on short ones, as others measure it."""

from pathlib import Path

from attention.lab.analysis.mean_sd import MeanSd, mean_sd
from attention.lab.claims import drawing
from attention.lab.claims.claim import Claim, Finding
from attention.lab.claims.experiments import Grid, of_size
from attention.lab.claims.results import TOKENS, Results
from attention.lab.claims.size import Size
from attention.lab.claims.tables import figure, table_of_runs
from attention.lab.claims.verdicts import SOLVED, is_better, is_solved, verdict

PUBLISHED = {"reverse": 0.623, "duplicate": 0.528}  # arXiv 2207.02098, its best transformer


def protocol(size: Size) -> Grid:
    """Task × score, by the protocol of arXiv 2207.02098."""
    return {
        (task, score): of_size(
            size,
            "strings",
            score,
            {
                "task.name": task,
                "eval.lengths": size.published_lengths,
                "eval.sequences": size.long_sequences,
            },
        )
        for task in PUBLISHED
        for score in size.published_scores
    }


def finding(results: Results, size: Size, figures: Path) -> Finding:
    """Whether the mean over longer lengths is better than published, and whether it is solved."""
    lengths = size.published_lengths
    rows, above, at_bar, unlearned = [], {}, {}, []
    panels: dict[str, dict[str, dict[int, MeanSd]]] = {task: {} for task in PUBLISHED}
    for (task, score), experiment in protocol(size).items():
        result, best, name = results[experiment], PUBLISHED[task], f"{task} ({score})"
        by_replica = zip(*(result.values(TOKENS, n) for n in lengths), strict=True)
        beyond = mean_sd(sum(values) / len(lengths) for values in by_replica)
        trained = result.over_seeds(TOKENS)
        rows.append(([task, score, trained, beyond, f"{best:.3f}"], [result]))
        panels[task][score] = {n: result.over_seeds(TOKENS, n) for n in lengths}
        if not is_solved(trained):
            unlearned.append(name)
        if score != "uniform":
            above[name] = is_better(beyond, MeanSd(best))
            at_bar[name] = is_solved(beyond)
    path = figures / "published.png"
    drawing.lines(path, panels, x="length", y="tokens right")
    return Finding(
        f"Better than the published best: {verdict(above)}. Solved: {verdict(at_bar)}",
        [
            "Trained on lengths up to 40 of two symbols, short ones more often (log-uniform),"
            " location-aware decoder with sparsemax."
            f" Tokens right: on trained lengths, and the mean over the lengths"
            f" {', '.join(map(str, lengths))}; beside it the best transformer of Delétang et al."
            " (arXiv 2207.02098).",
            table_of_runs(["task", "score", "up to 40", "beyond", "published"], rows),
            figure(path, "tokens right by length"),
            "Not solved on the lengths of training either, so that nothing is shown of longer ones:"
            f" {', '.join(unlearned) or 'none'}.",
            f"Solved is a mean of {SOLVED}. Their protocol differs: there every length from 41 to"
            " 500 is tested, `END` is not counted, each setting is the best of ten seeds, and"
            " models are trained for far longer. Half of the tokens are right by guessing.",
        ],
    )


CLAIM = Claim("So it does by a published protocol.", (protocol,), finding)
