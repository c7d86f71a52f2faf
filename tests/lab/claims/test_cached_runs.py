"""That an experiment is run once by the same sources, and that no result is ever lost."""

import io
import json
import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from small import SMALL

from attention.lab.claims import cache as caching
from attention.lab.claims.cache import Cache
from attention.lab.claims.experiments import experiment, folder
from attention.lab.claims.tables import cell
from attention.lab.errors import TrainingError, UsageError
from attention.lab.runs.directory import alone
from attention.lab.runs.version import code_hash
from attention.lab.training.outcome import Finished, Interrupted

EXPERIMENT = experiment("copy", "linear", {"num_seeds": 2})


def console():
    return Console(file=io.StringIO())


class Trainer:
    """Stands in for training by sources that can be changed.

    Attributes:
      code: hash of the sources.
      ends: what comes of the next calls: `finished` once all are taken.
      trained: for each call, whether it went on from a checkpoint.
    """

    def __init__(self):
        self.code, self.ends, self.trained = "old", [], []

    def train(self, settings, path, console):
        path.mkdir(parents=True, exist_ok=True)
        config = path / "config.json"
        if not config.exists():
            config.write_text(json.dumps({"code_hash": self.code}))
        checkpoint = path / "checkpoint"
        self.trained.append(checkpoint.exists())
        checkpoint.touch()
        end = self.ends.pop(0) if self.ends else "finished"
        if end == "interrupted":
            return Interrupted(15)
        if end == "failed":
            raise TrainingError("at step 3 the loss is nan")
        result = {"step": 5, "seconds": 1.0, "test": {"replicas": []}}
        (path / "result.json").write_text(json.dumps(result))
        return Finished(result)


@pytest.fixture
def trainer(monkeypatch):
    trainer = Trainer()
    monkeypatch.setattr(caching, "train", trainer.train)
    monkeypatch.setattr(caching, "code_hash", lambda: trainer.code)
    return trainer


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "runs")


def code_of(cache):
    return cache.result(EXPERIMENT).code_hash


def directories(cache):
    return sorted(path.name for path in cache.path.iterdir())


NAME = folder(experiment("copy", "linear", {"num_seeds": 2}).settings())


def test_a_run_is_found_again_by_its_settings_alone():
    first = experiment("copy", "mlp", {"seed": 3, "num_seeds": 2})
    same = experiment("copy", "mlp", {"num_seeds": 2, "seed": 3})
    other = experiment("copy", "mlp", {"num_seeds": 2, "seed": 4})
    assert first == same
    assert folder(first.settings()) == folder(same.settings())
    assert folder(first.settings()) != folder(other.settings())
    assert re.fullmatch(r"copy-16-parallel-mlp-[0-9a-f]{10}", folder(first.settings()))


def test_config_files_are_found_from_anywhere(tmp_path, monkeypatch):
    settings = EXPERIMENT.settings()
    monkeypatch.chdir(tmp_path)
    assert EXPERIMENT.settings() == settings


def test_a_finished_run_is_not_run_again_and_its_figures_are_read(cache, monkeypatch):
    small = {name: value for name, value in SMALL.items() if name != "train.steps"}
    changes = {**small, "train.steps": 2, "num_seeds": 2, "eval.lengths": (3,)}
    tiny = experiment("copy", "linear", changes)
    assert cache.result(tiny) is None
    assert cache.results([tiny]) is None
    cache.run(tiny, console())
    first = cache.result(tiny)
    monkeypatch.setattr(caching, "train", lambda *_: pytest.fail("it was run again"))
    cache.run(tiny, console())
    cache.run(tiny, console(), refresh=True)
    assert cache.result(tiny) == first
    assert cache.results([tiny]) == {tiny: first}
    (file,) = cache.path.glob("*/result.json")
    written = json.loads(file.read_text())["test"]
    assert first.steps == 2
    assert first.seconds > 0
    assert first.code_hash == code_hash()
    assert first.values("token_accuracy", 3) == [
        replica["by_length"]["3"]["token_accuracy"] for replica in written["replicas"]
    ]
    mean = first.over_seeds("token_accuracy").mean
    assert mean == pytest.approx(written["all"]["token_accuracy"])


def test_replicas_that_failed_are_left_out_and_counted(cache):
    path = cache.path / NAME
    path.mkdir(parents=True)
    replicas = [
        {"failed": value is None, "all": {"exact_match": value}} for value in (0.5, None, 0.7)
    ]
    report = {"step": 5, "seconds": 1.0, "test": {"replicas": replicas}}
    (path / "result.json").write_text(json.dumps(report))
    (path / "config.json").write_text(json.dumps({"code_version": "0+abc"}))
    result = cache.result(EXPERIMENT)
    assert result.values("exact_match") == [0.5, 0.7]
    assert result.code_hash == "unknown"
    assert cell(result, "exact_match") == "0.6000 ± 0.1414 (1 failed)"


