import json

import pytest
from invented import costs

from attention.lab.claims import cost
from attention.lab.claims.quadratic import finding
from attention.lab.claims.size import QUICK


@pytest.fixture
def measured_by(monkeypatch):
    """Sets where and by which sources costs are measured; returns the calls of the measurement."""
    calls = []

    def measure(form, length, size):
        calls.append((form, length))
        return [row for row in costs(size) if (row["form"], row["length"]) == (form, length)]

    def by(machine, code):
        monkeypatch.setattr(cost, "machine", lambda: machine)
        monkeypatch.setattr(cost, "code_hash", lambda: code)
        return calls

    monkeypatch.setattr(cost, "_measure", measure)
    monkeypatch.setattr(cost, "code_version", lambda: "0+abc")
    return by


def test_exponents_by_hand():
    assert cost.exponent([2, 4, 8], [3.0, 12.0, 48.0]) == pytest.approx(2)
    rows = [
        {"form": "Additive", "by": "picked", "length": n, "seconds": max(n, 16) / 7.0}
        for n in (2, 4, 16, 32)
    ]
    assert cost.exponents(rows, "Additive", "picked", "seconds") == pytest.approx(1)


def test_costs_say_where_they_were_measured(measured_by, drawn, tmp_path):
    measured_by("abacus; jax 0", "aaaaaaabbbbb")
    rows = cost.measured(tmp_path / "cost.json", QUICK)
    measured_by("another that reads the cache; jax 1", "other")
    assert cost.measured(tmp_path / "cost.json", QUICK) == rows
    told, table, *_ = finding(rows, QUICK, tmp_path).evidence
    assert told.endswith("Measured on abacus; jax 0; code 0+abc.")
    header, _, *lines = table.splitlines()
    assert header.endswith("| code |")
    assert len(lines) == 6
    assert all(line.endswith("| aaaaaaa |") for line in lines)


def test_costs_are_measured_again_where_the_sources_are_other(measured_by, tmp_path):
    file = tmp_path / "cost.json"
    calls = measured_by("abacus", "old")
    cost.measured(file, QUICK)
    once = len(calls)
    cost.measured(file, QUICK, refresh=True)
    assert len(calls) == once  # the same sources
    measured_by("abacus", "new")
    assert {cost.code_of(row) for row in cost.measured(file, QUICK)} == {"old"}
    assert {cost.code_of(row) for row in cost.measured(file, QUICK, refresh=True)} == {"new"}
    assert len(calls) == 2 * once
    assert {cost.code_of(row) for row in cost.kept(file)} == {"new"}


def test_costs_of_unknown_sources_are_measured_again(measured_by, drawn, tmp_path):
    file = tmp_path / "cost.json"
    calls = measured_by("abacus", "new")
    file.write_text(json.dumps(costs(QUICK)))
    rows = cost.measured(file, QUICK)
    assert "| unknown |" in finding(rows, QUICK, tmp_path).evidence[1]
    assert calls == []
    assert {cost.code_of(row) for row in cost.measured(file, QUICK, refresh=True)} == {"new"}
    assert calls


def test_the_measurement_measures():
    """Both contenders, in time and memory, at a length that takes no time."""
    rows = cost._measure("InnerProduct", 16, QUICK)
    assert {row["by"] for row in rows} == {"picked", "plain JAX"}
    assert all(row["seconds"] > 0 and row["bytes"] > 0 for row in rows)
