"""That `scripts/claims.py` runs what it says once, and says what the numbers say."""

import dataclasses
import importlib
import io
import json
import math
import re
from pathlib import Path

import pytest
from rich.console import Console
from small import SMALL

from attention.lab.errors import UsageError
from attention.lab.training.build import build, read_source

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def module(monkeypatch):
    """A module of the script, by name."""
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module


def spread_of(module, mean, sd=0.0):
    return module("claims_runs").Spread(mean, sd)


def result_of(module, each, share):
    """What a run would have measured that is right in this share, on each seed a bit more."""
    settings = each.settings()

    def report(number):
        value = share + 0.001 * number
        names = ("exact_match", "token_accuracy", "query_dependence")
        return dict.fromkeys(names, value)

    replicas = [
        {"all": report(n), "by_length": {str(m): report(n) for m in settings.eval.lengths}}
        for n in range(settings.num_seeds)
    ]
    return module("claims_runs").Result(replicas, 0, 7.0, settings.train.steps, "0+abc")


def test_a_run_is_found_again_by_its_settings_alone(module):
    runs = module("claims_runs")
    one = runs.experiment("copy", "mlp", {"seed": 3, "num_seeds": 2})
    same = runs.experiment("copy", "mlp", {"num_seeds": 2, "seed": 3})
    other = runs.experiment("copy", "mlp", {"num_seeds": 2, "seed": 4})
    assert one == same
    assert runs.folder(one.settings()) == runs.folder(same.settings())
    assert runs.folder(one.settings()) != runs.folder(other.settings())
    assert re.fullmatch(r"copy-16-parallel-mlp-[0-9a-f]{10}", runs.folder(one.settings()))


def test_a_finished_run_is_not_run_again_and_its_figures_are_read(module, tmp_path, monkeypatch):
    runs = module("claims_runs")
    small = {name: value for name, value in SMALL.items() if name != "train.steps"}
    changes = {**small, "train.steps": 2, "num_seeds": 2, "eval.lengths": (3,)}
    each = runs.experiment("copy", "linear", changes)
    assert runs.cached(each, tmp_path) is None
    first = runs.run(each, tmp_path, Console(file=io.StringIO()))
    monkeypatch.setattr(runs, "train", lambda *_: pytest.fail("it was run again"))
    assert runs.run(each, tmp_path, Console(file=io.StringIO())) == first
    (file,) = tmp_path.glob("*/result.json")
    written = json.loads(file.read_text())["test"]
    assert first.steps == 2
    assert first.seconds > 0
    assert first.values("token_accuracy", 3) == [
        replica["by_length"]["3"]["token_accuracy"] for replica in written["replicas"]
    ]
    assert first.spread("token_accuracy").mean == pytest.approx(written["all"]["token_accuracy"])


def test_replicas_that_failed_are_left_out_and_counted(module, tmp_path):
    runs = module("claims_runs")
    each = runs.experiment("copy", "linear", {"num_seeds": 3})
    path = tmp_path / runs.folder(each.settings())
    path.mkdir()
    replicas = [
        {"failed": value is None, "all": {"exact_match": value}} for value in (0.5, None, 0.7)
    ]
    report = {"step": 5, "seconds": 1.0, "test": {"replicas": replicas}}
    (path / "result.json").write_text(json.dumps(report))
    (path / "config.json").write_text(json.dumps({"code_version": "0+abc"}))
    result = runs.cached(each, tmp_path)
    assert result.values("exact_match") == [0.5, 0.7]
    assert module("claims_findings").cell(result, "exact_match") == "0.6000 ± 0.1414 (1 failed)"


def test_mean_and_sd_by_hand(module):
    runs = module("claims_runs")
    assert runs.spread([1.0, 2.0, 6.0]) == runs.Spread(3.0, math.sqrt(7))
    assert str(runs.spread([0.25])) == "0.2500"
    assert str(runs.spread([])) == "—"


@pytest.mark.parametrize(
    ("one", "other", "better"),
    [
        ((0.9, 0.1), (0.5, 0.1), True),  # four deviations
        ((0.9, 0.1), (0.5, 0.3), False),  # the larger deviation counts
        ((1.0, 0.0), (0.995, 0.0), False),  # too small a difference
        ((0.5, 0.0), (0.9, 0.0), False),
        ((math.nan, 0.0), (0.5, 0.0), False),
    ],
)
def test_better_is_more_than_chance(module, one, other, better):
    is_better = module("claims_verdicts").is_better
    assert is_better(spread_of(module, *one), spread_of(module, *other)) == better


