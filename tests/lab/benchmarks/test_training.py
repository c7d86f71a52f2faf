"""What of `scripts/benchmark.py --training` can be tested without PyTorch."""

from small import small

from attention.lab.benchmarks import training
from attention.lab.commands import benchmark, packages


def test_without_pytorch_it_says_where_that_is(run, monkeypatch, capsys):
    monkeypatch.setattr(packages, "is_installed", lambda package: False)
    assert run("--training") == 2
    told = "error: torch is not installed; it is in the extra 'bench'\n"
    assert capsys.readouterr().err == told


def test_its_flags_reach_it_and_what_it_tells_is_printed(run, monkeypatch, capsys):
    monkeypatch.setattr(packages, "is_installed", lambda package: True)
    monkeypatch.setattr(benchmark.training, "report", lambda *asked: map(str, asked))
    assert run("--training", "--rounds=3", "--updates=7") == 0
    assert capsys.readouterr().out == "3\n7\n"


def test_a_turn_of_this_project_makes_as_many_updates_as_asked(monkeypatch):
    asked, make_train = [], training.make_train

    def noting(experiment):
        train = make_train(experiment)

        def noted(state, task, until):
            asked.append(until)
            return train(state, task, until)

        return noted

    monkeypatch.setattr(training, "make_train", noting)
    run = training.jax_updates(small({"train.log_every_steps": 2}))
    run(3)
    run(1)
    assert asked == [2, 3, 4]


def test_turns_that_warm_up_are_not_timed(monkeypatch):
    clock = iter([float(seconds) for seconds in range(100)])
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(clock))
    ran = []
    contenders = {name: lambda updates, name=name: ran.append(name) for name in "ab"}
    assert training.in_turn(contenders, rounds=1, updates=7) == {"a": [1.0], "b": [1.0]}
    assert "".join(ran) == "ab" * 3


def test_a_line_tells_milliseconds_and_ratios():
    times = {"attention": [1.0, 2.0, 4.0], "eager": [2.0, 6.0, 4.0]}
    assert training.lines("mlp", times, 100) == [
        "mlp       attention    20.00 ms an update,  1.00 times attention (1.00–1.00)",
        "mlp       eager        40.00 ms an update,  2.00 times attention (1.00–3.00)",
    ]
