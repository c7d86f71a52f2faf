"""That what is told to type is there to be typed."""

import pytest

from attention.lab import repository


@pytest.mark.parametrize(
    ("is_checkout", "typed"),
    [
        (True, ["python eval.py", "pip install -e '.[tasks]'"]),
        (False, ["attention-eval", "pip install 'attention-lab[tasks]'"]),
    ],
)
def test_commands_are_those_of_a_checkout_or_of_a_wheel(monkeypatch, is_checkout, typed):
    monkeypatch.setattr(repository, "IS_CHECKOUT", is_checkout)
    assert [repository.command("eval"), repository.install("tasks")] == typed


def test_here_is_a_checkout():
    assert repository.IS_CHECKOUT
    assert (repository.ROOT / "train.py").is_file()
    assert (repository.CONFIGS / "copy.py").is_file()
