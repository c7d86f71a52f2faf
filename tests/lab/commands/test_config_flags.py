"""That a config is found by its name, and that what does not suit it is told with what does."""

from pathlib import Path

import pytest
from command_lines import ROOT, TINY, run

from attention.lab.commands.config_flags import settings_of, told_what_config_suits
from attention.lab.configs import find_config, load, shipped
from attention.lab.errors import UsageError
from attention.lab.sweeps.space import read_space

EMPTY = "from ml_collections import ConfigDict\ndef get_config(*score):\n    return ConfigDict("


def test_a_name_is_enough_wherever_one_is(here):
    assert settings_of("copy:bilinear", []) == settings_of(f"{ROOT}/configs/copy.py:bilinear", [])
    assert settings_of("copy:bilinear", []).score.name == "bilinear"
    assert read_space("copy") == read_space(f"{ROOT}/configs/sweeps/copy.py")
    assert shipped().keys() == {path.stem for path in (ROOT / "configs").glob("*.py")}


def test_a_file_is_taken_before_a_name_and_a_folder_is_in_nobodys_way(here):
    (here / "copy").mkdir()
    assert find_config("copy") == ROOT / "configs" / "copy.py"
    (here / "copy").rmdir()
    (here / "copy").write_text((ROOT / "configs" / "sort.py").read_text())
    assert find_config("copy") == Path("copy")
    assert load("copy").task.name == "sort"


@pytest.mark.parametrize("flags", [[], ["--config.train.steps=5"], ["--config.task.name=text"]])
@pytest.mark.parametrize("named", ["", "nope", "nope.py", "copy.py", ".", "configs/nope.py:dot"])
def test_a_config_that_is_not_there_is_named_whatever_else_is_asked(here, named, flags):
    told = rf"^--config={named.partition(':')[0]}: there is no such file; .*, copy, .*, text$"
    with pytest.raises(UsageError, match=told):
        settings_of(named, flags)


def test_a_config_without_fields_is_named(here):
    (here / "mine.py").write_text(f"{EMPTY})\n")
    for field in ("train.steps", "task.name", "model.decoder"):
        told = rf"^--config\.{field}: config has no fields, in mine\.py$"
        with pytest.raises(UsageError, match=told):
            settings_of("mine.py", [f"--config.{field}=5"])
    (here / "mine.py").write_text(f"{EMPTY}dict(task=3))\n")
    with pytest.raises(UsageError, match=r"^--config\.task\.name: config\.task has no fields$"):
        settings_of("mine.py", ["--config.task.name=text"])


@pytest.mark.parametrize(
    ("named", "task"),
    [("copy", "text"), ("copy:dot", "digits"), ("cmudict", "recall"), ("text", "cmudict")],
)
def test_a_task_with_data_of_its_own_has_a_config_of_its_own(named, task):
    told = rf"^--config\.task\.name={task}: .* the config {named} .*; use --config={task}$"
    with pytest.raises(UsageError, match=told):
        settings_of(named, [f"--config.task.name={task}"])
    with pytest.raises(UsageError, match=told):
        settings_of(named, ["--config.task.name", task])


def test_a_task_that_draws_the_same_may_take_the_place_of_another():
    assert settings_of("copy", ["--config.task.name=reverse"]).task.name == "reverse"
    assert settings_of("text", ["--config.task.name=text"]).task.name == "text"


def test_where_a_chosen_task_or_decoder_does_not_fit_the_config_says_for_what_it_is():
    with pytest.raises(UsageError) as refusal:
        settings_of("long", ["--config.task.name=sort"])
    assert str(refusal.value).startswith("config.eval.lengths=1024: ")
    assert str(refusal.value).endswith(
        "; the config long is made for config.task.name=copy, for the task 'sort' there is"
        " --config=sort"
    )
    with pytest.raises(UsageError, match=r"long is made for config\.model\.decoder=location$"):
        settings_of("long", ["--config.model.decoder=parallel"])
    with pytest.raises(UsageError, match=r"^config\.task\.name='tex': is unknown; .* module:Name$"):
        settings_of("copy", ["--config.task.name=tex"])
    with pytest.raises(UsageError, match=r"^no$"), told_what_config_suits("copy", []):
        raise UsageError("no")


def test_what_is_refused_only_when_all_is_built_says_so_too(monkeypatch, here):
    status, out, err = run(
        monkeypatch, "train.py", "--config=copy_gru", "--config.task.name=lookup", *TINY
    )
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "only the decoder 'parallel' answers" in err
    assert err.endswith("for the task 'lookup' there is --config=lookup\n")


BAD_NAMES = ["../../x", "/x", "a/b", "a\\b", "", ".", "..", ".x", "-x", "x\n", "\0", "ä" * 51]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_is_no_part_of_a_path_is_refused(here, name):
    (here / "mine.py").write_text(f"{EMPTY}dict(name={name!r}, task=dict(name='copy')))\n")
    for named, flags in [("copy", [f"--config.name={name}"]), ("mine.py", [])]:
        with pytest.raises(UsageError) as refusal:
            settings_of(named, flags)
        assert str(refusal.value).startswith(f"config.name={name!r}: ")


@pytest.mark.parametrize("name", ["x", "my config", "naïve_1.5", "a..b", "ä" * 50])
def test_other_names_are_taken(name):
    assert settings_of("copy", [f"--config.name={name}"]).name == name
