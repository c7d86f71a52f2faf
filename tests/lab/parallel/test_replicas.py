import io
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from small import assert_same_bits, replica, small, train_quietly

from attention.lab.parallel import replicas
from attention.lab.parallel.devices import make_mesh
from attention.lab.parallel.replicas import join, members, over_replicas, shared
from attention.lab.training.build import build
from attention.lab.training.evaluate import Evaluator
from attention.lab.training.state import Status, initial_state, replicas_with
from attention.lab.training.trained_run import evaluate
from attention.lab.training.update import make_train

SEED, COUNT, UNTIL = 5, 3, 7
MESH = make_mesh(jax.devices()[:1], 1, 1)


@pytest.fixture(scope="module")
def several(settings):
    return build(settings.model_copy(update={"seed": SEED, "num_seeds": COUNT}), None)


def trained(experiment, *stops):
    """The state after the last of these steps, and the metrics that came with it."""
    train, state = make_train(experiment), initial_state(experiment)
    for until in stops:
        state, metrics = train(state, experiment.task, until)
    return state, metrics


@pytest.fixture(scope="module")
def together(several):
    return trained(several, 2, UNTIL)


@pytest.fixture(scope="module")
def alone(settings):
    """State, metrics and report of each seed, trained alone."""
    runs = []
    for seed in range(SEED, SEED + COUNT):
        experiment = build(settings.model_copy(update={"seed": seed}), None)
        state, metrics = trained(experiment, 2, UNTIL)
        runs.append((state, metrics, Evaluator(experiment).report(state, "test", [3])))
    return runs


def assert_close(actual, expected, **tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **tolerance),
        jax.device_get(actual),
        jax.device_get(expected),
    )


def test_every_replica_is_the_run_of_its_seed_to_the_last_bit(together, alone):
    for number, (state, metrics, _) in enumerate(alone):
        assert_same_bits(replica(together[0], number), replica(state, 0))
        assert_same_bits(replica(together[1], number), replica(metrics, 0))


def test_every_replica_is_evaluated_on_the_sequences_of_its_seed(several, together, alone):
    report = Evaluator(several).report(together[0], "test", [3])
    found = report["replicas"]
    assert found == [run["replicas"][0] for _, _, run in alone]
    assert [one["seed"] for one in found] == [5, 6, 7]
    shares = [one["by_length"]["3"]["token_accuracy"] for one in found]
    assert len(set(shares)) == COUNT
    assert report["by_length"]["3"]["token_accuracy"] == pytest.approx(np.mean(shares))
    deviation = report["sd"]["by_length"]["3"]["token_accuracy"]
    assert deviation == pytest.approx(np.std(shares, ddof=1))


def test_one_replica_has_no_standard_deviation(alone):
    _, _, report = alone[1]
    (only,) = report["replicas"]
    assert (only["seed"], only["step"], only["failed"]) == (6, UNTIL, False)
    assert {name: only[name] for name in ("all", "by_length")} == {
        name: value for name, value in report.items() if name != "replicas"
    }


def test_side_by_side_they_make_the_same_updates_to_rounding(several, together, monkeypatch):
    """As on an accelerator."""
    monkeypatch.setattr(replicas, "takes_turns", lambda: False)
    state, metrics = trained(several, 2, UNTIL)
    assert_close(state, together[0], atol=1e-5)
    assert_close(metrics, together[1], rtol=1e-3)
    report = Evaluator(several).report(state, "test")
    assert report["all"]["token_accuracy"] == pytest.approx(
        Evaluator(several).report(together[0], "test")["all"]["token_accuracy"]
    )


@pytest.mark.parametrize("takes_turns", [True, False])
def test_a_replica_that_stopped_stays_as_it_is(several, monkeypatch, takes_turns):
    monkeypatch.setattr(replicas, "takes_turns", lambda: takes_turns)
    train = make_train(several)
    state, _ = train(initial_state(several), several.task, 2)
    state = replace(state, status=jnp.int32([Status.REACHED, Status.TRAINING, Status.FAILED]))
    before = jax.tree.map(np.asarray, state)
    state, metrics = train(state, several.task, UNTIL)
    for number in (0, 2):
        assert_same_bits(replica(state, number), replica(before, number))
    np.testing.assert_array_equal(state.step, [2, UNTIL, 2])
    for value in metrics.values():
        np.testing.assert_array_equal(np.isfinite(value), [False, True, False])


@pytest.mark.parametrize("takes_turns", [True, False])
def test_a_replica_fails_alone(several, together, monkeypatch, takes_turns):
    monkeypatch.setattr(replicas, "takes_turns", lambda: takes_turns)
    state = initial_state(several)
    spoilt = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), state.parameters)
    train, state = make_train(several), replace(state, parameters=spoilt)
    for until in (2, UNTIL):
        state, _ = train(state, several.task, until)
    np.testing.assert_array_equal(replicas_with(state, Status.FAILED), [True, False, False])
    np.testing.assert_array_equal(state.step, [2, UNTIL, UNTIL])
    for number in (1, 2):
        assert_close(replica(state, number), replica(together[0], number), atol=1e-5)

    report = Evaluator(several).report(state, "test")
    failed, *rest = report["replicas"]
    assert failed["failed"]
    assert (failed["all"]["sequences"], failed["all"]["exact_match"]) == (0, None)
    assert report["all"]["token_accuracy"] == pytest.approx(
        np.mean([one["all"]["token_accuracy"] for one in rest])
    )
    assert Evaluator(several).picture(state) is not None


