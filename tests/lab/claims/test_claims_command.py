"""What a person sees who runs `scripts/claims.py`."""

import runpy
import sys
from pathlib import Path

import pytest
from absl.testing import flagsaver
from command_lines import usual_signals
from rich.console import Console

from attention.lab.claims import CLAIMS
from attention.lab.claims.cache import Cache
from attention.lab.claims.claim import Claim, Finding
from attention.lab.claims.experiments import experiment
from attention.lab.claims.results import Result
from attention.lab.claims.size import FULL, QUICK
from attention.lab.commands import claims as command
from attention.lab.commands import packages

ROOT = Path(__file__).parents[3]


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the script: exit status, standard output and standard error."""
    usual = flagsaver.save_flag_values(command.FLAGS)

    def script(*arguments):
        monkeypatch.setattr(sys, "argv", ["claims.py", *arguments])
        with usual_signals(), pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "scripts" / "claims.py"), run_name="__main__")
        flagsaver.restore_flag_values(usual, command.FLAGS)
        return end.value.code, *capsys.readouterr()

    return script


@pytest.fixture
def asked(monkeypatch):
    """Notes what the command asks for, in the place of doing it."""
    notes = []
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: name)  # all is installed

    class Noted:
        def __init__(self, number):
            self._number = number

        def run(self, size, cache, console, *, refresh):
            notes.append((self._number, size, cache.path, refresh))

    monkeypatch.setattr(command, "CLAIMS", {number: Noted(number) for number in CLAIMS})
    monkeypatch.setattr(command, "write_page", lambda page, *_: notes.append(page))
    return notes


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "one of the arguments --quick --full is required"),
        (["--quick", "--full"], "not allowed with argument"),
        (["--quick", "--only=4,x"], "'4,x' is not numbers of claims, 1 to 9, such as 4,6"),
        (["--quick", "--only=10"], "'10' is not numbers of claims, 1 to 9"),
        (["--quick", "--onyl=4"], "Unknown command line flag 'onyl'"),
        (["--quick", "4"], "'4' is not a flag"),
    ],
)
def test_a_bad_flag_is_told_in_a_line(call, asked, flags, told):
    status, _, err = call(*flags)
    assert status == 2
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert told in line
    assert asked == []


@pytest.mark.parametrize(("package", "extra"), [("matplotlib", "figures"), ("sklearn", "tasks")])
def test_a_missing_package_is_told_with_its_extra(call, asked, monkeypatch, package, extra):
    monkeypatch.setattr(
        packages.importlib.util, "find_spec", lambda name: None if name == package else name
    )
    status, _, err = call("--quick")
    told = f"error: {package} is not installed; it is in the extra '{extra}'\n"
    assert (status, err) == (2, told)
    assert asked == []


def test_all_claims_are_run_and_the_page_is_written_after_each(call, asked):
    status, out, _ = call("--full")
    page, runs = ROOT / "docs" / "claims.md", ROOT / "runs" / "claims"
    assert status == 0
    assert asked[::2] == [(number, FULL, runs, False) for number in CLAIMS]
    assert asked[1::2] == [page] * len(CLAIMS)
    assert out.count(f"s; {page}\n") == len(CLAIMS)


def test_the_flags_are_heeded(call, asked):
    flags = ("--quick", "--only", "6,4", "--page", "a/b.md", "--runs", "c", "--refresh")
    assert call(*flags)[0] == 0
    page = Path("a/b.md")
    assert asked == [(6, QUICK, Path("c"), True), page, (4, QUICK, Path("c"), True), page]


def test_an_interruption_says_how_to_go_on(call, asked, monkeypatch):
    class Interrupted:
        def run(self, *_, **__):
            raise KeyboardInterrupt

    monkeypatch.setitem(command.CLAIMS, 5, Interrupted())
    status, out, _ = call("--quick", "--only", "4,5,6")
    assert status == 130
    assert out.endswith("interrupted; run the same command again to go on\n")
    assert [note[0] for note in asked[::2]] == [4]


@pytest.mark.parametrize("refresh", [False, True])
def test_a_claim_runs_its_experiments_and_what_follows_from_them(tmp_path, monkeypatch, refresh):
    runs = []

    def noted(self, experiment, console, *, refresh=False):
        runs.append((experiment, refresh))

    def results(self, experiments):
        return {each: Result([]) for each in experiments}

    monkeypatch.setattr(Cache, "run", noted)
    monkeypatch.setattr(Cache, "results", results)
    first, second, third = (experiment("copy", score, {}) for score in ("mlp", "dot", "linear"))
    claim = Claim(
        "title",
        (lambda size: {("a", 1): first, ("b", 1): second}, lambda size: {("c", 1): first}),
        lambda results, size, figures: Finding("holds", []),
        more=lambda results, size: [third] if set(results) == {first, second} else [],
    )
    claim.run(QUICK, Cache(tmp_path), Console(), refresh=refresh)
    assert runs == [(each, refresh) for each in (first, second, third)]
    assert set(claim.find(QUICK, Cache(tmp_path), tmp_path)[1]) == {first, second, third}
