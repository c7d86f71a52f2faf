"""That places are tried before anything begins, and that nothing is left of the trial."""

import os

import pytest
from command_lines import COPY, TINY, run
from small import files

from attention.lab.commands.places import file_for, folder_for
from attention.lab.errors import UsageError


@pytest.mark.parametrize("named", ["new", "new/deep/er", ".", "there", "../here/x"])
def test_a_folder_that_can_be_written_to_is_left_as_it_was(here, named):
    (here / "there").mkdir()
    (here / "there" / "mine").touch()
    assert str(folder_for("--to", named)) == named
    assert files(here) == {"there/mine": b""}
    assert os.listdir() == ["there"]


BAD = [
    ("", "name a"),
    ("mine/new", "mine is no directory"),
    ("mine/new/deeper", "mine is no directory"),
    ("/proc/nope/w", "cannot be written to"),
    ("x" * 300 + "/y", "File name too long"),
    ("loop/y", "loop is no directory"),
]


@pytest.mark.parametrize(("named", "told"), BAD)
@pytest.mark.parametrize("place_for", [folder_for, file_for])
def test_a_place_that_cannot_be_written_to_is_told_with_its_flag(here, place_for, named, told):
    (here / "mine").touch()
    (here / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match=rf"^--to={named}: .*({told})|^--to=: ({told})"):
        place_for("--to", named)
    assert set(os.listdir()) == {"mine", "loop"}


def test_a_file_is_no_folder_and_a_folder_no_file(here):
    (here / "mine").touch()
    with pytest.raises(UsageError, match=r"^--to=mine: mine is no directory"):
        folder_for("--to", "mine")
    assert str(file_for("--to", "mine")) == "mine"
    with pytest.raises(UsageError, match=r"^--to=\.: is a directory"):
        file_for("--to", ".")


def test_nothing_is_left_of_a_trial_that_fails(here, monkeypatch):
    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.touch", fail)
    with pytest.raises(UsageError, match=r"--to=a/b: cannot be written to: No space left"):
        folder_for("--to", "a/b")
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("train.py", [COPY, *TINY, "--workdir"]),
        ("scripts/repeat.py", [COPY, *TINY, "--workdir"]),
        ("scripts/claims.py", ["--quick", "--page"]),
        ("scripts/claims.py", ["--quick", "--runs"]),
        ("scripts/benchmark.py", ["--output"]),
    ],
)
def test_a_command_names_the_flag_in_one_line(monkeypatch, here, script, flags):
    status, out, err = run(monkeypatch, script, *flags[:-1], f"{flags[-1]}=/proc/nope/w")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {flags[-1]}=/proc/nope/w: cannot be written to: ")
    assert files(here) == {}


def test_a_run_that_cannot_be_written_to_is_not_evaluated(monkeypatch, here):
    def fail(flag, named):
        raise UsageError(f"{flag}={named}: cannot be written to")

    monkeypatch.setattr("attention.lab.commands.eval.folder_for", fail)
    (here / "run").mkdir()
    (here / "run" / "config.json").write_text("{}")
    told = "error: --workdir=run: cannot be written to\n"
    assert run(monkeypatch, "eval.py", "--workdir=run") == (2, "", told)
