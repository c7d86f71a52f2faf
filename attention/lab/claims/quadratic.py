"""Claim: scoring every pair makes the cost of attention quadratic in the length."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from attention.lab.analysis.mean_sd import MeanSd
from attention.lab.benchmarks.contenders import PICKED, PLAIN
from attention.lab.claims import drawing
from attention.lab.claims.cache import Cache
from attention.lab.claims.claim import Finding
from attention.lab.claims.cost import FORMS, Cost, code_of, exponents, kept, measured
from attention.lab.claims.results import Results
from attention.lab.claims.size import Size
from attention.lab.claims.tables import code, figure, table
from attention.lab.claims.verdicts import verdict

QUADRATIC = 1.5  # an exponent nearer to 2 than to 1
CONTENDERS = {PICKED: "this library", PLAIN: PLAIN}


@dataclass(frozen=True)
class CostClaim:
    """A claim that measurements test in the place of runs.

    Attributes:
      title: the sentence, in our words.
    """

    title: str

    def run(self, size: Size, cache: Cache, console: Console, *, refresh: bool) -> None:
        """Measures if nothing was measured yet; to `refresh`, also what other sources measured."""
        measured(_file(size, cache), size, refresh=refresh)

    def find(self, size: Size, cache: Cache, figures: Path) -> tuple[Finding | None, Results]:
        """What the measurements say, None if there are none; no results of runs."""
        rows = kept(_file(size, cache))
        return (None if rows is None else finding(rows, size, figures)), {}


def _file(size: Size, cache: Cache) -> Path:
    return cache.path / f"cost-{size.name}.json"


def finding(rows: list[Cost], size: Size, figures: Path) -> Finding:
    """Whether time and memory of this library grow faster than linearly, form by form."""
    lines, quadratic = [], {}
    panels: dict[str, dict[str, dict[int, MeanSd]]] = {form: {} for form in FORMS}
    for form in FORMS:
        for by, name in CONTENDERS.items():
            time, memory = (exponents(rows, form, by, what) for what in ("seconds", "bytes"))
            of_form = [row for row in rows if (row["form"], row["by"]) == (form, by)]
            timed = [row for row in of_form if row["seconds"]]
            longest = timed[-1]
            lines.append(
                [
                    *(form, name, f"{time:.2f}", f"{memory:.2f}", longest["length"]),
                    *(f"{longest['seconds'] * 1e3:.3g}", f"{longest['bytes'] / 1e6:.3g}"),
                    code(map(code_of, of_form)),
                ]
            )
            if by == PICKED:
                quadratic[f"the time of {form}"] = time > QUADRATIC
                quadratic[f"the memory of {form}"] = memory > QUADRATIC
            panels[form][name] = {row["length"]: MeanSd(row["seconds"]) for row in timed}
    path = figures / "cost.png"
    drawing.lines(path, panels, x="length", y="forward + backward (s)", log_y=True)
    header = ["form", "by", "time ~ n^", "memory ~ n^", "up to n", "ms there", "MB there", "code"]
    return Finding(
        verdict(quadratic, "for"),
        [
            f"Forward and backward, median of {size.cost_rounds} rounds; batch 1, one head of"
            " 64 features, as many queries as keys; KeyOnly is causal, a mean up to each position."
            " Exponents are"
            f" slopes over the longer half of the lengths; quadratic is more than {QUADRATIC}."
            " Memory is what the compiled program needs besides its inputs and results. Measured on"
            f" {rows[0].get('measured', 'a machine that was not noted')}.",
            table(header, lines),
            figure(path, "time by length"),
            "Every pair must be scored unless the score ignores the query; but not all pairs need"
            " be held at once. Where this library holds them, it is because they fit and that"
            " is faster.",
        ],
    )


CLAIM = CostClaim("Scoring every pair makes the cost of attention quadratic in the length.")
