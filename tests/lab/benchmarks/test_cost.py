"""That `scripts/benchmark.py` measures every contender and says what it refuses."""

import importlib.util
import io
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from rich.console import Console

from attention.lab.benchmarks import contenders as contending
from attention.lab.benchmarks import errors
from attention.lab.benchmarks.contenders import PLAIN
from attention.lab.benchmarks.errors import reference
from attention.lab.benchmarks.jax_contenders import jax_program
from attention.lab.benchmarks.measuring import rows_of
from attention.lab.benchmarks.problems import PROBLEMS, mlp_plain
from attention.lab.benchmarks.program import PARTS
from attention.lab.benchmarks.showing import print_section
from attention.lab.commands import benchmark, packages
from attention.lab.errors import TrainingError
from attention.lab.repository import ROOT

EVERYWHERE = {"plain JAX", "picked", "dense", "streaming"}
CONTENDERS = {
    "mlp": {*EVERYWHERE, "additive"},
    "dot": {*EVERYWHERE, "inner_product", "jax.nn.dot_product_attention"},
    "own": EVERYWHERE,
    "linear": {*EVERYWHERE, "key_only", "memory copy"},
    "linear, causal": {*EVERYWHERE, "prefix", "memory copy"},
}


def test_every_contender_is_measured_and_right(run, tmp_path, capsys):
    flags = ["--sizes=2x5x7", "--rounds=1", "--no-torch", "--lengths=5", f"--output={tmp_path}"]
    assert run(*flags) == 0
    report = json.loads((tmp_path / "table.json").read_text())
    printed, table = capsys.readouterr().out, (tmp_path / "table.md").read_text()
    for score, contenders in CONTENDERS.items():
        rows = [row for row in report["rows"] if row["score"] == score]
        assert {row["contender"] for row in rows} == contenders
        for row in rows:
            assert f"| {row['contender']} " in printed
            assert f"| {row['contender']} " in table
            assert row["note"] == ""
            assert row["forward+backward ms"] > 0
            if row["contender"] != "memory copy":
                assert row["error"] < 1e-5
                assert row["gradient error"] < 1e-4
                assert row["forward vs"]["plain JAX"] > 0
    assert {row["contender"] for row in report["sweep"]} == {"plain JAX", "picked"}
    has_matplotlib = importlib.util.find_spec("matplotlib") is not None
    assert (tmp_path / "cost.png").exists() == has_matplotlib


BESIDE = {
    "dot_bias": {*EVERYWHERE, "inner_product"},
    "dot_mask": {*EVERYWHERE, "inner_product"},
    "dot_dropout": EVERYWHERE,
    "dot_causal": {*EVERYWHERE, "inner_product"},
    "dot_softcap": EVERYWHERE,
    "mlp_bias": {*EVERYWHERE, "additive"},
    "mlp_mask": {*EVERYWHERE, "additive"},
    "mlp_dropout": {*EVERYWHERE, "additive"},
}


# What is asked stands beside the score: with the other score, one is enough.
@pytest.mark.parametrize("score", sorted(set(BESIDE) - {"mlp_bias", "mlp_mask"}))
def test_what_is_asked_of_pairs_agrees_with_plain_jax(score):
    rows = rows_of(score, (2, 5, 7), rounds=1, memory_gb=1.0, torch=False)
    assert {row["contender"] for row in rows} == BESIDE[score]
    for row in rows:
        assert row["note"] == ""
        assert row["error"] < 1e-5
        assert row["gradient error"] < 1e-4


@pytest.mark.parametrize("score", BESIDE)
def test_what_is_asked_of_pairs_changes_the_context(score):
    size = (2, 5, 7)
    arrays, _ = contending.draw(score, size, 0)
    bare, asked = (
        PROBLEMS[name].plain(*arrays, **contending.draw_given(name, size, 0))
        for name in (score.split("_")[0], score)
    )
    assert np.max(np.abs(asked - bare)) > 1e-2


