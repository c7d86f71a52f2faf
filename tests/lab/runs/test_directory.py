import json

import pytest
from small import files, small

from attention.lab.errors import UsageError
from attention.lab.parallel import hosts
from attention.lab.runs import directory
from attention.lab.runs.checkpoints import MANIFEST
from attention.lab.runs.directory import default_path, open_for_evaluation, open_for_training
from attention.lab.runs.version import code_version

SETTINGS = small({"eval.lengths": (1, 3)})
TEXT = small(task="text")


def enter(path, settings=SETTINGS, source=None):
    """Opens a run for training, and leaves it."""
    with open_for_training(path, settings, source) as run:
        return run


def make_checkpoint(path, step=3):
    """A checkpoint that was committed, as far as one can see from its manifest."""
    manifest = path / "checkpoints" / str(step) / MANIFEST
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")


@pytest.mark.parametrize(("settings", "source"), [(SETTINGS, None), (TEXT, b"na\xc3\xafve\n")])
def test_settings_and_text_come_back_from_a_run(tmp_path, settings, source):
    enter(tmp_path / "run", settings, source)
    run, found, text = open_for_evaluation(tmp_path / "run")
    assert (run.path, found, text) == (tmp_path / "run", settings, source)


def test_a_run_is_opened_again_by_the_same_settings(tmp_path):
    enter(tmp_path / "run")
    before = files(tmp_path)
    enter(tmp_path / "run")
    assert files(tmp_path) == before


def test_an_empty_directory_can_become_a_run(tmp_path):
    assert enter(tmp_path).result() is None
    assert (tmp_path / "config.json").exists()


def test_a_run_is_finished_when_it_has_a_result(tmp_path):
    run = enter(tmp_path)
    run.write("result.json", {"step": 3})
    assert run.result() == {"step": 3}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train.steps": 7}, ["config.train.steps: 13 there, 7 now"]),
        ({"seed": 5, "model.dim": 8}, ["config.seed: 0 there, 5 now", "config.model.dim: 6 there"]),
        ({"eval.lengths": (2,)}, ["config.eval.lengths: [1, 3] there, [2] now"]),
        ({"task.symbols": 4, "optimizer.learning_rate": 1e-4}, ["config.task.symbols: 3 there"]),
    ],
)
def test_another_experiment_is_refused_and_told_where_to_go(tmp_path, monkeypatch, changes, told):
    monkeypatch.chdir(tmp_path)
    path = default_path(SETTINGS)
    enter(path)
    make_checkpoint(path)
    before = files(tmp_path)
    other = small({"eval.lengths": (1, 3)} | changes)
    with pytest.raises(UsageError, match=rf"^--workdir={path}: holds another") as refusal:
        enter(path, other)
    assert files(tmp_path) == before
    assert all(field in str(refusal.value) for field in told)

    suggested = str(refusal.value).rpartition("use --workdir=")[2]
    assert suggested.startswith(f"{path}-")
    assert not set(suggested) & set(" '\"()[]*?;&|$")
    run = enter(tmp_path / suggested, other)
    assert open_for_evaluation(run.path)[1] == other


def test_a_suggestion_is_never_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, other = default_path(SETTINGS), small({"seed": 5})
    enter(path)
    make_checkpoint(path)
    suggestions = []
    for _ in range(3):
        with pytest.raises(UsageError) as refusal:
            enter(path, other)
        suggestions.append(str(refusal.value).rpartition("use --workdir=")[2])
        (tmp_path / suggestions[-1]).mkdir(parents=True)
    assert len(set(suggestions)) == 3


def test_another_text_is_refused(tmp_path):
    enter(tmp_path / "run", TEXT, b"one text")
    make_checkpoint(tmp_path / "run")
    with pytest.raises(UsageError, match=r"source_sha256: '\w+' there, '\w+' now"):
        enter(tmp_path / "run", TEXT, b"another text")
    assert (tmp_path / "run" / "source.txt").read_bytes() == b"one text"


OTHER = small({"seed": 5, "train.steps": 7})


def leave_log(path):
    (path / "metrics.jsonl").write_text('{"step": 2}\n')
    (path / "tensorboard").mkdir()
    (path / "tensorboard" / "events").touch()


def leave_half_a_checkpoint(path):
    (path / "checkpoints" / "4").mkdir(parents=True)
    (path / "checkpoints" / "4" / "arrays").touch()


def leave_a_checkpoint_of_no_update(path):
    make_checkpoint(path, step=0)


def leave_half_a_config(path):
    (path / "config.json").write_text('{"config": {"na')


def leave_no_config(path):
    (path / "config.json").rename(path / ".config.json.7")


@pytest.mark.parametrize(
    "leave",
    [
        lambda path: None,
        leave_log,
        leave_half_a_checkpoint,
        leave_a_checkpoint_of_no_update,
        leave_half_a_config,
        leave_no_config,
    ],
)
def test_a_run_without_a_checkpoint_gives_way_to_another(tmp_path, leave):
    path = tmp_path / "run"
    enter(path, TEXT, b"one text")
    leave(path)
    run = enter(path, OTHER)
    assert run.replaced
    assert open_for_evaluation(path)[1:] == (OTHER, None)
    assert sorted(files(path)) == [".lock", "config.json"]
    assert not enter(path, OTHER).replaced


