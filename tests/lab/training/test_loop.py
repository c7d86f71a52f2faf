import io
import json
import queue
import signal
from dataclasses import replace

import jax
import numpy as np
import pytest
from rich.console import Console
from small import assert_same_bits, copy_of, files, small, train_quietly

from attention.lab.errors import TrainingError
from attention.lab.parallel import interruption
from attention.lab.runs import checkpoints
from attention.lab.runs.directory import default_path, open_for_evaluation
from attention.lab.settings import TrainSettings
from attention.lab.training import loop
from attention.lab.training.build import build
from attention.lab.training.loop import next_stop, train
from attention.lab.training.state import completed, restored_state
from attention.lab.training.trained_run import evaluate

# One symbol and one length: nothing is easier to learn, and nothing is left that is not trained on.
EASY = small(
    {"eval.leave_out_trained": False}
    | {"task.symbols": 1, "task.max_length": 1, "train.steps": 100, "model.heads": 1}
    | {"train.stop_at_exact_match": 1.0, "optimizer.learning_rate": 0.1}
    | {"train.eval_every_steps": 10, "train.checkpoint_every_steps": 1000}
)


@pytest.fixture(scope="module")
def stopped_early(tmp_path_factory):
    """The directory of a run that reached its target, its exit status and what it showed."""
    path = tmp_path_factory.mktemp("runs") / "easy"
    return path, train_quietly(EASY, path)


def final_state(path, settings):
    return restored_state(path / "checkpoints", build(settings, None))


def metrics(path, kind):
    """The lines of one kind in `metrics.jsonl`."""
    lines = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def assert_same_run(path, other, settings):
    """Bit-identical parameters and moments, the same log, and the same evaluation."""
    assert_same_bits(final_state(path, settings), final_state(other, settings))
    for name in ("metrics.jsonl", "eval.json", "attention.png"):
        assert (path / name).read_bytes() == (other / name).read_bytes()


@pytest.fixture
def at_step(monkeypatch):
    """Does something when the run comes to a step for the first time."""
    original, done = loop.Display.update, []

    def do(step, action):
        def update(self, now, values):
            original(self, now, values)
            if now == step and not done:
                done.append(step)
                action()

        monkeypatch.setattr(loop.Display, "update", update)

    return do


def fail():
    raise RuntimeError("killed")


# Its rhythm


@pytest.mark.parametrize(
    ("step", "stop"),
    [(0, 4), (4, 5), (5, 6), (6, 8), (8, 10), (10, 12), (12, 13)],
)
def test_updates_pause_to_log_every_5_evaluate_every_6_save_every_4_and_end(step, stop):
    settings = TrainSettings(
        steps=13, log_every_steps=5, eval_every_steps=6, checkpoint_every_steps=4
    )
    assert next_stop(step, settings) == stop


def test_a_run_logs_evaluates_and_saves_in_its_rhythm_and_at_the_end(finished):
    assert [line["step"] for line in metrics(finished, "train")] == [4, 5, 6, 8, 10, 12, 13]
    assert [line["step"] for line in metrics(finished, "validation")] == [6, 12, 13]
    assert [line["step"] for line in metrics(finished, "test")] == [13]
    assert checkpoints.steps(finished / "checkpoints") == [12, 13]


def test_the_final_step_of_a_run_is_saved(finished, settings):
    assert completed(final_state(finished, settings)) == settings.train.steps


def test_the_learning_rate_in_the_log_is_that_of_the_update(finished, settings):
    line = metrics(finished, "train")[-1]
    half_cosine = (1 + np.cos(np.pi * (12 - 1) / (13 - 1))) / 2  # one step of warm-up
    assert line["learning_rate"] == pytest.approx(5e-3 * half_cosine, rel=1e-4)


def test_other_rhythms_lead_to_the_same_parameters(finished, settings, tmp_path):
    rhythm = {"log_every_steps": 13, "eval_every_steps": 13, "checkpoint_every_steps": 13}
    other = settings.model_copy(update={"train": settings.train.model_copy(update=rhythm)})
    train_quietly(other, tmp_path / "other")
    assert checkpoints.steps(tmp_path / "other" / "checkpoints") == [13]
    assert_same_bits(final_state(tmp_path / "other", settings), final_state(finished, settings))
    assert (tmp_path / "other" / "eval.json").read_bytes() == (finished / "eval.json").read_bytes()


# Its end


def test_a_finished_run_holds_everything_that_is_promised(finished):
    names = {path.name for path in finished.iterdir()} - {".lock"}
    assert names == {
        "config.json",
        "checkpoints",
        "metrics.jsonl",
        "tensorboard",
        "attention.png",
        "eval.json",
        "result.json",
    }


