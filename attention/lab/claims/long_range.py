"""Claim: attention escapes the long-range problem of RNN, GRU and LSTM."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attention.lab.analysis.mean_sd import MeanSd
from attention.lab.claims import drawing
from attention.lab.claims.claim import Claim, Finding
from attention.lab.claims.experiments import Experiment, Grid, of_size
from attention.lab.claims.results import EXACT, TOKENS, Results
from attention.lab.claims.size import Size
from attention.lab.claims.tables import cell, figure, table_of_runs
from attention.lab.claims.verdicts import BETTER, SOLVED, crossing, is_solved, verdict

CELLS = ("elman", "gru", "lstm")
ATTENDING = "gru + mlp attention"
KINDS = {name: (name, "none") for name in CELLS} | {ATTENDING: ("gru", "mlp")}


def recurrent(size: Size) -> Grid:
    """Model, without or with attention × length, each trained up to the length it is tested at."""
    return {
        (kind, length): _of_cell(name, score, length, size)
        for kind, (name, score) in KINDS.items()
        for length in size.recurrent_lengths
    }


def at_equal_time(results: Results, size: Size) -> list[Experiment]:
    """The models without attention, given as much time as the model that has it."""
    if not size.gives_equal_time:
        return []
    grid, length = recurrent(size), size.recurrent_lengths[-1]
    attending = results[grid[ATTENDING, length]]
    longer = []
    for name in CELLS:
        without = results[grid[name, length]]
        steps = round(without.steps * max(1.0, attending.seconds / max(without.seconds, 1e-9)))
        longer.append(_of_cell(name, "none", length, size, {"train.steps": steps}))
    return longer


def _of_cell(
    name: str, score: str, length: int, size: Size, changes: Mapping[str, Any] | None = None
) -> Experiment:
    """A recurrent encoder and decoder."""
    parts = {"model.decoder": name, "model.mixer": name}
    lengths = {"task.max_length": length, "eval.lengths": (length,)}
    return of_size(size, "copy_gru", score, {**parts, **lengths, **(changes or {})})


def finding(results: Results, size: Size, figures: Path) -> Finding:
    """From which length on a GRU with attention is better than cells without."""
    grid, lengths = recurrent(size), size.recurrent_lengths
    tokens = {
        kind: {n: results[grid[kind, n]].over_seeds(TOKENS, n) for n in lengths} for kind in KINDS
    }
    crossings = {name: crossing(tokens[ATTENDING], tokens[name]) for name in CELLS}
    path = figures / "recurrent.png"
    drawing.lines(path, {"copy": tokens}, x="length, trained up to it", y="tokens right")

    def table(show: Callable[[str, int], Any]) -> str:
        rows = [
            ([kind, *(show(kind, n) for n in lengths)], [results[grid[kind, n]] for n in lengths])
            for kind in KINDS
        ]
        return table_of_runs(["", *map(str, lengths)], rows)

    steps = dict.fromkeys(results[experiment].steps for experiment in grid.values())
    told = [
        f"{name} from length {n} on" if n else f"{name} at no length up to {lengths[-1]}"
        for name, n in crossings.items()
    ]
    return Finding(
        verdict({name: n is not None for name, n in crossings.items()}, "against"),
        [
            f"Copy; encoder and decoder are of the same cell, {', '.join(map(str, steps))} updates"
            " each. Tokens right at length n, of models trained up to n:",
            table(lambda kind, n: tokens[kind][n]),
            figure(path, "tokens right by length"),
            f"Where a GRU with attention is better than a cell without ({BETTER}), from there up to"
            f" the greatest length: {'; '.join(told)}.{_learned_too_little(tokens, lengths[0])}",
            "Exact match:",
            table(lambda kind, n: cell(results[grid[kind, n]], EXACT, n)),
            "Seconds of each run, all seeds, compilation and evaluation included:",
            table(lambda kind, n: f"{results[grid[kind, n]].seconds:.0f}"),
            *_equal_time(results, size),
            "Without attention all that the decoder knows of the source is one vector, whatever"
            " the length. The mean of the memory is part of it.",
        ],
    )


def _learned_too_little(tokens: Mapping[str, Mapping[int, MeanSd]], shortest: int) -> str:
    if any(is_solved(tokens[name][shortest]) for name in CELLS):
        return ""
    return (
        f" Without attention no model solves even length {shortest} ({SOLVED} of the tokens), so"
        " the difference is also one of how fast they learn."
    )


def _equal_time(results: Results, size: Size) -> list[str]:
    longer = at_equal_time(results, size)
    if not longer:
        return ["Equal time was not run; `--full` does."]
    length = size.recurrent_lengths[-1]
    attending = results[recurrent(size)[ATTENDING, length]]
    rows = [([ATTENDING, "", attending.over_seeds(TOKENS, length)], [attending])]
    for name, experiment in zip(CELLS, longer, strict=True):
        result = results[experiment]
        rows.append(([name, result.steps, result.over_seeds(TOKENS, length)], [result]))
    return [
        f"Tokens right at length {length} with as many updates as the time of the attention"
        " model allows:",
        table_of_runs(["", "updates", "tokens right"], rows),
    ]


CLAIM = Claim(
    "Attention escapes the long-range problem of RNN, GRU and LSTM.",
    (recurrent,),
    finding,
    more=at_equal_time,
)