def test_a_verdict_names_its_cases(module):
    verdict = module("claims_verdicts").verdict
    assert verdict({"copy": True, "sort": True}) == "holds on all of copy, sort"
    assert verdict({"copy": False}, "for") == "does not hold for any of copy"
    assert verdict({"copy": True, "sort": False}) == "depends: holds on copy; not on sort"


def test_the_crossing_point_is_where_it_stays_better(module):
    crossing = module("claims_verdicts").crossing
    without = {n: spread_of(module, 0.5) for n in (4, 8, 16)}

    def found(*means):
        return crossing(
            {n: spread_of(module, m) for n, m in zip((4, 8, 16), means, strict=True)}, without
        )

    assert found(0.5, 0.9, 0.9) == 8
    assert found(0.9, 0.5, 0.9) == 16  # better at 4 as well, but not from there on
    assert found(0.9, 0.9, 0.5) is None


def test_the_reach_ends_before_the_first_failure(module):
    reach = module("claims_verdicts").reach
    assert reach({2: spread_of(module, 1.0), 4: spread_of(module, 0.99)}) == 4
    assert reach({2: spread_of(module, 0.9), 4: spread_of(module, 1.0)}) == 0


def test_exponents_by_hand(module):
    cost = module("claims_cost")
    assert cost.exponent([2, 4, 8], [3.0, 12.0, 48.0]) == pytest.approx(2)
    rows = [
        {"form": "Additive", "by": "picked", "length": n, "seconds": max(n, 16) / 7.0}
        for n in (2, 4, 16, 32)
    ]
    assert cost.exponents(rows, "Additive", "picked", "seconds") == pytest.approx(1)


def test_costs_say_where_they_were_measured(module, findings, tmp_path, monkeypatch):
    cost, claim = module("claims_cost"), findings.CLAIMS[8]

    def measure(form, length, _):
        took = {"seconds": length**2 / 7, "bytes": 11 * length}
        return [{"form": form, "length": length, "by": by} | took for by in ("picked", "plain JAX")]

    monkeypatch.setattr(cost, "_measure", measure)
    monkeypatch.setattr(cost, "machine", lambda: "abacus; jax 0")
    monkeypatch.setattr(cost, "code_version", lambda: "0+abc")
    rows = cost.measured(tmp_path / "cost.json", False)
    monkeypatch.setattr(cost, "machine", lambda: "another that reads the cache; jax 1")
    assert cost.measured(tmp_path / "cost.json", False) == rows
    told = claim.finding(rows, False, tmp_path).evidence[0]
    assert told.endswith("Measured on abacus; jax 0; code 0+abc.")


def experiments(module, full):
    claims = module("claims_findings").CLAIMS.values()
    return list(dict.fromkeys(each for claim in claims for each in claim.experiments(full)))


@pytest.mark.parametrize("full", [False, True])
def test_experiments_can_be_built_and_are_of_several_seeds(module, full):
    every = experiments(module, full)
    settings = [each.settings() for each in every]
    assert {one.num_seeds for one in settings} == {5 if full else 3}
    assert len({module("claims_runs").folder(one) for one in settings}) == len(every)
    for one in settings[:: 13 if full else 11]:
        build(one, read_source(one))


@pytest.mark.parametrize("full", [False, True])
def test_recurrence_is_where_the_table_says(module, full):
    grids = module("claims_grids")
    cells, looks_back = {"elman", "gru", "lstm"}, {"location"}
    for (_, place), each in grids.recurrence(full).items():
        model = each.settings().model
        found = {
            "none": model.decoder == "parallel" and model.mixer == "none",
            "encoder": model.decoder == "parallel" and model.mixer in cells,
            "decoder": model.decoder in cells,
            "weights": model.decoder in looks_back and model.mixer not in cells,
        }
        assert [name for name, holds in found.items() if holds] == [place]
    for (task, _), each in grids.scores(full).items():
        assert each.settings().task.name == task
        assert each.settings().model.decoder not in looks_back


def test_learned_positions_cannot_be_asked(module):
    with pytest.raises(UsageError, match="has positions for lengths 1 to 16"):
        module("claims_grids").learned_positions().settings()


@pytest.fixture
def findings(module, monkeypatch):
    """The claims, with figures that are only noted."""
    drawn = []
    drawing = module("claims_drawing")
    for name in ("lines", "heat_map"):
        monkeypatch.setattr(drawing, name, lambda path, *_, **__: drawn.append(path.name))
    found = module("claims_findings")
    found.drawn = drawn
    return found


