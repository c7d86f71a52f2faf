"""Trained runs, shared by the tests of this directory: copy one before changing it."""

import pytest
from small import DICTIONARY, small, train_quietly

from attention.lab.tasks import pronunciation

LINES = [f"{word} {number}" for word in ("née", "ab", "c", "日本") for number in range(8)]


@pytest.fixture(scope="session")
def settings():
    """An experiment whose state is all that it can be: dropout, moments, decay."""
    return small(
        {
            "model.dropout": 0.1,
            "optimizer.name": "adamw",
            "optimizer.weight_decay": 0.01,
            "eval.lengths": (1, 4),
        }
    )


@pytest.fixture(scope="session")
def finished(settings, tmp_path_factory):
    """The directory of a finished run of `settings`."""
    path = tmp_path_factory.mktemp("runs") / "copy"
    assert train_quietly(settings, path)[0] == 0
    return path


@pytest.fixture(scope="session")
def text_settings(tmp_path_factory):
    """An experiment on a text of 32 lines of 3 to 8 bytes."""
    file = tmp_path_factory.mktemp("text") / "lines.txt"
    file.write_text("\n".join(LINES), encoding="utf-8")
    return small(
        {
            "task.path": str(file),
            "task.max_length": 7,
            "train.steps": 2,
            "eval.lengths": (3, 5),
        },
        task="text",
    )


@pytest.fixture(scope="session")
def finished_text(text_settings, tmp_path_factory):
    """The directory of a finished run of `text_settings`."""
    path = tmp_path_factory.mktemp("runs") / "text"
    assert train_quietly(text_settings, path)[0] == 0
    return path


@pytest.fixture(scope="session")
def finished_cmudict(tmp_path_factory):
    """The directory of a finished run on a dictionary of four words."""
    path = tmp_path_factory.mktemp("runs") / "cmudict"
    settings = small({"train.steps": 2, "model.decoder": "gru"}, task="cmudict")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pronunciation, "packaged_dictionary", lambda: DICTIONARY)
        assert train_quietly(settings, path)[0] == 0
    return path