def test_the_reference_goes_by_some_queries_at_a_time(monkeypatch):
    size = (2, 5, 7)
    arrays, cotangent = contending.draw("dot_dropout", size, 0)
    given = contending.draw_given("dot_dropout", size, 0)
    whole = reference("dot_dropout", arrays, cotangent, given)
    monkeypatch.setattr(errors, "REFERENCE_TERMS", 2 * 7 * 64 * 2)
    parts = reference("dot_dropout", arrays, cotangent, given)
    for a, b in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.parametrize(("memory_gb", "parts"), [(1e-3, 2), (1e-4, 0)])
def test_what_needs_too_much_memory_is_skipped_in_words(memory_gb, parts):
    arrays, cotangent = contending.draw("mlp", (1, 13, 97), 0)  # 0.3 MB of hidden units
    program = jax_program(mlp_plain, arrays, cotangent, memory_gb)
    assert len(program.runs) == parts
    assert program.note.startswith("" if parts else "skipped: 0.000")


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        (
            "--scores=dot_bais",
            "flag --scores=dot_bais: 'dot_bais' is not one of mlp, dot, own, linear, dot_bias,"
            " dot_mask, dot_dropout, dot_causal, dot_softcap, mlp_bias, mlp_mask, mlp_dropout",
        ),
        (
            "--sizes=8x256",
            "flag --sizes=8x256: '8x256' is not batch x queries x keys, such as 8x256x256",
        ),
        ("--lengths=5,x", "flag --lengths=5,x: 'x' is not a whole number from 1"),
        ("--rounds=0", "flag --rounds=0: '0' is not a whole number from 1"),
        ("--memory-gb=nan", "flag --memory_gb=nan: 'nan' is not a number above 0"),
        ("--memory_gb=0", "flag --memory_gb=0: '0' is not a number above 0"),
        ("--jobs=2", "Unknown command line flag 'jobs'"),
        ("mlp", "'mlp' is not a flag; flags begin with --"),
    ],
)
def test_a_bad_flag_is_named_with_its_choices(run, capsys, flag, told):
    assert run(flag) == 2
    assert capsys.readouterr().err == f"error: {told}\n"


@pytest.mark.parametrize(
    ("flags", "gigabytes", "torch"),
    [
        ([], 4.0, True),
        (["--memory-gb=2.5", "--no-torch"], 2.5, False),
        (["--memory_gb", "2.5", "--notorch"], 2.5, False),
    ],
)
def test_both_spellings_of_a_flag_are_taken(run, monkeypatch, tmp_path, flags, gigabytes, torch):
    given = {}

    def stop(**asked):
        given.update(asked)
        raise TrainingError("that is enough")

    monkeypatch.setattr(benchmark, "setting", stop)
    monkeypatch.setattr(packages, "is_installed", lambda package: True)
    assert run(*flags, f"--output={tmp_path}") == 1
    assert given == {"rounds": 9, "memory_gb": gigabytes, "torch": torch}


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ([], ["What attention costs: ", "--scores: some of mlp,dot,own,linear"]),
        (["--sweep"], ["Trained runs per hour", "--jobs: processes at once"]),
        (["--decoding"], ["Time of a step with a cache", "--keys: keys that the cache"]),
    ],
)
def test_help_takes_no_device(asked, told):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "benchmark.py", *asked, "--help"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "no_such"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for words in told:
        assert words in done.stdout


@pytest.mark.parametrize("width", [60, 80, 120])
def test_on_a_terminal_no_number_is_broken(width):
    measured = {"compile s": 0.776, "temporary MB": 4.26, "error": 2e-7, "gradient error": 2e-6}
    row = {"contender": PLAIN, **measured, "forward ms": 0.358, "note": "as written"}
    rows = [{**row, "forward vs": {PLAIN: 1.25}, f"{PARTS[1]} vs": {PLAIN: 2.5}}]
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    print_section("mlp", (2, 3, 5), rows, console)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].strip() == "mlp: batch 2, queries 3, keys 5"
    cells = {cell.strip() for line in lines for cell in line.split("│")}
    assert {"0.358 / —", "0.776", "4.26", "2e-07 / 2e-06", "1.25 / 2.5"} <= cells
    assert lines[-1] == f"{PLAIN}: as written"