def shares(module, claim, full, share):
    """Results of all that a claim needs, each right in `share(experiment)`."""
    results = {each: result_of(module, each, share(each)) for each in claim.experiments(full)}
    if claim.more:
        more = claim.more(results, full)
        results |= {each: result_of(module, each, share(each)) for each in more}
    return results


def test_scores_are_judged_by_their_numbers(module, findings):
    claim = findings.CLAIMS[1]

    def share(each):
        return {"mlp": 0.9, "mlp_pooling": 0.4, "bilinear": 0.8}.get(each.score, 0.2)

    finding = claim.finding(shares(module, claim, False, share), False, Path("claims"))
    assert finding.verdict.startswith("holds on all of copy, lookup, sort, digits")
    assert "| copy | 0.2010 ± 0.0010 | 0.2010 ± 0.0010 | 0.4010 ± 0.0010 |" in finding.evidence[1]
    even = claim.finding(shares(module, claim, False, lambda _: 0.5), False, Path("claims"))
    assert even.verdict.startswith("does not hold on any of copy")


def test_the_built_in_answer_does_not_count(module, findings):
    claim, grids = findings.CLAIMS[6], module("claims_grids")
    grid = grids.generalisation(False)
    built_in = grid[grids.BUILT_IN, "bilinear"]

    def judged(solved):
        results = shares(module, claim, False, lambda each: 0.997 if each in solved else 0.1)
        return claim.finding(results, False, Path("claims")).verdict

    assert "Reaches the bar on copy: none; on reverse: none" in judged({built_in})
    uniform = {each for (_, score), each in grid.items() if score == "uniform"}
    assert judged(uniform | {built_in}).startswith("does not hold")
    relative = grid[("copy", "relative"), "bilinear"]
    assert "on copy: relative (bilinear); on reverse: none" in judged({relative})


def test_the_difference_at_the_shortest_length_may_be_one_of_speed(module, findings):
    claim, told = findings.CLAIMS[4], "how fast they learn"

    def judged(at_shortest):
        def share(each):
            short = each.settings().task.max_length == 4
            return 0.992 if each.score == "mlp" else at_shortest if short else 0.5

        finding = claim.finding(shares(module, claim, False, share), False, Path("claims"))
        assert finding.verdict == "holds against all of elman, gru, lstm"
        return " ".join(finding.evidence)

    assert told in judged(0.3)
    assert "elman from length 4 on" in judged(0.3)
    assert told not in judged(0.992)
    assert "elman from length 8 on" in judged(0.992)


def test_models_without_attention_get_as_much_time(module, findings):
    claim, grids = findings.CLAIMS[4], module("claims_grids")
    results = shares(module, claim, True, lambda _: 0.5)
    length = grids.LENGTHS[True][-1]
    slow = grids.recurrent(True)[findings.ATTENDING, length]
    results[slow] = dataclasses.replace(results[slow], seconds=21.0)  # three times the others
    longer = claim.more(results, True)
    assert [each.settings().train.steps for each in longer] == [4500] * 3


def test_a_page_marks_what_was_not_run(module, findings, tmp_path, monkeypatch):
    script = module("claims")
    page = tmp_path / "docs" / "claims.md"
    claim = findings.CLAIMS[5]
    results = shares(module, claim, False, lambda _: 0.993)
    monkeypatch.setattr(script, "cached", lambda each, _: results.get(each))
    script.write_page(page, tmp_path / "runs", full=False)
    text = page.read_text()
    missing = "**Verdict: not run, or failed in every replica.**"
    assert text.count(missing) == len(findings.CLAIMS) - 1
    assert "**Verdict: holds; solved up to the length: one softmax to 8;" in text
    assert "of the runs: 0+abc" in text
    assert "![exact match by length](claims/pooled.png)" in text
    assert findings.drawn == ["pooled.png"]


def test_what_goes_wrong_leaves_the_old_page(module, findings, tmp_path, monkeypatch):
    script = module("claims")
    page = tmp_path / "claims.md"
    page.write_text("old")
    files = importlib.import_module("attention.lab.runs.files")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        script.write_page(page, tmp_path / "runs", full=False)
    assert page.read_text() == "old"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "one of the arguments --quick --full is required"),
        (["--quick", "--full"], "not allowed with argument"),
        (["--quick", "--only=4,x"], "'4,x' is not numbers of claims, 1 to 9, such as 4,6"),
        (["--quick", "--only=10"], "'10' is not numbers of claims, 1 to 9"),
        (["--quick", "--onyl=4"], "unrecognized arguments: --onyl=4"),
    ],
)
def test_a_bad_flag_is_told_in_a_line(module, capsys, flags, told):
    with pytest.raises(SystemExit) as stop:
        module("claims").main(flags)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert told in line