def test_a_finished_run_names_its_picture_and_the_number_of_its_parameters(
    finished, settings, tmp_path
):
    run = copy_of(finished, tmp_path)
    count = json.loads((run / "result.json").read_text())["parameters"]
    leaves = jax.tree.leaves(final_state(run, settings).parameters)
    assert count == sum(leaf.size for leaf in leaves)
    told = f"{count:,} parameters; where it looks: {run}/attention.png"
    assert told in train_quietly(settings, run)[1].splitlines()
    (run / "attention.png").unlink()  # as of a model that does not look at positions
    assert f"{count:,} parameters" in train_quietly(settings, run)[1].splitlines()


def test_several_replicas_have_the_parameters_of_one(three, stopped_early):
    counts = [
        json.loads((path / "result.json").read_text())["parameters"]
        for path in (three[0], stopped_early[0])
    ]
    assert counts[0] == counts[1]


def test_the_result_is_the_final_evaluation(finished):
    result = json.loads((finished / "result.json").read_text())
    evaluation = json.loads((finished / "eval.json").read_text())
    assert (result["step"], result["stopped_early"]) == (13, False)
    assert evaluation == {"step": 13, **result["test"]}
    assert set(evaluation["by_length"]) == {"1", "4"}
    assert metrics(finished, "test")[0].items() >= evaluation["all"].items()


def test_a_finished_run_says_so_and_changes_nothing(finished, settings):
    before = files(finished)
    status, shown = train_quietly(settings, finished)
    assert status == 0
    assert "finished already, nothing to do" in shown
    assert files(finished) == before


def test_training_shows_progress_results_and_the_next_commands(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, shown = train_quietly(settings, None)
    path = default_path(settings)
    assert status == 0
    assert (path / "result.json").exists()
    for line in (
        "score mlp, seed 0, 13 steps of batch 7 on cpu",
        " parameters; at least ",
        "step 5/13  loss ",
        "step 12: validation  tokens ",
        " of 11 left out, trained on",
        f"{path}, step 13, test, in ",
        f"python eval.py --workdir {path}",
        "tensorboard --logdir runs  (pip install tensorboard)",
    ):
        assert line in shown


def test_a_run_goes_on_and_is_evaluated_with_changed_code_of_ones_own_but_says_so(
    tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "own_and_changed.py"
    mine.write_text("def product(query, key):\n    return query @ key\n")
    settings = small({"train.steps": 2}, score="own_and_changed:product")
    told = "own_and_changed.py has changed since the run began"
    assert told not in train_quietly(settings, tmp_path / "run")[1]
    assert told not in train_quietly(settings, tmp_path / "run")[1]
    mine.write_text("def product(query, key):\n    return -query @ key\n")
    assert told in train_quietly(settings, tmp_path / "run")[1]  # finished
    shown = io.StringIO()
    evaluate(tmp_path / "run", None, None, Console(file=shown))
    assert told in shown.getvalue()
    (tmp_path / "run" / "result.json").unlink()
    shown = train_quietly(settings, tmp_path / "run")[1]
    assert "going on from step 2" in shown
    assert told in shown


def test_training_stops_early_at_the_target(stopped_early):
    path, (status, shown) = stopped_early
    result = json.loads((path / "result.json").read_text())
    validation = metrics(path, "validation")
    assert status == 0
    assert result["stopped_early"]
    assert "target reached early" in " ".join(shown.split())  # titles are wrapped
    assert result["step"] == validation[-1]["step"] < EASY.train.steps
    assert [line["exact_match"] == 1.0 for line in validation].index(True) == len(validation) - 1
    assert checkpoints.steps(path / "checkpoints") == [result["step"]]


def test_a_loss_that_is_not_finite_ends_training_and_keeps_what_was_saved(tmp_path):
    settings = small(
        {"optimizer.name": "sgd", "optimizer.learning_rate": 1e38, "optimizer.clip_norm": 1e38}
        | {"optimizer.warmup_fraction": 0.3, "train.log_every_steps": 1}
        | {"train.checkpoint_every_steps": 1}
    )
    with pytest.raises(TrainingError, match=r"^at step \d+ the loss is .*nan.*; .* step \d+$") as e:
        train_quietly(settings, tmp_path / "run")
    told = "; a smaller config.optimizer.learning_rate (now 1e+38) often helps, or a smaller"
    assert f"{told} config.optimizer.clip_norm (now 1e+38); the steps before are in" in str(e.value)
    assert str(tmp_path / "run" / "metrics.jsonl") in str(e.value)
    step = int(str(e.value).rpartition(" ")[2])
    state = final_state(tmp_path / "run", settings)
    assert step == completed(state) > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.parameters))
    assert not (tmp_path / "run" / "result.json").exists()
    assert [line["step"] for line in metrics(tmp_path / "run", "train")][-1] == step


