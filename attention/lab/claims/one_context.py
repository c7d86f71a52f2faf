"""Claim: a sequence can be reconstructed from one context for all of it."""

from collections.abc import Mapping
from pathlib import Path

from attention.lab.claims import drawing
from attention.lab.claims.claim import Claim, Finding
from attention.lab.claims.experiments import Grid, of_size
from attention.lab.claims.results import EXACT, Results
from attention.lab.claims.size import Size
from attention.lab.claims.tables import figure, table_of_runs
from attention.lab.claims.verdicts import DEPENDS, FAILS, HOLDS, SOLVED, is_solved, reach

SOFTMAXES = {1: "one softmax", 256: "one softmax a feature"}  # by the number of heads


def pooled(size: Size) -> Grid:
    """Softmaxes × length, each trained up to the length it is tested at.

    What a context can hold is asked of all sequences, also of those that were trained on: of two
    symbols, that is every one.
    """
    tested = {"eval.leave_out_trained": False}
    return {
        (heads, length): of_size(
            size,
            "pooled",
            "linear",
            {"model.heads": heads, "task.max_length": length, "eval.lengths": (length,)} | tested,
        )
        for heads in SOFTMAXES
        for length in size.pooled_lengths
    }


def finding(results: Results, size: Size, figures: Path) -> Finding:
    """Up to which length copies from one context are exact."""
    lengths = size.pooled_lengths
    runs = {
        name: {n: results[pooled(size)[heads, n]] for n in lengths}
        for heads, name in SOFTMAXES.items()
    }
    exact = {
        name: {n: result.over_seeds(EXACT, n) for n, result in of_length.items()}
        for name, of_length in runs.items()
    }
    path = figures / "pooled.png"
    drawing.lines(path, {"copy": exact}, x="length, trained up to it", y="exact match")
    reached = {name: reach(values) for name, values in exact.items()}
    cases = {
        f"length {n} with {name}": is_solved(value)
        for name, values in exact.items()
        for n, value in values.items()
    }
    told = "; ".join(f"{name} to {n}" if n else f"{name}: no" for name, n in reached.items())
    rows = [([name, *values.values()], runs[name].values()) for name, values in exact.items()]
    return Finding(
        f"{_all_or_some(cases)}; solved up to the length: {told}",
        [
            "Copy by a linear decoder that reads one context, of 256 features. Exact match at"
            f" length n, of models trained up to n; solved is a mean of {SOLVED}.",
            table_of_runs(["", *map(str, lengths)], rows),
            figure(path, "exact match by length"),
            "One softmax has one weighted mean to say everything with. A softmax a feature lets"
            " each feature come from a place of its own, so the context is as many small ones.",
        ],
    )


def _all_or_some(cases: Mapping[str, bool]) -> str:
    return HOLDS if all(cases.values()) else DEPENDS if any(cases.values()) else FAILS


CLAIM = Claim("A sequence can be reconstructed from one context for all of it.", (pooled,), finding)