def test_results_of_other_sources_count_until_a_refresh(cache, trainer):
    cache.run(EXPERIMENT, console())
    trainer.code = "new"
    cache.run(EXPERIMENT, console())
    assert (code_of(cache), len(trainer.trained)) == ("old", 1)
    cache.run(EXPERIMENT, console(), refresh=True)
    assert (code_of(cache), trainer.trained) == ("new", [False, False])
    assert directories(cache) == [NAME]
    cache.run(EXPERIMENT, console(), refresh=True)
    assert len(trainer.trained) == 2


def test_results_of_unknown_sources_are_refreshed(cache, trainer):
    cache.run(EXPERIMENT, console())
    (cache.path / NAME / "config.json").write_text("{}")
    assert code_of(cache) == "unknown"
    cache.run(EXPERIMENT, console(), refresh=True)
    assert code_of(cache) == "old"
    assert len(trainer.trained) == 2


def test_an_interrupted_refresh_goes_on_and_leaves_the_old_result_until_it_ends(cache, trainer):
    cache.run(EXPERIMENT, console())
    trainer.code, trainer.ends = "new", ["interrupted"]
    with pytest.raises(KeyboardInterrupt):
        cache.run(EXPERIMENT, console(), refresh=True)
    assert code_of(cache) == "old"
    cache.run(EXPERIMENT, console())  # asks for no refresh: the old result does
    assert len(trainer.trained) == 2
    cache.run(EXPERIMENT, console(), refresh=True)
    assert (code_of(cache), trainer.trained) == ("new", [False, False, True])
    assert directories(cache) == [NAME]


@pytest.mark.parametrize("refresh", [False, True])
def test_a_run_that_other_sources_began_is_begun_anew(cache, trainer, refresh):
    trainer.ends = ["interrupted"]
    with pytest.raises(KeyboardInterrupt):
        cache.run(EXPERIMENT, console())
    trainer.code = "new"
    cache.run(EXPERIMENT, console(), refresh=refresh)
    assert (code_of(cache), trainer.trained) == ("new", [False, False])
    assert directories(cache) == [NAME]


def test_a_run_that_was_half_deleted_is_begun_anew(cache, trainer, monkeypatch):
    trainer.ends = ["interrupted"]
    with pytest.raises(KeyboardInterrupt):
        cache.run(EXPERIMENT, console())
    trainer.code = "new"

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(caching.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            cache.run(EXPERIMENT, console())
    trainer.code = "old"  # as at first: what is left of the run must not seem to be whole
    cache.run(EXPERIMENT, console())
    assert trainer.trained == [False, False]


def test_a_refresh_that_fails_leaves_the_old_result(cache, trainer):
    cache.run(EXPERIMENT, console())
    trainer.code, trainer.ends = "new", ["failed"]
    shown = console()
    cache.run(EXPERIMENT, shown, refresh=True)
    assert "the loss is nan" in shown.file.getvalue()
    assert code_of(cache) == "old"


def test_a_kill_at_any_moment_of_a_refresh_loses_no_result(cache, trainer, monkeypatch):
    cache.run(EXPERIMENT, console())
    remove = shutil.rmtree
    whole, codes = shutil.copytree(cache.path, cache.path.with_name("whole")), ["old"]

    def killing(function, when):
        """The function, that counts its calls and is killed at one of them."""

        def killed(*arguments, **options):
            killing.calls += 1
            if killing.calls == killing.at and when == "before":
                raise KeyboardInterrupt
            if killing.calls == killing.at and when == "halfway" and function is remove:
                next(path for path in arguments[0].iterdir() if path.is_file()).unlink()
                raise KeyboardInterrupt
            done = function(*arguments, **options)
            if killing.calls == killing.at:
                raise KeyboardInterrupt
            return done

        return killed

    for when in ("before", "halfway", "after"):
        for at in range(1, 100):
            shutil.rmtree(cache.path)
            shutil.copytree(whole, cache.path)
            trainer.code, trainer.trained = "new", []
            killing.calls, killing.at = 0, at
            with monkeypatch.context() as patch:
                patch.setattr(Path, "rename", killing(Path.rename, when))
                patch.setattr(caching.shutil, "rmtree", killing(remove, when))
                patch.setattr(caching, "train", killing(trainer.train, when))
                try:
                    cache.run(EXPERIMENT, console(), refresh=True)
                except KeyboardInterrupt:
                    codes.append(code_of(cache))
                else:
                    break
            cache.run(EXPERIMENT, console(), refresh=True)
            assert code_of(cache) == "new"
            assert len(trainer.trained) == 1
            assert directories(cache) == [NAME]
        assert at > 3  # put aside, trained, deleted
    assert set(codes) == {"old", "new"}


def test_a_run_in_which_another_process_trains_is_left_alone(cache, trainer):
    cache.run(EXPERIMENT, console())
    trainer.code = "new"
    with (
        alone(cache.path / NAME),
        pytest.raises(UsageError, match="another process is training there"),
    ):
        cache.run(EXPERIMENT, console(), refresh=True)
    assert code_of(cache) == "old"
