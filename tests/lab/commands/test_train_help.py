"""That `train.py --help` tells the fields of a config, and `--list` all names."""

import re

import pytest
from command_lines import COPY, run

from attention.biases import BIASES
from attention.lab.commands.listing import listing
from attention.lab.commands.shown_fields import described, fields_of
from attention.lab.configs import default_config, shipped
from attention.lab.models.decoders import DECODERS
from attention.lab.models.encoders import ENCODERS
from attention.lab.settings import EvalSettings, OptimizerSettings, ReplicaSettings
from attention.lab.tasks.catalogue import TASKS
from attention.normalizers import NORMALIZERS
from attention.scores import SCORES


def entries(text):
    """What is told of each field, by the field, its value first."""
    told = re.findall(r"^  --config\.([\w.]+)=(.*)\n((?: {6}.*\n?)*)", text, re.MULTILINE)
    return {field: [value, *map(str.strip, lines.splitlines())] for field, value, lines in told}


def fields(config, path=""):
    """The dotted paths of a config's fields."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from fields(value, f"{path}{name}.")
        else:
            yield path + name


def test_help_lists_every_field_that_a_flag_can_set(monkeypatch):
    status, out, err = run(monkeypatch, "train.py", "--help")
    assert (status, err) == (0, "")
    assert "--workdir" in out
    assert entries(out).keys() == {*fields(default_config().to_dict())} - {"replicas"}
    assert entries(out)["task.max_length"] == [
        "16",
        "int from 1 to 1024",
        "greatest length, in symbols.",
    ]
    assert entries(out)["train.steps"] == ["1000", "int from 1", "updates"]
    assert entries(out)["score.options.hidden"] == ["64", "int", "number of hidden units."]
    assert max(map(len, fields_of(None, []).splitlines())) <= 80


@pytest.mark.parametrize("flags", [["--help", f"{COPY}:cosine"], [f"{COPY}:cosine", "-h"]])
def test_help_is_of_the_config_that_is_named_as_flags_change_it(monkeypatch, flags):
    changes = ["--config.model.decoder=gru", "--config.train.steps", "7"]
    status, out, _ = run(monkeypatch, "train.py", *flags, *changes)
    told = entries(out)
    assert status == 0
    assert told["train.steps"][0] == "7"
    assert told["model.decoder"][0] == "gru"
    assert told["score.options.sharpness"][0] == "8.0"
    assert told["eval.lengths"][0].startswith("(1,2,3,")
    assert "only with decoder parallel" in " ".join(told["model.queries"])


def test_help_with_a_config_that_is_not_there_names_it(monkeypatch):
    status, out, err = run(monkeypatch, "train.py", "--help", "--config=nope")
    assert (status, err.count("\n")) == (2, 1)
    assert "--workdir" in out
    assert err.startswith("error: --config=nope: there is no such file")


def test_a_range_is_told_in_words():
    def told(section, field):
        return described(section.model_fields[field])

    assert told(EvalSettings, "sequences") == "int from 1 to 2**20"
    assert told(EvalSettings, "lengths") == "any number of int"
    assert told(ReplicaSettings, "seed") == "int from 0 to below 2**32"
    assert told(OptimizerSettings, "warmup_fraction") == "float from 0 to below 1"
    assert told(OptimizerSettings, "clip_norm") == "float above 0"
    assert told(OptimizerSettings, "schedule") == "one of cosine, constant"


def test_all_names_are_listed_with_a_line_each(monkeypatch):
    status, out, err = run(monkeypatch, "train.py", "--list")
    assert (status, err) == (0, "")
    assert out == f"{listing()}\n"
    parts = [part.splitlines()[1:] for part in listing().split("\n\n")]
    choices = [shipped(), SCORES, TASKS, ENCODERS, DECODERS, NORMALIZERS, BIASES, {"copy"}]
    assert [[line.split()[0] for line in part] for part in parts] == list(map(list, choices))
    assert all(len(line.split()) > 3 for part in parts for line in part)
    assert run(monkeypatch, "train.py", "--list", "--config.train.steps=3")[0] == 2
