"""What a person sees who runs `train.py` and `eval.py`."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from unittest.mock import Mock

import jax
import pytest
from command_lines import COPY, ROOT, TINY, run
from small import files, small

from attention.lab.commands import eval as eval_command
from attention.lab.commands import train
from attention.lab.errors import TrainingError
from attention.lab.parallel import hosts, interruption
from attention.lab.runs.directory import open_for_training
from attention.scores import SCORES


def start(directory, script, *arguments):
    """A script in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def make_run(path):
    """A run that has not begun to train, with positions for lengths 1 to 4."""
    with open_for_training(path, small(), None):
        pass


def assert_refused(done, here, *told):
    """One line that says what is wrong, exit status 2, and nothing written."""
    status, out, err = done
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert "Traceback" not in err
    for words in told:
        assert words in err
    assert list(here.iterdir()) == []


BAD = {
    "no_config": ([], ["--config is missing", "configs/copy.py"]),
    "unknown_score": (
        [f"{COPY}:mpl"],
        ["config.score.name='mpl': is unknown; did you mean mlp? ", *SCORES],
    ),
    "misspelt_field": (
        [COPY, "--config.train.stepz=5"],
        ["--config.train.stepz", "shard_parameters, steps"],
    ),
    "no_dashes": ([COPY, "config.train.steps=5"], ["'config.train.steps=5' is not a flag", "--"]),
    "no_flag": (["copy"], ["'copy' is not a flag"]),
    "no_file": (["--config=configs/missing.py"], ["configs/missing.py"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_in_one_line(monkeypatch, here, name):
    arguments, told = BAD[name]
    assert_refused(run(monkeypatch, "train.py", *arguments), here, *told)


# In processes of their own, which cost seconds each.


def test_bad_input_is_told_in_one_line_by_the_program(here):
    arguments, told = BAD["misspelt_field"]
    assert_refused(end(start(here, "train.py", *arguments)), here, *told)


def test_training_then_evaluation(here):
    arguments = [f"{COPY}:scaled_dot", *TINY, "--config.seed=7"]
    status, out, err = end(start(here, "train.py", *arguments))
    assert (status, err) == (0, "")
    assert "score scaled_dot, seed 7, 2 steps of batch 3" in out
    assert "python eval.py --workdir runs/copy-scaled_dot" in out
    run = here / "runs" / "copy-scaled_dot"
    trained = (run / "eval.json").read_bytes()
    assert list(json.loads(trained)["by_length"]) == ["3"]

    status, out, err = end(start(here, "eval.py", "--workdir", "runs/copy-scaled_dot"))
    assert (status, err) == (0, "")
    assert "exact match" in out
    assert (run / "eval.json").read_bytes() == trained


# In this process.


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config=copyy"], "--config=copyy: there is no such file; did you mean copy? name"),
        ([COPY, "--workdr=x"], "Unknown command line flag 'workdr'; did you mean --workdir?\n"),
        ([COPY, "--nothing-like-it"], "Unknown command line flag 'nothing-like-it'\n"),
        ([COPY, "--num_processes=two"], "--num_processes='two': is no whole number\n"),
    ],
)
def test_what_there_is_not_is_told_with_what_is_most_like_it(monkeypatch, here, arguments, told):
    assert_refused(run(monkeypatch, "train.py", *arguments), here, told)


def test_64_bits_are_refused(monkeypatch, here, tmp_path):
    """As by JAX_ENABLE_X64=1: other sequences would be drawn, with which no run can be compared."""
    make_run(tmp_path / "run")
    commands = [
        ("train.py", COPY, *TINY),
        ("eval.py", f"--workdir={tmp_path / 'run'}"),
        ("scripts/sweep.py", COPY, *TINY, "--grid=score=mlp,dot"),
    ]
    jax.config.update("jax_enable_x64", True)
    try:
        for command in commands:
            assert_refused(run(monkeypatch, *command), here, "error: JAX_ENABLE_X64=1: the lab")
    finally:
        jax.config.update("jax_enable_x64", False)


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("train.steps=-5", ["config.train.steps=-5", "greater than or equal to 1"]),
        ("train.steps=2.5", ["error: config.train.steps='2.5': is no whole number\n"]),
        ("train.steps=many", ["error: config.train.steps='many': is no whole number\n"]),
        ("model.dropout=x=y: z", ["error: config.model.dropout='x=y: z': is no number\n"]),
        ("train.shard_parameters=3", ["shard_parameters='3': is neither true nor false\n"]),
        (
            "train.stpes=3",
            ["--config.train.stpes: did you mean steps? config.train has batch_size"],
        ),
        ("trian.steps=3", ["--config.trian.steps: did you mean train? config has eval"]),
        ("task.name=copyy", ["config.task.name='copyy': is unknown; did you mean copy? choose cm"]),
        ("model.decoder=grru", ["'grru': is unknown; did you mean gru? choose parallel"]),
        ("optimizer.learning_rate=nan", ["config.optimizer.learning_rate=nan", "finite"]),
        ("optimizer.learning_rate=-1", ["config.optimizer.learning_rate=-1", "greater than 0"]),
        ("model.dropout=1.5", ["config.model.dropout=1.5", "less than 1"]),
        (
            "optimizer.name=adagrad",
            ["config.optimizer.name='adagrad'", "'adam'", "'adamw'", "'sgd'"],
        ),
        ("model.decoder=rnn", ["config.model.decoder='rnn'", "parallel", "gru", "pooled"]),
        ("model.heads=3", ["config.model.heads=3", "config.model.dim=64"]),
        ("score.name=mpl", ["config.score.name='mpl'", *SCORES]),
        ("score.name=dot", ["config.score.options.hidden", "--config=copy:dot"]),
        ("score.options.hiden=5", ["score.options.hiden", "hidden"]),
        ("eval.lengths=(32,)", ["config.eval.lengths=32", "1 to 16", "config.task.max_length"]),
        ("modle.dim=5", ["--config.modle", "eval, model, name, num_seeds"]),
        ("model.dim.size=5", ["--config.model.dim.size", "config.model.dim has no fields"]),
        ("task.path=x", ["--config.task.path", "max_length, name, symbols"]),
    ],
)
def test_a_bad_setting_is_told_in_one_line(monkeypatch, here, flag, told):
    assert_refused(run(monkeypatch, "train.py", COPY, f"--config.{flag}"), here, *told)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config"], ["config"]),
        (["--config=."], ["config"]),
        (["--nonsense=1", COPY], ["nonsense"]),
        ([COPY, "--workdir=a", "steps=3"], ["'steps=3' is not a flag"]),
        ([COPY, "--config.task.max_length=2000"], ["config.task.max_length=2000", "1024"]),
        ([f"{COPY}:no_such:Score"], ["no_such"]),
    ],
)
def test_a_bad_command_is_told_in_one_line(monkeypatch, here, arguments, told):
    assert_refused(run(monkeypatch, "train.py", *arguments), here, *told)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("def get_config(:", ["bad.py:1: SyntaxError"]),
        ("1 / 0", ["division by zero"]),
        ("", ["get_config"]),
        ("import no_such_module", ["no_such_module"]),
        ("def get_config():\n  return {'train': {}}['model']", ["model"]),
    ],
)
def test_a_bad_config_file_is_told_in_one_line(monkeypatch, here, tmp_path, content, told):
    (tmp_path / "bad.py").write_text(content)
    done = run(monkeypatch, "train.py", f"--config={tmp_path / 'bad.py'}")
    assert_refused(done, here, *told)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, ["No such file or directory"]),
        (b"", ["0 of 0 distinct lines", "at least 3"]),
        (b"caf\xe9\nau\nlait", ["not UTF-8", "at byte 3"]),
        (b"a\nb\n" + 100 * b"c", ["2 of 3 distinct lines have at most 80 bytes"]),
    ],
)
def test_a_bad_text_is_told_in_one_line(monkeypatch, here, tmp_path, content, told):
    path = tmp_path / "lines.txt"
    if content is not None:
        path.write_bytes(content)
    config = f"--config={ROOT / 'configs' / 'text.py'}"
    done = run(monkeypatch, "train.py", config, f"--config.task.path={path}")
    assert_refused(done, here, f"config.task.path='{path}'", *told)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], ["--workdir is missing"]),
        (["--workdir=runs/nowhere"], ["--workdir=runs/nowhere", "no run here"]),
        (["runs/nowhere"], ["'runs/nowhere' is not a flag"]),
        (["--workdir=a", "--lengths=8;16"], ["--lengths=8;16", "8,16,32"]),
        (["--workdir=a", "--lengths="], ["--lengths="]),
        (["--workdir=a", "--step=last"], ["step", "last"]),
        (["--workdir=a", "--replica=first"], ["replica", "first"]),
        (["--workdir=a", "--text=a", "--lengths=8"], ["--text", "--lengths"]),
    ],
)
def test_a_bad_evaluation_is_told_in_one_line(monkeypatch, here, arguments, told):
    assert_refused(run(monkeypatch, "eval.py", *arguments), here, *told)