@pytest.mark.parametrize("count", [1, 3])
def test_a_lifted_function_sees_its_own_then_what_is_shared(count):
    own = np.arange(1.0, count + 1), np.arange(2.0, 2 * count + 2, 2)

    def of_one(a, b, shared):
        assert (a.shape, b.shape) == ((), ())
        return {"sum": a + b + shared[1]}

    found = jax.jit(over_replicas(of_one, MESH, of_replica=2))(*own, np.array([5.0, 7.0]))
    np.testing.assert_array_equal(found["sum"], own[0] + own[1] + 7)


@pytest.mark.parametrize("takes_turns", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_a_replica_that_is_left_out_leaves_the_loops_of_the_others_alone(
    monkeypatch, count, takes_turns
):
    monkeypatch.setattr(replicas, "takes_turns", lambda: takes_turns)

    def of_one(x, turns):
        return jax.lax.fori_loop(0, turns, lambda _, x: 2 * x, x)

    lifted = over_replicas(of_one, MESH, unless=lambda x, turns: (x == 5, -x))
    own = np.array([3.0, 5.0, 7.0])[:count]
    np.testing.assert_array_equal(jax.jit(lifted)(own, 2), np.array([12, -5, 28])[:count])
    program = str(jax.make_jaxpr(lifted)(own, 2))
    assert "bool[] = lt" in program  # one number of turns for all
    assert "bool[3] = lt" not in program


OWN = [
    {"seed": 5, "optimizer.learning_rate": 0.011, "optimizer.clip_norm": 0.13},
    {"seed": 11, "optimizer.learning_rate": 0.003, "optimizer.weight_decay": 0.7},
]
ADAMW = {"optimizer.name": "adamw", "train.steps": UNTIL, "model.dropout": 0.1}


def experiments():
    """Of which each has numbers of its own."""
    return [small(ADAMW | own) for own in OWN]


def test_experiments_are_joined_and_told_apart_again():
    joined = join(experiments())
    assert joined.num_replicas == len(OWN)
    assert members(joined) == experiments()
    assert join(experiments()[1:2]) == experiments()[1]
    assert len({shared(one).model_dump_json() for one in experiments()}) == 1
    assert shared(small()) != shared(small({"optimizer.warmup_fraction": 0.5}))
    assert [one.seed for one in members(small({"seed": 3, "num_seeds": 2}))] == [3, 4]


def test_replicas_with_numbers_of_their_own_are_the_runs_with_these_numbers_to_the_last_bit():
    state, metrics = trained(build(join(experiments()), None), 2, UNTIL)
    rates = set()
    for number, settings in enumerate(experiments()):
        alone, own_metrics = trained(build(settings, None), 2, UNTIL)
        assert_same_bits(replica(state, number), replica(alone, 0))
        assert_same_bits(replica(metrics, number), replica(own_metrics, 0))
        rates.add(metrics["learning_rate"][number].item())
    assert len(rates) == len(OWN)


def test_side_by_side_numbers_of_their_own_do_the_same_to_rounding(monkeypatch):
    experiment = build(join(experiments()), None)
    in_turn, _ = trained(experiment, 2, UNTIL)
    monkeypatch.setattr(replicas, "takes_turns", lambda: False)
    assert_close(trained(experiment, 2, UNTIL)[0], in_turn, atol=1e-5)


def test_a_run_of_replicas_with_numbers_of_their_own_fails_and_is_evaluated_one_by_one(tmp_path):
    absurd = {"optimizer.name": "sgd", "train.steps": 7, "train.log_every_steps": 1}
    rates = {"optimizer.learning_rate": 3e38, "optimizer.clip_norm": 3e38}
    settings = join([small(absurd), small(absurd | rates), small(absurd | {"seed": 1})])
    status, shown = train_quietly(settings, tmp_path / "run")
    assert status == 1
    assert "with replica 1 the loss is" in shown
    assert "failed: 1 of 3 replicas (replica 1)" in shown
    assert "mean ± sd of 2 replicas (1 failed, left out)" in " ".join(shown.split())
    found = json.loads((tmp_path / "run" / "result.json").read_text())["test"]["replicas"]
    assert [(one["seed"], one["failed"]) for one in found] == [(0, False), (0, True), (1, False)]
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert {(line["replica"], line["seed"]) for line in lines if line["kind"] == "test"} == {
        (0, 0),
        (2, 1),
    }
    evaluate(tmp_path / "run", None, None, Console(file=io.StringIO()), replica=2)
    (file,) = (tmp_path / "run").glob("eval-step7-replica2*.json")
    (alone,) = json.loads(file.read_text())["replicas"]
    assert alone == found[2]