# Several seeds


THREE = EASY.model_copy(update={"num_seeds": 3})


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """The directory of a run whose three replicas reach their target at steps of their own."""
    path = tmp_path_factory.mktemp("runs") / "three"
    return path, train_quietly(THREE, path)


def replicas_of(path):
    return json.loads((path / "result.json").read_text())["test"]["replicas"]


def test_every_replica_stops_where_it_would_alone(three, stopped_early, tmp_path):
    path, (status, shown) = three
    assert status == 0
    assert "seeds 0 to 2" in shown
    assert "mean ± sd of 3 seeds" in " ".join(shown.split())
    steps = [one["step"] for one in replicas_of(path)]
    assert len(set(steps)) > 1
    assert max(steps) < THREE.train.steps
    assert replicas_of(path)[0] == replicas_of(stopped_early[0])[0]
    for number, step in enumerate(steps):
        lines = [line for line in metrics(path, "train") if line["seed"] == number]
        assert [line["step"] for line in lines][-1] == step
    assert checkpoints.steps(path / "checkpoints") == [max(steps)]


def test_a_replica_that_stopped_stays_stopped_when_the_run_is_killed_and_goes_on(
    three, tmp_path, at_step
):
    steps = [one["step"] for one in replicas_of(three[0])]
    between = max(steps) - 5
    assert min(steps) < between
    at_step(between, lambda: signal.raise_signal(signal.SIGINT))
    assert train_quietly(THREE, tmp_path / "run")[0] == 130
    assert train_quietly(THREE, tmp_path / "run")[0] == 0
    assert_same_run(tmp_path / "run", three[0], THREE)


@pytest.fixture
def spoilt(monkeypatch):
    """Gives some replicas parameters that are not finite to begin with."""
    original = loop.initial_state

    def spoil(*numbers):
        def initial_state(experiment):
            state = original(experiment)

            def nan(leaf):
                array = np.array(leaf)
                array[list(numbers)] = np.nan
                return jax.device_put(array, leaf.sharding)

            return replace(state, parameters=jax.tree.map(nan, state.parameters))

        monkeypatch.setattr(loop, "initial_state", initial_state)

    return spoil


def test_a_run_with_a_failed_replica_finishes_the_others_and_says_so(
    settings, spoilt, tmp_path, at_step
):
    settings = settings.model_copy(update={"num_seeds": 3, "seed": 7})
    spoilt(1)
    at_step(10, lambda: signal.raise_signal(signal.SIGINT))
    status, shown = train_quietly(settings, tmp_path / "run")
    assert status == 130
    assert "at step 4 with seed 8 the loss is nan and the gradient norm nan: failed" in shown
    status, shown = train_quietly(settings, tmp_path / "run")
    assert status == 1
    assert "going on from step 10" in shown
    assert "at step 4" not in shown
    told = (
        "failed: 1 of 3 replicas (seed 8), whose loss or gradient was not finite; a smaller config."
    )
    assert told in shown
    assert "mean ± sd of 2 seeds (1 failed, left out)" in " ".join(shown.split())
    found = replicas_of(tmp_path / "run")
    assert [(one["seed"], one["step"], one["failed"]) for one in found] == [
        (7, 13, False),
        (8, 4, True),
        (9, 13, False),
    ]
    assert {line["seed"] for line in metrics(tmp_path / "run", "test")} == {7, 9}
    assert 8 not in {line["seed"] for line in metrics(tmp_path / "run", "train")}
    status, shown = train_quietly(settings, tmp_path / "run")
    assert status == 1
    assert "nothing to do" in shown