@pytest.mark.parametrize(
    ("flags", "lengths"), [([], None), (["--lengths=all"], "all"), (["--lengths=8,3"], [8, 3])]
)
def test_lengths_are_those_of_the_config_all_of_them_or_others(monkeypatch, flags, lengths):
    asked = []
    monkeypatch.setattr(eval_command, "evaluate", lambda *arguments: asked.append(arguments))
    assert run(monkeypatch, "eval.py", "--workdir=a", *flags) == (0, "", "")
    assert [arguments[2] for arguments in asked] == [lengths]


def test_while_a_command_runs_signals_are_answered_by_a_thread(monkeypatch):
    usual, found = signal.getsignal(signal.SIGINT), []

    def evaluate(*_):
        found.append(signal.getsignal(signal.SIGINT))
        found.append(signal.set_wakeup_fd(-1))
        signal.set_wakeup_fd(found[-1])

    monkeypatch.setattr(eval_command, "evaluate", evaluate)
    assert run(monkeypatch, "eval.py", "--workdir=a") == (0, "", "")
    assert found[0] is interruption._leave_to_the_thread
    assert found[1] > 0
    assert signal.getsignal(signal.SIGINT) is usual


def test_another_experiment_in_the_workdir_is_told_in_one_line(monkeypatch, here):
    make_run(here / "mine")
    (here / "mine" / "result.json").write_text("{}")
    before = files(here)
    status, _, err = run(monkeypatch, "train.py", COPY, "--workdir=mine")
    assert status == 2
    assert err.startswith("error: --workdir=mine: holds another experiment (config.name: ")
    assert err.count("\n") == 1
    assert files(here) == before


