"""Shared by the tests of the claims."""

import pytest

from attention.lab.claims import drawing


@pytest.fixture
def drawn(monkeypatch):
    """The names of the figures, which are not drawn."""
    names = []
    for kind in ("lines", "heat_map"):
        monkeypatch.setattr(drawing, kind, lambda path, *_, **__: names.append(path.name))
    return names