def test_training_cannot_go_on_when_every_replica_failed(settings, spoilt, tmp_path):
    settings = settings.model_copy(update={"num_seeds": 3})
    spoilt(0, 1, 2)
    with pytest.raises(TrainingError, match=r"^at step 4 with seed 0, 1, 2 the loss is nan "):
        train_quietly(settings, tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("error", [TrainingError, RuntimeError, KeyboardInterrupt])
def test_a_run_that_failed_before_its_first_checkpoint_gives_way_to_its_correction(
    tmp_path, monkeypatch, error
):
    def fail(experiment):
        raise error(experiment.settings.seed)

    monkeypatch.setattr(loop, "initial_state", fail)
    shown = io.StringIO()
    for seed in (3, 5):
        settings = small({"seed": seed})
        with pytest.raises(error, match=str(seed)):
            train(settings, tmp_path / "run", Console(file=shown, width=400))
        assert open_for_evaluation(tmp_path / "run")[1] == settings
    assert shown.getvalue().count("run: held a run without a checkpoint; begun anew") == 1


# Interrupted


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_saves_and_resumed_ends_as_if_it_had_not_been(
    finished, settings, tmp_path, at_step, number, status
):
    at_step(5, lambda: signal.raise_signal(number))
    found, shown = train_quietly(settings, tmp_path / "run")
    assert found == status
    assert f"{signal.Signals(number).name} at step 5: saved in " in shown
    assert "run the same command again to go on" in shown
    assert checkpoints.steps(tmp_path / "run" / "checkpoints") == [4, 5]
    assert not (tmp_path / "run" / "result.json").exists()

    found, shown = train_quietly(settings, tmp_path / "run")
    assert found == 0
    assert "going on from step 5" in shown
    assert_same_run(tmp_path / "run", finished, settings)


@pytest.fixture
def heard(monkeypatch):
    """What a command that trains says of signals, each with whether the process ends."""
    heard = queue.SimpleQueue()
    monkeypatch.setattr(interruption, "_say", lambda line: heard.put((line, False)))
    monkeypatch.setattr(interruption, "_end", lambda _, line: heard.put((line, True)))
    with interruption.answered_interruptions():
        yield lambda: heard.get(timeout=60)


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (5, "stopping after step 5"),
        (6, "stopping after step 6 and its evaluation"),
        (13, "step 13 is the last, and training ends with its evaluation"),
    ],
)
def test_what_ctrl_c_does_is_said_at_once(settings, tmp_path, at_step, heard, step, told):
    at_step(step, lambda: signal.raise_signal(signal.SIGINT))
    status, shown = train_quietly(settings, tmp_path / "run")
    assert heard() == (f"SIGINT: {told}; again to quit without saving", False)
    assert status == (0 if step == 13 else 130)
    assert (f"SIGINT at step {step}: saved in" in shown) == (step < 13)


def test_ctrl_c_during_compilation_ends_a_command_and_compilation_makes_no_update(
    settings, tmp_path, monkeypatch, heard
):
    stops, make_train = [], loop.make_train

    def noting(experiment):
        train = make_train(experiment)

        def noted(state, task, until):
            stops.append(until)
            if not until:
                signal.raise_signal(signal.SIGINT)
                assert heard() == ("interrupted (SIGINT)", True)
            return train(state, task, until)

        return noted

    monkeypatch.setattr(loop, "make_train", noting)
    train_quietly(settings, tmp_path / "run")
    assert stops == [0]  # as the process did not end in this test, the signal counts here


@pytest.mark.parametrize("several", [False, True])
def test_of_several_processes_none_ends_while_others_compile(monkeypatch, several):
    """They would wait for it: so all finish compilation, agree to stop, and save."""
    monkeypatch.setattr(loop.hosts, "are_several", lambda: several)
    monkeypatch.setattr(loop.hosts, "is_first", lambda: True)
    assert loop.answer_while_compiling() == ("stopping after compilation" if several else None)


def test_a_killed_run_goes_on_from_its_last_checkpoint(finished, settings, tmp_path, at_step):
    at_step(10, fail)
    with pytest.raises(RuntimeError, match="killed"):
        train_quietly(settings, tmp_path / "run")
    assert metrics(tmp_path / "run", "train")[-1]["step"] == 10

    _, shown = train_quietly(settings, tmp_path / "run")
    assert "going on from step 8" in shown
    assert_same_run(tmp_path / "run", finished, settings)


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    finished, settings, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(loop.Checkpoints, "save", lambda *_: fail())
        with pytest.raises(RuntimeError, match="killed"):
            train_quietly(settings, tmp_path / "run")
    _, shown = train_quietly(settings, tmp_path / "run")
    assert "going on" not in shown
    assert_same_run(tmp_path / "run", finished, settings)


def test_a_run_killed_between_its_last_checkpoint_and_its_result_finishes(
    finished, settings, tmp_path
):
    run = copy_of(finished, tmp_path)
    for name in ("result.json", "eval.json", "attention.png"):
        (run / name).unlink()
    _, shown = train_quietly(settings, run)
    assert "going on from step 13" in shown
    assert json.loads((run / "result.json").read_text())["step"] == 13
    for name in ("eval.json", "attention.png"):
        assert (run / name).read_bytes() == (finished / name).read_bytes()


def test_a_run_killed_after_its_target_and_before_its_result_is_not_trained_on(
    stopped_early, tmp_path
):
    run = copy_of(stopped_early[0], tmp_path)
    whole = json.loads((run / "result.json").read_text())
    (run / "result.json").unlink()
    train_quietly(EASY, run)
    killed = json.loads((run / "result.json").read_text())
    assert {**killed, "seconds": whole["seconds"]} == whole
