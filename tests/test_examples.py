"""Each file of examples/ runs by itself, and the lab can train what it defines."""

import runpy
from pathlib import Path

import pytest

from attention.lab.commands.config_flags import settings_of
from attention.lab.training.build import build

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SHOWN = {
    "linen_model": "['attention']['score']['weight'] (2, 8, 8)",
    "nnx_model": "mean square error after 200 updates",
    "own_score": "context (5, 4) weights (2, 5, 9)",
    "own_task": "target 2 0 4 1 4 7",
}


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_runs(file, capsys):
    runpy.run_path(str(file), run_name="__main__")
    assert SHOWN[file.stem] in capsys.readouterr().out


def test_the_nnx_model_learns():
    main = runpy.run_path(str(ROOT / "examples" / "nnx_model.py"))["main"]
    assert main(updates=60) < 0.05


@pytest.mark.parametrize(
    ("score", "flags"),
    [
        (":examples.own_score:Distance", []),
        ("", ["--config.task.name=examples.own_task:Rotate", "--config.task.places=2"]),
    ],
    ids=["own_score", "own_task"],
)
def test_the_lab_finds_an_example_by_its_path(score, flags, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    settings = settings_of(f"{ROOT / 'configs' / 'copy.py'}{score}", flags)
    assert build(settings, None).settings == settings