def test_a_replica_that_is_not_there_is_told_in_one_line(monkeypatch, here):
    make_run(here / "mine")
    status, out, err = run(monkeypatch, "eval.py", "--workdir=mine", "--replica=1")
    assert (status, out) == (2, "")
    assert err == "error: --replica=1: the replicas of mine are 0 to 0\n"


def test_lengths_beyond_the_model_are_told_in_one_line(monkeypatch, here):
    make_run(here / "mine")
    before = files(here)
    status, out, err = run(monkeypatch, "eval.py", "--workdir=mine", "--lengths=2,32")
    assert (status, out) == (2, "")
    assert err.startswith("error: --lengths=32: the model has positions for lengths 1 to 4")
    assert err.count("\n") == 1
    assert files(here) == before


@pytest.mark.parametrize("error", [TrainingError("no\nhope"), OSError("no hope")])
def test_training_that_fails_is_told_in_one_line_with_another_status(monkeypatch, error):
    monkeypatch.setattr(train, "train", Mock(side_effect=error))
    assert run(monkeypatch, "train.py", COPY) == (1, "", "error: no hope\n")


@pytest.mark.parametrize(
    ("error", "told"),
    [(OSError("disk full"), "error: disk full\n"), (TrainingError("no"), "")],
)
def test_of_several_processes_each_tells_what_went_wrong_in_it_alone(monkeypatch, error, told):
    monkeypatch.setattr(train, "train", Mock(side_effect=error))
    monkeypatch.setattr(hosts, "is_first", lambda: False)
    assert run(monkeypatch, "train.py", COPY) == (1, "", told)


def test_a_bad_config_is_told_before_processes_meet(monkeypatch, here):
    monkeypatch.setattr(hosts, "join", lambda *_: pytest.fail("they met"))
    done = run(monkeypatch, "train.py", COPY, "--config.train.steps=-5")
    assert_refused(done, here, "config.train.steps=-5")


@pytest.mark.parametrize("flag", ["--list", "--help"])
def test_a_reader_who_has_read_enough_is_no_error(flag, monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(sys, "argv", ["train.py", flag])
    with (
        os.fdopen(writing, "w") as out,
        contextlib.redirect_stdout(out),
        pytest.raises(SystemExit) as end,
    ):
        train.main()
    assert (end.value.code, capsys.readouterr().err) == (128 + signal.SIGPIPE, "")
