"""Shared by the tests of the claims."""

from pathlib import Path

import pytest

from attention.lab.claims import drawing

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    """Where config files are found, wherever the tests are started."""
    monkeypatch.chdir(ROOT)


@pytest.fixture
def drawn(monkeypatch):
    """The names of the figures, which are not drawn."""
    names = []
    for kind in ("lines", "heat_map"):
        monkeypatch.setattr(drawing, kind, lambda path, *_, **__: names.append(path.name))
    return names
