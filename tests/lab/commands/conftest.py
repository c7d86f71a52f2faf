"""Shared by the tests of commands."""

import pytest
from command_lines import ROOT


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty directory to work in."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the processes that tests start
    path = tmp_path / "here"
    path.mkdir()
    monkeypatch.chdir(path)
    return path
