"""Shared by the tests of sweeps."""

import pytest
from command_lines import ROOT
from small_sweeps import trials_of

from attention.lab.sweeps.folder import begin


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty directory to work in."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the processes that tests start
    path = tmp_path / "here"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


@pytest.fixture
def begun(here):
    """A folder, and the trials of which nothing is done."""
    trials = trials_of(["score=linear"], 3)
    folder = here / "sweep"
    folder.mkdir()
    begin(folder, trials)
    return folder, trials