def test_another_text_takes_the_place_of_one_that_was_not_trained_on(tmp_path):
    enter(tmp_path, TEXT, b"one text")
    assert enter(tmp_path, TEXT, b"another text").replaced
    assert open_for_evaluation(tmp_path)[2] == b"another text"


@pytest.mark.parametrize("name", ["result.json", "eval.json", "thesis.tex", "checkpoints/3"])
def test_a_run_with_more_than_that_does_not_give_way(tmp_path, name):
    enter(tmp_path)
    if name == "checkpoints/3":
        make_checkpoint(tmp_path)
    else:
        (tmp_path / name).write_text("{}")
    before = files(tmp_path)
    with pytest.raises(UsageError, match="holds another experiment"):
        enter(tmp_path, OTHER)
    assert files(tmp_path) == before


def test_a_run_that_has_just_begun_elsewhere_does_not_give_way(tmp_path):
    with open_for_training(tmp_path, SETTINGS, None):
        before = files(tmp_path)
        with pytest.raises(UsageError, match="another process is training there"):
            enter(tmp_path, OTHER)
        assert files(tmp_path) == before


def test_a_run_that_came_to_a_checkpoint_before_the_lock_was_had_does_not_give_way(
    tmp_path, monkeypatch
):
    enter(tmp_path)
    alone = directory.alone

    def later(path):
        make_checkpoint(path)
        return alone(path)

    monkeypatch.setattr(directory, "alone", later)
    with pytest.raises(UsageError, match="holds another experiment"):
        enter(tmp_path, OTHER)
    assert open_for_evaluation(tmp_path)[1] == SETTINGS


def test_a_directory_that_is_no_run_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=rf"^--workdir={tmp_path}: is not empty and holds no run"):
        enter(tmp_path)
    assert files(tmp_path) == {"thesis.tex": b"years of work"}


def test_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(UsageError, match="is a file, not a directory"):
        enter(tmp_path / "run")
    assert files(tmp_path) == {"run": b"a file"}


@pytest.mark.parametrize("open_run", [enter, open_for_evaluation])
@pytest.mark.parametrize("content", ['{"config": {"na', "{}", "[]", '{"model_type": "bert"}'])
def test_a_config_that_is_not_of_a_run_is_refused(tmp_path, open_run, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UsageError):
        open_run(tmp_path)
    assert files(tmp_path) == {"config.json": content.encode()}


def test_two_processes_do_not_train_one_run(tmp_path):
    with open_for_training(tmp_path / "run", SETTINGS, None):
        with pytest.raises(UsageError, match="another process is training there"):
            enter(tmp_path / "run")
        open_for_evaluation(tmp_path / "run")  # but one may look
    enter(tmp_path / "run")


def test_all_processes_must_see_what_the_first_writes(tmp_path, monkeypatch):
    run = enter(tmp_path)
    before = files(tmp_path)
    run.check_is_seen()
    assert files(tmp_path) == before
    monkeypatch.setattr(hosts, "is_first", lambda: False)
    with pytest.raises(UsageError, match=rf"^--workdir={tmp_path}: not every host sees it"):
        run.check_is_seen()
    monkeypatch.setattr(hosts, "from_first", lambda _: 7)
    (tmp_path / ".seen-7").touch()
    run.check_is_seen()


def test_the_lock_is_given_back_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), open_for_training(tmp_path / "run", SETTINGS, None):
        raise ZeroDivisionError
    enter(tmp_path / "run")


@pytest.mark.parametrize("name", ["nowhere", ""])
def test_there_is_nothing_to_evaluate_without_a_run(tmp_path, name):
    with pytest.raises(UsageError, match=rf"^--workdir={tmp_path / name}: no run here"):
        open_for_evaluation(tmp_path / name)
    assert files(tmp_path) == {}


def test_a_text_that_was_changed_in_the_run_is_refused(tmp_path):
    enter(tmp_path, TEXT, b"one text")
    (tmp_path / "source.txt").write_bytes(b"another text")
    with pytest.raises(UsageError, match="is not the text that the run was trained on"):
        open_for_evaluation(tmp_path)
    (tmp_path / "source.txt").unlink()
    with pytest.raises(UsageError, match=r"source\.txt: No such file"):
        open_for_evaluation(tmp_path)


def test_a_run_records_the_version_of_the_code(tmp_path):
    enter(tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["code_version"] == code_version() != ""


def test_a_run_of_a_version_without_replicas_is_refused(tmp_path):
    enter(tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    del record["config"]["num_seeds"]
    (tmp_path / "config.json").write_text(json.dumps(record))
    make_checkpoint(tmp_path)
    with pytest.raises(UsageError, match=rf"^--workdir={tmp_path}: is of an older version"):
        open_for_evaluation(tmp_path)
    with pytest.raises(UsageError, match=r"config\.num_seeds: None there, 1 now"):
        enter(tmp_path)


def test_a_run_goes_on_with_other_code(tmp_path):
    enter(tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(record | {"code_version": "0.0.1"}))
    enter(tmp_path)
    assert open_for_evaluation(tmp_path)[1] == SETTINGS


@pytest.mark.parametrize(
    ("name", "score", "path"),
    [
        ("copy", "mlp", "runs/copy-mlp"),
        ("text", "my_lab.scores:MyScore", "runs/text-my_lab.scores-MyScore"),
    ],
)
def test_the_default_path_is_the_config_and_the_score(name, score, path):
    settings = small({"name": name, "score.name": score}, score="dot")
    assert str(default_path(settings)) == path
