import builtins
import importlib
import json
import struct
import sys

import numpy as np
import pytest
from small import small
from tensorboardX.proto.event_pb2 import Event

from attention.lab.parallel.replicas import join
from attention.lab.runs import log as log_module
from attention.lab.runs.log import TAIL_BYTES, Log, last_step, read_lines


def lines(path):
    return list(map(json.loads, (path / "metrics.jsonl").read_text().splitlines()))


def events(path):
    """Of a file, or of all files below a path."""
    for file in [path] if path.is_file() else sorted(path.rglob("*tfevents*")):
        data = file.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]


def summaries(path):
    """What TensorBoard would show: tag, step, value."""
    return [
        (value.tag, event.step, value) for event in events(path) for value in event.summary.value
    ]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A log with everything in it."""
    path = tmp_path_factory.mktemp("log")
    with Log(path, small(), 0) as log:
        log.scalars(5, "train", {0: {"loss": 0.25, "nothing": None}})
        log.image(5, "attention", np.full((3, 7, 3), 11, np.uint8))
        log.result(5, {"exact_match": 0.5, "sequences": 7, "by_head": [1.0], "nothing": None})
        log.scalars(5, "test", {0: {"exact_match": 0.5, "sequences": 7}})
    return path


def test_metrics_are_lines_of_json(written):
    assert lines(written) == [
        {"step": 5, "kind": "train", "loss": 0.25, "nothing": None},
        {"step": 5, "kind": "test", "exact_match": 0.5, "sequences": 7},
    ]


def curves(path):
    """The values of each curve of the loss, by the folder of its events."""
    folders = sorted({file.parent for file in path.rglob("*tfevents*")})
    found = {}
    for folder in folders:
        files = sorted(folder.glob("*tfevents*"))
        values = [value for file in files for value in summaries(file)]
        found[folder.name] = [v.simple_value for tag, _, v in values if tag == "train/loss"]
    return found


def test_several_seeds_have_a_line_each_and_a_curve_each_beside_their_mean(tmp_path):
    with Log(tmp_path, small({"num_seeds": 2, "seed": 3}), 0) as log:
        log.scalars(5, "train", {0: {"loss": 0.25}, 1: {"loss": 0.75}})
        log.flush()
        log.scalars(7, "train", {1: {"loss": 0.125}})  # the other has stopped
    assert lines(tmp_path) == [
        {"step": 5, "kind": "train", "replica": 0, "seed": 3, "loss": 0.25},
        {"step": 5, "kind": "train", "replica": 1, "seed": 4, "loss": 0.75},
        {"step": 7, "kind": "train", "replica": 1, "seed": 4, "loss": 0.125},
    ]
    expected = {"tensorboard": [0.5, 0.125], "seed_3": [0.25], "seed_4": [0.75, 0.125]}
    assert curves(tmp_path) == expected


def test_replicas_that_differ_in_more_than_seeds_have_curves_by_their_numbers(tmp_path):
    settings = join([small({"optimizer.learning_rate": rate}) for rate in (0.1, 0.2, 0.3)])
    with Log(tmp_path, settings, 0) as log:
        log.scalars(5, "train", {2: {"loss": 0.25}})
    assert curves(tmp_path)["replica_2"] == [0.25]


def test_of_many_replicas_the_first_have_curves_and_all_have_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(log_module, "MOST_CURVES", 2)
    with Log(tmp_path, small({"num_seeds": 3}), 0) as log:
        log.scalars(5, "train", {number: {"loss": float(number)} for number in range(3)})
    assert set(curves(tmp_path)) == {"tensorboard", "seed_0", "seed_1"}
    assert [line["seed"] for line in lines(tmp_path)] == [0, 1, 2]


def test_tensorboard_has_the_scalars(written):
    scalars = [
        (step, value.simple_value) for tag, step, value in summaries(written) if tag == "train/loss"
    ]
    assert scalars == [(5, 0.25)]
    assert "train/nothing" not in {tag for tag, _, _ in summaries(written)}
    assert "test/sequences" not in {tag for tag, _, _ in summaries(written)}


def test_the_curve_of_a_classifier_is_its_accuracy(tmp_path):
    metrics = {"loss": 0.25, "token_accuracy": 0.5, "exact_match": 0.5, "query_dependence": 0.75}
    with Log(tmp_path, small(task="digits"), 0) as log:
        log.scalars(5, "train", {0: metrics})
    assert lines(tmp_path) == [{"step": 5, "kind": "train", **metrics}]
    tags = {tag for tag, _, _ in summaries(tmp_path) if "/" in tag}
    assert tags == {"train/loss", "train/accuracy", "train/query_dependence", "config/text_summary"}


def test_tensorboard_has_the_image(written):
    (image,) = [(step, v.image) for tag, step, v in summaries(written) if tag == "attention"]
    assert (image[0], image[1].height, image[1].width) == (5, 3, 7)


def test_tensorboard_has_the_config_as_text(written):
    (text,) = [v for tag, _, v in summaries(written) if tag.startswith("config")]
    shown = text.tensor.string_val[0].decode()
    assert json.loads(shown.strip("`\n")) == json.loads(small().model_dump_json())


def test_tensorboard_has_the_hyper_parameters_beside_the_result(written):
    by_tag = {tag: value for tag, _, value in summaries(written)}
    hparams = by_tag["_hparams_/session_start_info"].metadata.plugin_data.content
    assert b"optimizer.learning_rate" in hparams
    assert b"score.options.hidden" in hparams
    assert by_tag["test/exact_match"].simple_value == 0.5


def test_what_a_killed_run_logged_beyond_its_checkpoint_is_dropped(tmp_path):
    with Log(tmp_path, small(), 0) as log:
        for step in (5, 10, 15):
            log.scalars(step, "train", {0: {"loss": float(step)}})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "kind": "tr')
    with Log(tmp_path, small(), 10) as log:
        log.scalars(12, "train", {0: {"loss": 12.0}})
    assert [line["step"] for line in lines(tmp_path)] == [5, 10, 12]


def test_a_half_written_line_is_dropped_also_if_it_is_the_only_one(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 3')
    with Log(tmp_path, small(), 10) as log:
        log.scalars(11, "train", {0: {}})
    assert lines(tmp_path) == [{"step": 11, "kind": "train"}]


def test_a_line_can_be_read_as_soon_as_it_is_logged(tmp_path):
    with Log(tmp_path, small(), 0) as log:
        for step in (5, 10):
            log.scalars(step, "train", {0: {"loss": 0.25}})
            assert last_step(tmp_path) == step
        assert [line["step"] for line in read_lines(tmp_path)] == [5, 10]


@pytest.mark.parametrize(
    ("content", "steps", "newest"),
    [
        (None, [], None),
        ("", [], None),
        ('{"step": 3', [], None),
        ('{"step": 3}\n', [3], 3),
        ('{"step": 3}\n{"step": 5}\n{"step": 7, "ki', [3, 5], 5),
        ('{"step": 3}\n{"step": 57}', [3, 57], 57),  # whole but for its newline
    ],
)
def test_a_half_written_line_is_not_read(tmp_path, content, steps, newest):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    assert [line["step"] for line in read_lines(tmp_path)] == steps
    assert last_step(tmp_path) == newest


@pytest.mark.parametrize("half", ["", '{"step": 9, "nam'])
def test_the_newest_step_is_read_from_the_end_of_a_large_file(tmp_path, half):
    long = {"step": 7, "values": TAIL_BYTES // 3 * "x"}  # so that the tail begins within a line
    content = "not to be read\n" + 4 * (json.dumps(long) + "\n") + half
    (tmp_path / "metrics.jsonl").write_text(content)
    assert last_step(tmp_path) == 7
    too_long = json.dumps(long | {"values": TAIL_BYTES * "x"}) + "\n"
    (tmp_path / "metrics.jsonl").write_text(too_long)
    assert last_step(tmp_path) is None


def test_everything_is_on_disk_after_a_flush(tmp_path):
    with Log(tmp_path, small(), 0) as log:
        log.scalars(5, "train", {0: {"loss": 0.25}})
        log.flush()
        assert [line["step"] for line in lines(tmp_path)] == [5]
        assert "train/loss" in {tag for tag, _, _ in summaries(tmp_path)}


def test_every_curve_forgets_what_a_killed_run_logged_beyond_its_checkpoint(tmp_path):
    with Log(tmp_path, small({"num_seeds": 3}), 10):
        pass
    told = [event.step for event in events(tmp_path) if event.HasField("session_log")]
    assert told == [11, 11, 11, 11]  # of the mean and of each seed


# What is installed beside it


@pytest.fixture
def slow_packages(tmp_path, monkeypatch):
    """Packages that tensorboardX imports if it can; the list of those that were imported."""
    for name in ("torch", "comet_ml", "boto3"):
        (tmp_path / "packages" / name).mkdir(parents=True)
        (tmp_path / "packages" / name / "__init__.py").write_text(
            "import builtins\nbuiltins.imported.append(__name__)\nclass Tensor: pass\n"
        )
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setattr(builtins, "imported", [], raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboardX"]:
        if ".proto" not in name:  # protocol buffers can be registered once alone
            monkeypatch.delitem(sys.modules, name)
    yield builtins.imported
    for name in ("torch", "comet_ml", "boto3"):
        sys.modules.pop(name, None)


def test_a_log_imports_nothing_that_it_has_no_use_for(slow_packages, tmp_path):
    with Log(tmp_path, small(), 0) as log:
        log.scalars(5, "train", {0: {"loss": 0.25}})
        log.image(5, "attention", np.full((3, 7, 3), 11, np.uint8))
        log.result(5, {"exact_match": 0.5})
    assert slow_packages == []
    assert "tensorboardX.writer" in sys.modules
    assert not {"torch", "comet_ml", "boto3", "google.cloud.storage"} & set(sys.modules)


def test_what_a_log_did_not_import_can_be_imported_afterwards(slow_packages, tmp_path):
    with Log(tmp_path, small(), 0):
        pass
    assert importlib.import_module("torch").Tensor
    assert slow_packages == ["torch"]


def test_what_was_imported_before_stays_as_it_was(slow_packages, tmp_path):
    torch = importlib.import_module("torch")
    with Log(tmp_path, small(), 0):
        pass
    assert sys.modules["torch"] is torch
    assert slow_packages == ["torch"]


@pytest.mark.parametrize("step", [0, 10])  # 0: of a run killed before its first checkpoint
def test_a_run_tells_tensorboard_to_forget_what_it_repeats(tmp_path, step):
    with Log(tmp_path, small(), step):
        pass
    told = [event.step for event in events(tmp_path) if event.HasField("session_log")]
    assert told == [step + 1]
