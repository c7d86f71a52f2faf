"""That commands answer Ctrl-C from their first line on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ["train.py", "eval.py", *(f"scripts/{path.name}" for path in ROOT.glob("scripts/*.py"))]
INTERRUPTED_WHEN_IMPORTED = "import os, signal, time; os.kill(os.getpid(), {}); time.sleep(60)"


def run(directory, number, *arguments):
    """Exit status and what is told, where Ctrl-C comes while the package is imported."""
    (directory / "attention").mkdir()
    module = directory / "attention" / "__init__.py"
    module.write_text(INTERRUPTED_WHEN_IMPORTED.format(f"signal.{number}"))
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        env=os.environ | {"PYTHONPATH": f"{directory}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_during_imports_ends_a_script_in_one_line(tmp_path, script):
    assert run(tmp_path, "SIGINT", ROOT / script) == (130, "", "interrupted (SIGINT)\n")


@pytest.mark.parametrize(("number", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_command_can_be_named(tmp_path, number, status):
    done = run(tmp_path, number, "-m", "attention_lab", "train", "--config=copy")
    assert done == (status, "", f"interrupted ({number})\n")


@pytest.mark.parametrize("arguments", [[], ["trian"]])
def test_a_command_that_there_is_not_is_refused(tmp_path, arguments):
    status, out, err = run(tmp_path, "SIGINT", "-m", "attention_lab", *arguments)
    assert (status, out) == (2, "")
    assert err == "error: name a command: train, eval, sweep, claims, benchmark, repeat, docs\n"
