"""The README and the pages of docs/: links lead somewhere, code runs, commands are accepted."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from command_lines import TINY, here, run  # noqa: F401 (a fixture)

from attention.lab.commands import eval as eval_command
from attention.lab.commands import sweep as sweep_command
from attention.lab.commands import train as train_command
from attention.lab.commands.command_line import parse, refuse
from attention.lab.commands.config_flags import settings_of

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
COMMANDS = {
    "python train.py": train_command,
    "python eval.py": eval_command,
    "python scripts/sweep.py": sweep_command,
    "attention-train": train_command,
    "attention-eval": eval_command,
    "attention-sweep": sweep_command,
}
FENCED = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page, language):
    """The fenced blocks of a page in a language; the empty language is that of commands."""
    found = FENCED.findall(page.read_text(encoding="utf-8"))
    return [text for name, text in found if name == language]


def commands(page):
    """What a page tells to type, if it is a command of `COMMANDS`: module and arguments."""
    for text in blocks(page, ""):
        for line in text.replace("\\\n", " ").splitlines():
            typed = line.rpartition("&& ")[2]
            for program, module in COMMANDS.items():
                if typed.startswith(program + " "):
                    yield module, shlex.split(typed.removeprefix(program), comments=True)


def with_code(language=None):
    return [
        page for page in PAGES if (blocks(page, "python") if language else list(commands(page)))
    ]


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.fixture
def my_lab(here, monkeypatch):  # noqa: F811
    """Writes and runs the Python of a page: a block whose first line names a file is that file."""
    monkeypatch.syspath_prepend(str(here))

    def write(page):
        forget()
        for text in blocks(page, "python"):
            file = re.match(r"# (\S+\.py)\n", text)
            if file:
                (here / file[1]).parent.mkdir(exist_ok=True)
                (here / file[1]).write_text(text, encoding="utf-8")
            exec(compile(text, name_of(page), "exec"), {"__name__": file[1] if file else "page"})

    def forget():
        for name in [name for name in sys.modules if name.partition(".")[0] == "my_lab"]:
            del sys.modules[name]

    yield write
    forget()


def test_the_readme_can_be_read():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 110


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page):
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    files = [link.partition("#")[0] for link in links if not re.match(r"https?://|#", link)]
    assert [file for file in files if not (page.parent / file).exists()] == []


@pytest.mark.parametrize("page", with_code("python"), ids=name_of)
def test_python_runs(page, my_lab):
    my_lab(page)


@pytest.mark.parametrize("page", with_code(), ids=name_of)
def test_commands_are_accepted(page, my_lab, here, monkeypatch):  # noqa: F811
    (here / "configs").symlink_to(ROOT / "configs")
    my_lab(page)
    for module, arguments in commands(page):
        if {"--help", "--list"} & set(arguments):
            continue
        rest = parse(module.FLAGS, ["", *arguments], "")
        if module is train_command:
            settings_of(module.CONFIG.value, rest)
        elif module is sweep_command:
            module._trials(module.CONFIG.value, rest)
        else:
            refuse(rest)


@pytest.mark.parametrize("name", ["tutorial.md", "extending.md"])
def test_what_is_ones_own_trains(name, my_lab, here, monkeypatch):  # noqa: F811
    page = ROOT / "docs" / name
    (here / "configs").symlink_to(ROOT / "configs")
    my_lab(page)
    trained = set()
    for module, arguments in commands(page):
        mine = re.search(r"my_lab[./]\w+", " ".join(arguments)) if module is train_command else None
        if mine and mine[0] not in trained:
            trained.add(mine[0])
            tiny = [*TINY, f"--workdir=runs/{len(trained)}"]
            status, _, error = run(monkeypatch, "train.py", *arguments, *tiny)
            assert (status, error) == (0, ""), arguments
    assert len(trained) == 3


def test_a_page_that_tells_nonsense_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```\npython train.py --config configs/copy.py \\\n    --oops=1\n```\n")
    [(module, arguments)] = commands(page)
    assert (module, arguments) == (train_command, ["--config", "configs/copy.py", "--oops=1"])
