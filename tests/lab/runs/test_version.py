"""That version and hash of the code are of the code that a run depends on, and of no other."""

import importlib
import re
import subprocess

import pytest
from small import small

import attention
from attention.lab.repository import CONFIGS_IN_A_WHEEL
from attention.lab.runs.version import (
    NOT_IN_A_RUN,
    PACKAGE,
    code_hash,
    code_version,
    made_by,
    own_code_changed,
)


@pytest.fixture
def package(tmp_path):
    (tmp_path / "lab" / "sweeps").mkdir(parents=True)
    (tmp_path / "lab" / "loop.py").write_text("x = 1")
    (tmp_path / "lab" / "sweeps" / "jobs.py").write_text("x = 1")
    return tmp_path


def hash_of(package):
    code_hash.cache_clear()
    return code_hash(package)


def test_a_file_changed_added_or_renamed_changes_the_hash(package):
    hashes = [hash_of(package)]
    (package / "lab" / "loop.py").write_text("x = 2")
    hashes.append(hash_of(package))
    (package / "lab" / "more.py").write_text("")
    hashes.append(hash_of(package))
    (package / "lab" / "more.py").rename(package / "lab" / "other.py")
    hashes.append(hash_of(package))
    assert len(set(hashes)) == 4
    assert {len(found) for found in hashes} == {12}


def test_what_only_starts_runs_does_not_count(package):
    before = hash_of(package)
    (package / "lab" / "sweeps" / "jobs.py").write_text("x = 2")
    (package / "lab" / "sweeps" / "notes.txt").write_text("no code")
    assert hash_of(package) == before
    assert all((PACKAGE / room).is_dir() for room in NOT_IN_A_RUN if room != CONFIGS_IN_A_WHEEL)


def test_a_wheel_has_the_hash_of_the_checkout(package):
    """Though it carries the configs, of which a run keeps all that counts."""
    before = hash_of(package)
    (package / CONFIGS_IN_A_WHEEL).mkdir()
    (package / CONFIGS_IN_A_WHEEL / "copy.py").write_text("x = 1")
    assert hash_of(package) == before


def test_a_run_tells_which_files_of_ones_own_have_changed(tmp_path, monkeypatch):
    """The file of the score, and those that it takes something from, but no installed package."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    helpers = "import {0}_deep\ndef product(a, b):\n    return a @ b\n"
    for name, text in {
        "changing": "import jax\nimport changing_help\nfrom changing_more import product\n",
        "changing_help": helpers.format("changing"),
        "changing_more": "def product(a, b):\n    return a @ b\n",
        "changing_deep": "",
        "changing_idle": "",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    settings = small(score="changing:product")
    assert own_code_changed(made_by(settings), settings) == ""  # nothing is imported yet
    importlib.import_module("changing")
    importlib.import_module("changing_idle")
    record = made_by(settings)
    assert list(record["own_code"]) == [
        *("changing", "changing_deep", "changing_help", "changing_more"),
    ]
    assert own_code_changed(record, settings) == ""
    assert own_code_changed({}, settings) == ""  # of an older run
    (tmp_path / "changing_idle.py").write_text("x = 1")
    (tmp_path / "changing_deep.py").write_text("x = 1")
    told = own_code_changed(record, settings)
    assert told == "changing_deep.py has changed since the run began"
    (tmp_path / "changing.py").write_text("x = 1")
    told = own_code_changed(record, settings)
    assert told == "changing.py, changing_deep.py have changed since the run began"
    assert made_by(small())["own_code"] == {}


def git(folder, *arguments):
    who = ("-c", "user.name=me", "-c", "user.email=me")
    subprocess.run(["git", "-C", folder, *who, *arguments], check=True, capture_output=True)


def test_a_commit_is_told_if_it_is_of_these_sources(tmp_path, monkeypatch):
    """Not that of a project in which the package is installed, nor that of a hook's repository."""
    installed = tmp_path / ".venv" / "attention"
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "theirs")
    assert code_version(installed) == attention.__version__
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "ours")
    told = code_version(installed)
    assert re.fullmatch(rf"{re.escape(attention.__version__)}\+[0-9a-f]+", told)
    (installed / "__init__.py").write_text("x = 1")
    assert code_version(installed) == f"{told}.changed"
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert code_version(installed) == f"{told}.changed"
