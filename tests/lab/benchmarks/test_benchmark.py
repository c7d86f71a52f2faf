"""That `scripts/benchmark.py` measures every contender and says what it refuses."""

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
EVERYWHERE = {"plain JAX", "picked", "dense", "streaming"}
CONTENDERS = {
    "mlp": {*EVERYWHERE, "additive"},
    "dot": {*EVERYWHERE, "inner_product", "jax.nn.dot_product_attention"},
    "own": EVERYWHERE,
    "linear": {*EVERYWHERE, "key_only", "copy"},
    "linear, causal": {*EVERYWHERE, "prefix", "copy"},
}


@pytest.fixture
def main(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    from attention.lab.commands import benchmark as benchmark

    return benchmark.main


def test_every_contender_is_measured_and_right(main, tmp_path, capsys):
    flags = ["--sizes=2x5x7", "--rounds=1", "--no-torch", "--lengths=5", f"--output={tmp_path}"]
    main(flags)
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
            if row["contender"] != "copy":
                assert row["error"] < 1e-5
                assert row["gradient error"] < 1e-4
                assert row["forward vs"]["plain JAX"] > 0
    assert {row["contender"] for row in report["sweep"]} == {"plain JAX", "picked"}
    has_matplotlib = importlib.util.find_spec("matplotlib") is not None
    assert (tmp_path / "cost.png").exists() == has_matplotlib


@pytest.mark.parametrize(("memory_gb", "parts"), [(1e-3, 2), (1e-4, 0)])
def test_what_needs_too_much_memory_is_skipped_in_words(main, memory_gb, parts):
    from attention.lab.benchmarks import contenders as contending

    arrays, cotangent = contending.draw("mlp", (1, 13, 97), 0)  # 0.3 MB of hidden units
    program = contending.jax_program(contending.mlp_plain, arrays, cotangent, memory_gb)
    assert len(program.runs) == parts
    assert program.note.startswith("" if parts else "skipped: 0.000")


@pytest.mark.parametrize(
    ("flag", "choices"),
    [
        ("--scores=mpl", "'mpl' is not one of mlp, dot, own, linear"),
        ("--sizes=8x256", "'8x256' is not batch x queries x keys, such as 8x256x256"),
        ("--rounds=0", "'0' is not a whole number from 1"),
        ("--memory-gb=nan", "'nan' is not a number above 0"),
    ],
)
def test_a_bad_flag_is_named_with_its_choices(main, capsys, flag, choices):
    with pytest.raises(SystemExit) as stop:
        main([flag])
    assert stop.value.code == 2
    assert f"argument {flag.partition('=')[0]}: {choices}" in capsys.readouterr().err


def test_runs_per_hour_are_those_of_each_way(main, monkeypatch, capsys):
    from attention.lab.benchmarks import runs_per_hour

    ran, clock = [], iter([0, 8, 10, 15, 20, 23, 100, 112, 120, 124, 130, 132, 140])
    statuses = [0] * 8 + [2]

    def ends(line, **_):
        ran.append(line[1:])
        return subprocess.CompletedProcess(line, statuses[len(ran) - 1])

    monkeypatch.setattr(runs_per_hour.subprocess, "run", ends)
    monkeypatch.setattr(runs_per_hour.time, "perf_counter", lambda: next(clock))
    flags = ["--sweep", "--runs=2", "--jobs=3", "--together=5", "--rounds=2"]
    main([*flags, "--config.train.steps=7"])
    assert [Path(line[0]).name for line in ran] == [
        "train.py",
        "train.py",
        "sweep.py",
        "sweep.py",
    ] * 2
    assert [line[2] for line in ran[:2]] == ["--config.seed=0", "--config.seed=1"]
    assert ran[2][2:5] == ["--seeds=2", "--together=1", "--jobs=3"]
    assert ran[3][2:3] == ["--seeds=5"]
    assert {line[-1] for line in ran} == {"--config.train.steps=7"}
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "| one after another | 2 | 10.0 | 720 | 1.00 |",  # 8 and 12 s
        "| 3 jobs | 2 | 4.5 | 1600 | 2.30 |",  # 5 and 4 s
        "| together | 5 | 2.5 | 7200 | 10.83 |",  # 3 and 2 s: (8/2)/(3/5) and (12/2)/(2/5)
    ]
    with pytest.raises(SystemExit, match="2"):
        main(["--sweep", "--scores=mlp"])
    assert "'--scores=mlp' is neither" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):  # what a command told, it told
        main(flags)
