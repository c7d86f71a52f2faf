"""The claims of `claims.py`: what each needs to be run, and what it makes of the results.

All that is said about numbers is computed from them; what is written here stays true whatever
they are.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention.lab.claims import cost as costing
from attention.lab.claims import drawing as drawing
from attention.lab.claims import grids as grids
from attention.lab.claims.experiments import Experiment, Result, Spread, spread
from attention.lab.claims.verdicts import (
    BETTER,
    DEPENDS,
    FAILS,
    HOLDS,
    SOLVED,
    STATIC_AT_MOST,
    crossing,
    is_better,
    is_solved,
    reach,
    verdict,
)
from attention.lab.errors import UsageError

EXACT, TOKENS, DEPENDENCE = "exact_match", "token_accuracy", "query_dependence"
DIGITS = {"none": "digits", "feedforward": "digits with a network on each patch"}

Results = Mapping[Experiment, Result]


@dataclass(frozen=True)
class Finding:
    """What a claim comes to.

    Attributes:
      verdict: computed, in a line.
      evidence: paragraphs and tables, in Markdown.
    """

    verdict: str
    evidence: Sequence[str]


@dataclass(frozen=True)
class Claim:
    """A sentence to test.

    Attributes:
      title: the sentence, in our words.
      grids: what it needs to be run.
      finding: from the results of all that was run, `full`, and where figures are drawn.
      more: what must be run besides, once the grids have results.
      needs_cost: whether it needs what `claims_cost` measures, in place of results.
    """

    title: str
    grids: Sequence[Callable[[bool], grids.Grid]]
    finding: Callable[[Any, bool, Path], Finding]
    more: Callable[[Results, bool], list[Experiment]] | None = None
    needs_cost: bool = False

    def experiments(self, full: bool) -> list[Experiment]:
        return [each for grid in self.grids for each in grid(full).values()]


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def cell(result: Result, metric: str, length: int | None = None) -> str:
    failed = f" ({result.failed} failed)" if result.failed else ""
    return f"{result.spread(metric, length)}{failed}"


def figure(path: Path, told: str) -> str:
    return f"![{told}]({path.parent.name}/{path.name})"


# 1, 2, 3: scores.


def improves(results: Results, full: bool, figures: Path) -> Finding:
    exact = _exact_by_task(results, full)
    rows, beats = [], {}
    for task, of in exact.items():
        network = of.get("mlp", of.get("mlp_pooling"))
        assert network is not None
        beats[task] = is_better(network, of["uniform"])
        named = [of.get(score, "") for score in ("uniform", "linear", "mlp_pooling", "mlp")]
        linear = "yes" if is_better(of["linear"], of["uniform"]) else "no"
        rows.append([task, *named, of.get("bilinear", ""), linear, "yes" if beats[task] else "no"])
    header = ["exact match", "uniform", "linear", "mlp_pooling", "mlp", "bilinear"]
    return Finding(
        verdict(beats),
        [
            f"Exact match at the greatest length ({_sizes(full)}); of the digits, accuracy. The"
            " last two columns say whether linear, and whether mlp (mlp_pooling on digits), is"
            f" better than uniform ({BETTER}). The verdict is the last column.",
            table([*header, "linear?", "network?"], rows),
            "`uniform` has the same model and the same training, and a score of zero. Where one"
            " context serves the whole input, as on the digits, a network before the mean can"
            " do what a score would do; and where a recurrent decoder reads the mean, as on"
            " sort, the mean is a list of what is there.",
        ],
    )


def matters(results: Results, full: bool, figures: Path) -> Finding:
    grid = grids.scores(full)
    exact, names = _exact_by_task(results, full, digits=False), grids.SCORES[full]
    dependence = {
        key: results[each].spread(DEPENDENCE, grids.greatest_length(key[0], full))
        for key, each in grid.items()
    }
    spans = {task: _differ(list(of.values())) for task, of in exact.items()}
    asking = [name for name in names if name not in grids.STATIC]
    among = {task: _differ([of[name] for name in asking]) for task, of in exact.items()}
    parallel = [task for task in exact if task != "sort"]
    solved_by = [
        f"{name} on {task}"
        for task in parallel
        for name in grids.STATIC
        if is_solved(exact[task][name])
    ]
    static = {name: max(dependence[task, name].mean for task in exact) for name in grids.STATIC}
    is_static = {name: value <= STATIC_AT_MOST for name, value in static.items()}
    values = [[exact[task][name].mean for name in names] for task in exact]
    path = figures / "scores.png"
    drawing.heat_map(path, list(exact), names, values, title=f"exact match ({_sizes(full)})")
    return Finding(
        f"{verdict(spans)}. Between scores that read the query: {verdict(among)}",
        [
            "A choice matters on a task where the best mean is better than the least mean"
            f" ({BETTER}). Exact match at the greatest length ({_sizes(full)}):",
            table(
                ["task", *names],
                [[task, *(of[name] for name in names)] for task, of in exact.items()],
            ),
            figure(path, "exact match by task and score"),
            "Query dependence: of the queries of a sequence, the share that looks at another key"
            " than most do. Zero is static attention (arXiv 2105.14491).",
            table(
                ["task", *names],
                [[task, *(dependence[task, name] for name in names)] for task in exact],
            ),
            f"Static, at most {STATIC_AT_MOST} on every task, as they must be: "
            f"{verdict(is_static, 'of')}. "
            + (
                f"Yet solved (exact match of {SOLVED}): {', '.join(solved_by)}."
                if solved_by
                else f"None of them solves {', '.join(parallel)}, where a query a position must"
                " find its own key."
            ),
            "A score that ignores the query gives every query the same context. What then tells"
            " steps apart must be elsewhere: on sort it is the state of a GRU decoder.",
        ],
    )


def linear_first(results: Results, full: bool, figures: Path) -> Finding:
    exact = _exact_by_task(results, full)
    seconds = _seconds_by_task(results, full)
    rows, suffices = [], {}
    for task, of in exact.items():
        network = "mlp" if "mlp" in of else "mlp_pooling"
        suffices[task] = not is_better(of[network], of["linear"])
        times = [f"{seconds[task][name]:.1f}" for name in ("linear", network)]
        answer = "yes" if suffices[task] else "no"
        rows.append([task, of["linear"], network, of[network], *times, answer])
    header = [
        "task",
        "linear",
        "network",
        "its exact match",
        "s, linear",
        "s, network",
        "linear is enough",
    ]
    return Finding(
        verdict(suffices),
        [
            "The advice holds where linear is enough: where the network is not better"
            f" ({BETTER}). Both may fail."
            " Seconds are of the whole run, all seeds and compilation.",
            table(header, rows),
            "As a first try linear costs little. But it cannot be a step towards a network for a"
            " task in which queries must look at different keys: it ignores the query, and no"
            " training changes that. There the first thing to try is any score that reads it.",
        ],
    )


def _exact_by_task(
    results: Results, full: bool, *, digits: bool = True
) -> dict[str, dict[str, Spread]]:
    found: dict[str, dict[str, Spread]] = {}
    for (task, score), each in grids.scores(full).items():
        length = grids.greatest_length(task, full)
        found.setdefault(task, {})[score] = results[each].spread(EXACT, length)
    for (mixer, score), each in grids.digits(full).items() if digits else ():
        found.setdefault(DIGITS[mixer], {})[score] = results[each].spread(EXACT)
    return found


def _seconds_by_task(results: Results, full: bool) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for (task, score), each in grids.scores(full).items():
        found.setdefault(task, {})[score] = results[each].seconds
    for (mixer, score), each in grids.digits(full).items():
        found.setdefault(DIGITS[mixer], {})[score] = results[each].seconds
    return found


def _differ(spreads: list[Spread]) -> bool:
    known = sorted((s for s in spreads if s.mean == s.mean), key=lambda s: s.mean)
    return len(known) > 1 and is_better(known[-1], known[0])


def _sizes(full: bool) -> str:
    tasks = dict.fromkeys(task for task, _ in grids.scores(full))
    return ", ".join(f"{task} {grids.greatest_length(task, full)}" for task in tasks)


# 4: recurrence without attention.

ATTENDING = "gru + mlp attention"


def escapes(results: Results, full: bool, figures: Path) -> Finding:
    grid = grids.recurrent(full)
    lengths, kinds = grids.LENGTHS[full], list(dict.fromkeys(kind for kind, _ in grid))
    tokens = {
        kind: {n: results[grid[kind, n]].spread(TOKENS, n) for n in lengths} for kind in kinds
    }
    crossings = {cell: crossing(tokens[ATTENDING], tokens[cell]) for cell in grids.CELLS}
    path = figures / "recurrent.png"
    panel = {kind: {n: (s.mean, s.sd) for n, s in of.items()} for kind, of in tokens.items()}
    drawing.lines(path, {"copy": panel}, x="length, trained up to it", y="tokens right")

    def rows(show: Callable[[str, int], Any]) -> list[list[Any]]:
        return [[kind, *(show(kind, n) for n in lengths)] for kind in kinds]

    header = ["", *map(str, lengths)]
    steps = {result.steps for result in map(results.__getitem__, grid.values())}
    told = [
        f"{cell} from length {n} on" if n else f"{cell} at no length up to {lengths[-1]}"
        for cell, n in crossings.items()
    ]
    return Finding(
        verdict({cell: n is not None for cell, n in crossings.items()}, "against"),
        [
            f"Copy; encoder and decoder are of the same cell, {', '.join(map(str, steps))} updates"
            " each. Tokens right at length n, of models trained up to n:",
            table(header, rows(lambda kind, n: tokens[kind][n])),
            figure(path, "tokens right by length"),
            f"Where a GRU with attention is better than a cell without ({BETTER}), from there up to"
            f" the greatest length: {'; '.join(told)}.{_learned_too_little(tokens, lengths[0])}",
            "Exact match:",
            table(header, rows(lambda kind, n: cell(results[grid[kind, n]], EXACT, n))),
            "Seconds of each run, all seeds, compilation and evaluation included:",
            table(header, rows(lambda kind, n: f"{results[grid[kind, n]].seconds:.0f}")),
            *_equal_time(results, full, tokens[ATTENDING][lengths[-1]]),
            "Without attention all that the decoder knows of the source is one vector, whatever"
            " the length. The mean of the memory is part of it.",
        ],
    )


def _learned_too_little(tokens: Mapping[str, Mapping[int, Spread]], shortest: int) -> str:
    if any(is_solved(tokens[name][shortest]) for name in grids.CELLS):
        return ""
    return (
        f" Without attention no model solves even length {shortest} ({SOLVED} of the tokens), so"
        " the difference is also one of how fast they learn."
    )


def _equal_time(results: Results, full: bool, attending: Spread) -> list[str]:
    longer = at_equal_time(results, full)
    if not longer:
        return ["Equal time was not run; `--full` does."]
    length = grids.LENGTHS[full][-1]
    rows = [[ATTENDING, "", attending]]
    for each in longer:
        cell_name = dict(each.changes)["model.decoder"]
        rows.append([cell_name, results[each].steps, results[each].spread(TOKENS, length)])
    return [
        f"Tokens right at length {length} with as many updates as the time of the attention"
        " model allows:",
        table(["", "updates", "tokens right"], rows),
    ]


def at_equal_time(results: Results, full: bool) -> list[Experiment]:
    """The models without attention, given as much time as the one that has it."""
    if not full:
        return []
    grid, length = grids.recurrent(full), grids.LENGTHS[full][-1]
    attending = results[grid[ATTENDING, length]]
    found = []
    for name in grids.CELLS:
        own = results[grid[name, length]]
        steps = round(own.steps * max(1.0, attending.seconds / max(own.seconds, 1e-9)))
        found.append(grids.of_cell(name, "none", length, full, steps))
    return found


# 5: one context.


def holds_all(results: Results, full: bool, figures: Path) -> Finding:
    grid, lengths = grids.pooled(full), grids.POOLED_LENGTHS[full]
    names = {1: "one softmax", 256: "one softmax a feature"}
    exact = {
        name: {n: results[grid[heads, n]].spread(EXACT, n) for n in lengths}
        for heads, name in names.items()
    }
    path = figures / "pooled.png"
    panel = {name: {n: (s.mean, s.sd) for n, s in of.items()} for name, of in exact.items()}
    drawing.lines(path, {"copy": panel}, x="length, trained up to it", y="exact match")
    reached = {name: reach(of) for name, of in exact.items()}
    cases = {
        f"length {n} with {name}": is_solved(s) for name, of in exact.items() for n, s in of.items()
    }
    told = "; ".join(f"{name} to {n}" if n else f"{name}: no" for name, n in reached.items())
    return Finding(
        f"{_all_or_some(cases)}; solved up to the length: {told}",
        [
            "Copy by a linear decoder that reads one context, of 256 features. Exact match at"
            f" length n, of models trained up to n; solved is a mean of {SOLVED}.",
            table(["", *map(str, lengths)], [[k, *of.values()] for k, of in exact.items()]),
            figure(path, "exact match by length"),
            "One softmax has one weighted mean to say everything with. A softmax a feature lets"
            " each feature come from a place of its own, so the context is as many small ones.",
        ],
    )


def _all_or_some(cases: Mapping[str, bool]) -> str:
    return HOLDS if all(cases.values()) else DEPENDS if any(cases.values()) else FAILS


# 6, 7: longer than in training.


def generalises(results: Results, full: bool, figures: Path) -> Finding:
    grid, lengths = grids.generalisation(full), grids.TESTED_LENGTHS[full]
    bar, longest = 256, lengths[-1]
    solved: dict[str, list[str]] = {"copy": [], "reverse": []}
    alone: dict[str, list[str]] = {"copy": [], "reverse": []}  # with a score of zero
    evidence: list[str] = []
    panels: dict[str, dict] = {}
    for task in solved:
        rows = []
        for ((of_task, way), score), each in grid.items():
            if of_task != task:
                continue
            result, built_in = results[each], (task, way) == grids.BUILT_IN
            exact = [cell(result, EXACT, n) for n in lengths]
            rows.append(
                [way, score, *exact, cell(result, TOKENS, longest), "yes" if built_in else ""]
            )
            counts = not built_in
            if (
                counts
                and is_solved(result.spread(EXACT, bar))
                and is_solved(result.spread(TOKENS, longest))
            ):
                by_bias = score == "uniform"
                (alone if by_bias else solved)[task].append(way if by_bias else f"{way} ({score})")
            shown = score != "uniform" or way.startswith("location, sparsemax")
            if shown and score != "mlp":
                of_length = [result.spread(TOKENS, n) for n in lengths]
                points = {n: (s.mean, s.sd) for n, s in zip(lengths, of_length, strict=True)}
                panels.setdefault(task, {})[f"{way}, {score}"] = points
        header = ["positions", "score", *(f"exact, {n}" for n in lengths)]
        header += [f"tokens, {longest}", "built in"]
        evidence += [f"{task.capitalize()}, trained up to 16:", table(header, rows)]
    path = figures / "lengths.png"
    drawing.lines(path, panels, x="length", y="tokens right")
    told = [f"{task}: {', '.join(ways) or 'none'}" for task, ways in solved.items()]
    return Finding(
        f"{_of_ways(solved, grid)}. Reaches the bar on {'; on '.join(told)}",
        [
            f"The bar: exact match of {SOLVED} at {bar} and {SOLVED} of the tokens at {longest},"
            " means over seeds. `uniform` is the same bias of positions with a score of zero, and"
            " does not count; nor does ALiBi on copy, for −|t − i| is largest at the answer.",
            *evidence,
            figure(path, "tokens right by length"),
            "With a score of zero the bar is reached on "
            + "; on ".join(f"{task}: {', '.join(ways) or 'none'}" for task, ways in alone.items())
            + ". There the positions do it, whatever the score.",
            f"Learned positions cannot be asked: “{_refusal()}”.",
            "One query serves all positions here, or two do (location), for no parameter may"
            " belong to a position. To reverse without location takes a GRU over the source, which"
            f" tells the length{'' if full else '; that is left to `--full`'}.",
        ],
    )


def _of_ways(solved: Mapping[str, list[str]], grid: grids.Grid) -> str:
    tried = sum(
        score != "uniform" and way != grids.BUILT_IN for way, score in grid
    )  # `way` has the task in it
    reached = sum(map(len, solved.values()))
    kind = HOLDS if reached == tried else FAILS if not reached else DEPENDS
    return f"{kind}: {reached} of {tried} ways"


def _refusal() -> str:
    try:
        grids.learned_positions().settings()
    except UsageError as error:
        return str(error)
    return "nothing was refused"


def published(results: Results, full: bool, figures: Path) -> Finding:
    grid, lengths = grids.published(full), grids.PUBLISHED_LENGTHS[full]
    rows, above, at_bar, unlearned = [], {}, {}, []
    panels: dict[str, dict] = {task: {} for task in grids.PUBLISHED}
    for (task, score), each in grid.items():
        result = results[each]
        each_length = [result.spread(TOKENS, n) for n in lengths]
        by_replica = zip(*(result.values(TOKENS, n) for n in lengths), strict=True)
        mean = spread([sum(values) / len(lengths) for values in by_replica])
        best = grids.PUBLISHED[task]
        trained = result.spread(TOKENS)
        rows.append([task, score, trained, mean, f"{best:.3f}"])
        panels[task][score] = {n: (s.mean, s.sd) for n, s in zip(lengths, each_length, strict=True)}
        if not is_solved(trained):
            unlearned.append(f"{task} ({score})")
        if score != "uniform":
            above[f"{task} ({score})"] = is_better(mean, Spread(best, 0.0))
            at_bar[f"{task} ({score})"] = is_solved(mean)
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
            table(["task", "score", "up to 40", "beyond", "published"], rows),
            figure(path, "tokens right by length"),
            "Not solved on the lengths of training either, so that nothing is shown of longer ones:"
            f" {', '.join(unlearned) or 'none'}.",
            f"Solved is a mean of {SOLVED}. Their protocol differs: there every length from 41 to"
            " 500 is tested, `END` is not counted, each setting is the best of ten seeds, and"
            " models are trained for far longer. Half of the tokens are right by guessing.",
        ],
    )


# 8: cost.


def costs(rows: list[costing.Cost], full: bool, figures: Path) -> Finding:
    lines, quadratic = [], {}
    panels: dict[str, dict] = {}
    for form in costing.FORMS:
        for by in (costing.PICKED, costing.PLAIN):
            time, memory = (
                costing.exponents(rows, form, by, what) for what in ("seconds", "bytes")
            )
            of = [row for row in rows if (row["form"], row["by"]) == (form, by)]
            longest = [row for row in of if row["seconds"]][-1]
            name = "this library" if by == costing.PICKED else by
            at = [f"{longest['seconds'] * 1e3:.3g}", f"{longest['bytes'] / 1e6:.3g}"]
            lines.append([form, name, f"{time:.2f}", f"{memory:.2f}", longest["length"], *at])
            if by == costing.PICKED:
                quadratic[f"the time of {form}"] = time > QUADRATIC
                quadratic[f"the memory of {form}"] = memory > QUADRATIC
            points = {row["length"]: (row["seconds"], 0.0) for row in of if row["seconds"]}
            panels.setdefault(form, {})[name] = points
    path = figures / "cost.png"
    drawing.lines(path, panels, x="length", y="forward + backward (s)", log_y=True)
    header = ["form", "by", "time ~ n^", "memory ~ n^", "up to n", "ms there", "MB there"]
    return Finding(
        verdict(quadratic, "for"),
        [
            f"Forward and backward, median of {costing.ROUNDS[full]} rounds; batch 1, one head of"
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


QUADRATIC = 1.5  # an exponent nearer to 2 than to 1


# 9: recurrence.

PLACES = {
    "none": "nowhere",
    "encoder": "GRU encoder",
    "decoder": "GRU decoder",
    "weights": "weights fed back",
}


def unnecessary(results: Results, full: bool, figures: Path) -> Finding:
    grid = grids.recurrence(full)
    length = grids.SHORT[full]
    tasks = list(dict.fromkeys(task for task, _ in grid))
    exact = {key: results[each].spread(EXACT, length) for key, each in grid.items()}
    rows = [[task, *(exact.get((task, place), "") for place in PLACES)] for task in tasks]
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
        f"{verdict(without)}",
        [
            "Where recurrence is in the model; bilinear score. “Weights fed back” is the"
            " location-aware decoder: no cell, but where it looks depends on where it has looked."
            f" Exact match at length {length}; the verdict is of the first column, at {SOLVED}.",
            table(["task", *PLACES.values()], rows),
            f"Better with recurrence ({BETTER}): {', '.join(helped) or 'none'}. Solved:"
            f" {', '.join(solved) or 'none'}.",
            "Sort asks for the least symbol above the one before: what came before has to be"
            " known. Reverse and duplicate ask where the end is: the length has to be known, and"
            " a score compares two positions at a time. This says what one layer of attention"
            " does; more layers were not tried.",
        ],
    )


CLAIMS: dict[int, Claim] = {
    1: Claim(
        "Attention improves on a uniform average of the inputs.",
        (grids.scores, grids.digits),
        improves,
    ),
    2: Claim("The choice of the score function matters.", (grids.scores,), matters),
    3: Claim(
        "Try a linear score first, then a network.", (grids.scores, grids.digits), linear_first
    ),
    4: Claim(
        "Attention escapes the long-range problem of RNN, GRU and LSTM.",
        (grids.recurrent,),
        escapes,
        more=at_equal_time,
    ),
    5: Claim(
        "A sequence can be reconstructed from one context for all of it.",
        (grids.pooled,),
        holds_all,
    ),
    6: Claim(
        "What attention learned on short sequences, it does on long ones.",
        (grids.generalisation,),
        generalises,
    ),
    7: Claim("So it does by a published protocol.", (grids.published,), published),
    8: Claim(
        "Scoring every pair makes the cost of attention quadratic in the length.",
        (),
        costs,
        needs_cost=True,
    ),
    9: Claim("Attention makes recurrence unnecessary.", (grids.recurrence,), unnecessary),
}
