"""Shared by the tests of sweeps."""

import pytest
from command_lines import here  # noqa: F401 - a fixture
from small_sweeps import trials_of

from attention.lab.sweeps.folder import begin


@pytest.fixture
def begun(here):  # noqa: F811
    """A folder, and the trials of which nothing is done."""
    trials = trials_of(["score=linear"], 3)
    folder = here / "sweep"
    folder.mkdir()
    begin(folder, trials)
    return folder, trials
