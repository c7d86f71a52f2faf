"""That `scripts/benchmark.py --sweep` trains by each way and counts its runs."""

import importlib.util
from pathlib import Path

from attention.lab.benchmarks import runs_per_hour


def test_runs_per_hour_are_those_of_each_way(run, monkeypatch, capsys):
    times = [0, 8, 10, 15, 20, 23, 100, 112, 120, 124, 130, 132, 140]
    ran, clock = [], iter([float(seconds) for seconds in times])
    statuses = [0] * 8 + [2]

    def ends(line, **_):
        ran.append(line[1:])
        return statuses[len(ran) - 1]

    monkeypatch.setattr(runs_per_hour, "call", ends)
    monkeypatch.setattr(runs_per_hour.time, "perf_counter", lambda: next(clock))
    flags = ["--sweep", "--runs=2", "--jobs=3", "--together=5", "--rounds=2"]
    assert run(*flags, "--config.train.steps=7") == 0
    assert {line[0] for line in ran} == {"-m"}
    assert [line[2] for line in ran] == ["train", "train", "sweep", "sweep"] * 2
    assert [line[4] for line in ran[:2]] == ["--config.seed=0", "--config.seed=1"]
    assert ran[2][4:7] == ["--seeds=2", "--together=1", "--jobs=3"]
    assert ran[3][4:5] == ["--seeds=5"]
    assert {line[-1] for line in ran} == {"--config.train.steps=7"}
    for line in ran:
        assert importlib.util.find_spec(line[1]) is not None
        assert Path(line[3].removeprefix("--config=")).is_file()
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "| one after another | 2 | 10.0 | 720 | 1.00 |",  # 8 and 12 s
        "| 3 jobs | 2 | 4.5 | 1600 | 2.30 |",  # 5 and 4 s
        "| together | 5 | 2.5 | 7200 | 10.83 |",  # 3 and 2 s: (8/2)/(3/5) and (12/2)/(2/5)
    ]
    assert run(*flags) == 2
    assert capsys.readouterr().err == ""  # what a command told, it told


def test_flags_of_another_benchmark_are_refused(run, capsys):
    assert run("--sweep", "--scores=mlp") == 2
    assert capsys.readouterr().err == "error: Unknown command line flag 'scores'\n"
