"""What the page says of the claims, and of the code that made its rows."""

import dataclasses
import json

import pytest
from invented import CODE, costs, results_for

from attention.lab.claims import CLAIMS, page, quadratic, score_grid
from attention.lab.claims.cache import Cache
from attention.lab.claims.claim import Claim
from attention.lab.claims.page import write_page
from attention.lab.claims.size import FULL, QUICK
from attention.lab.claims.tables import code
from attention.lab.runs import files

BY_RUNS = [claim for claim in CLAIMS.values() if isinstance(claim, Claim)]


def tables_of(finding):
    """The lines of each table."""
    return [part.splitlines() for part in finding.evidence if part.startswith("| ")]


@pytest.fixture
def cached(monkeypatch):
    """Sets what the cache holds."""

    def hold(results):
        monkeypatch.setattr(Cache, "result", lambda _, experiment: results.get(experiment))

    return hold


def test_a_page_marks_what_was_not_run(cached, drawn, tmp_path):
    file = tmp_path / "docs" / "claims.md"
    cached(results_for(CLAIMS[5], QUICK, lambda _: 0.993))
    write_page(file, Cache(tmp_path / "runs"), QUICK)
    text = file.read_text()
    missing = "**Verdict: not run, or failed in every replica.**"
    assert text.count(missing) == len(CLAIMS) - 1
    assert "**Verdict: holds; solved up to the length: one softmax to 8;" in text
    assert "![exact match by length](claims/pooled.png)" in text
    assert drawn == ["pooled.png"]


def test_the_page_counts_the_runs_of_the_present_sources(cached, drawn, tmp_path, monkeypatch):
    file = tmp_path / "claims.md"
    results = results_for(CLAIMS[5], QUICK, lambda _: 0.993)
    present = next(iter(results))
    results[present] = dataclasses.replace(results[present], code_hash="fedcba987654")
    cached(results)
    monkeypatch.setattr(page, "code_hash", lambda: "fedcba987654")
    write_page(file, Cache(tmp_path / "runs"), QUICK)
    text = file.read_text()
    assert "present sources: fedcba9\n" in text
    assert "- runs: 6 of all seeds each, 1 minutes of training and testing;" in text
    assert "; 1 by the present sources, 5 by others\n" in text
    assert "| one softmax | 0.9940 ± 0.0010 | 0.9940 ± 0.0010 | 0.9940 ± 0.0010 |" in text
    assert f"| {CODE[:7]} ×2, fedcba9 ×1 |" in text


@pytest.mark.parametrize("size", [QUICK, FULL], ids=lambda size: size.name)
@pytest.mark.parametrize("claim", BY_RUNS, ids=lambda claim: claim.title)
def test_every_row_of_runs_says_its_code(claim, size, drawn, tmp_path):
    finding = claim.finding(results_for(claim, size, lambda _: 0.5), size, tmp_path)
    tables = tables_of(finding)
    assert tables
    for header, _, *rows in tables:
        assert header.endswith("| code |")
        assert all(row.endswith(f"| {CODE[:7]} |") for row in rows)


@pytest.mark.parametrize("claim", BY_RUNS, ids=lambda claim: claim.title)
def test_a_run_of_other_code_is_told_in_its_row(claim, drawn, tmp_path):
    """Of each run in turn: what is no source of a row is not named there."""
    results = results_for(claim, QUICK, lambda _: 0.5)
    for odd in results:
        mixed = results | {odd: dataclasses.replace(results[odd], code_hash="unknown")}
        tables = tables_of(claim.finding(mixed, QUICK, tmp_path))
        told = [[row.rpartition(" | ")[2] for row in rows] for _, _, *rows in tables]
        assert any("unknown" in row for rows in told for row in rows) == is_shown(claim, odd)
        assert all(sum("unknown" in row for row in rows) <= 1 for rows in told)


def is_shown(claim, experiment):
    """Whether a table has a figure of the run: linear alone is compared with the network."""
    scores = {"linear", "mlp"} if experiment.config != "digits" else {"linear", "mlp_pooling"}
    return claim is not CLAIMS[3] or experiment.score in scores


def test_codes_are_short_and_counted_where_they_differ():
    assert code(["abcdefghijkl"] * 3) == "abcdefg"
    assert code(["abcdefghijkl", "unknown", "abcdefghijkl"]) == "abcdefg ×2, unknown ×1"


def test_a_mixed_row_counts_its_runs(drawn, tmp_path):
    claim = CLAIMS[1]
    results = results_for(claim, QUICK, lambda _: 0.5)
    odd = score_grid.scores(QUICK)["lookup", "mlp"]
    results[odd] = dataclasses.replace(results[odd], code_hash="fedcba987654")
    copy, lookup = tables_of(claim.finding(results, QUICK, tmp_path))[0][2:4]
    assert copy.endswith(f"| {CODE[:7]} |")
    assert lookup.endswith(f"| {CODE[:7]} ×4, fedcba9 ×1 |")
    results = results_for(claim, FULL, lambda _: 0.5)
    odd = score_grid.scores(FULL)["lookup", "gatv2"]  # has no column
    results[odd] = dataclasses.replace(results[odd], code_hash="fedcba987654")
    lookup = tables_of(claim.finding(results, FULL, tmp_path))[0][3]
    assert lookup.endswith(f"| {CODE[:7]} |")


def test_costs_are_found_where_they_are_kept(drawn, tmp_path):
    cache = Cache(tmp_path)
    assert quadratic.CLAIM.find(QUICK, cache, tmp_path) == (None, {})
    (tmp_path / "cost-quick.json").write_text(json.dumps(costs(QUICK)))
    finding, results = quadratic.CLAIM.find(QUICK, cache, tmp_path)
    assert "the time of Additive" in finding.verdict
    assert results == {}
    assert quadratic.CLAIM.find(FULL, cache, tmp_path) == (None, {})


def test_what_goes_wrong_leaves_the_old_page(drawn, tmp_path, monkeypatch):
    file = tmp_path / "claims.md"
    file.write_text("old")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_page(file, Cache(tmp_path / "runs"), QUICK)
    assert file.read_text() == "old"
