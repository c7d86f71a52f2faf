"""That the results of a sweep are those of its trials."""

import io
import json

import pytest
from rich.console import Console
from small import small
from small_sweeps import finish

from attention.lab.sweeps.folder import make_group, result_of
from attention.lab.sweeps.results import accuracy_of, best, curves, failures, outcomes, print_ranks
from attention.lab.sweeps.trials import Trial


def test_curves_are_of_the_seeds_of_a_configuration(begun):
    folder, trials = begun
    group = make_group(folder, trials)
    finish(group, failed=[2])
    group.record()
    lines = [
        {"kind": kind, "step": step, "replica": number, "exact_match": 0.1 * number + 0.01 * step}
        for step in (3, 5)
        for number in (0, 1)
        for kind in ("train", "validation")
    ]
    half = '\n{"kind": "vali'  # of what was killed
    (group.run.path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + half)
    found = curves(folder, [(trial, result_of(folder, trial)) for trial in trials])
    assert found == {"score=linear": {3: [0.03, 0.13], 5: [0.05, pytest.approx(0.15)]}}


def test_an_outcome_is_a_mean_over_seeds(begun):
    folder, trials = begun
    assert outcomes([(trial, None) for trial in trials]) == [({"score": "linear"}, None)]
    group = make_group(folder, trials)
    finish(group, failed=[0])
    group.record()
    rows = [(trial, result_of(folder, trial)) for trial in trials]
    assert outcomes(rows) == [({"score": "linear"}, pytest.approx(0.15))]  # 0.1 and 0.2


def test_the_best_is_a_run_of_the_configuration_that_ranks_first(begun):
    _, trials = begun
    rows = []
    for number, exact in enumerate([0.25, 0.75, 0.5]):
        metrics = {"exact_match": exact, "token_accuracy": 0.5, "alignment_accuracy": None}
        result = {"status": "done", "replica": number, "test": {"all": metrics, "by_length": {}}}
        rows.append((Trial({"score": f"own{number}", "seed": 7}, trials[0].settings), result))
    assert best(rows) == rows[1][1]
    assert best([(trial, None) for trial in trials]) is None


def test_failures_are_told_cause_by_cause_with_the_seeds_of_each(begun):
    settings = begun[1][0].settings

    def row(score, seed, reason, **more):
        status = {"status": "failed", "reason": reason} if reason else {"status": "done"}
        return Trial({"score": score, "seed": seed}, settings), status | more

    no_loss, no_module = "the loss was not finite", "config.score.name='dot': line 3"
    rows = [
        row("mlp", 7, no_loss, step=5),
        row("mlp", 8, None),
        row("mlp", 9, no_loss, step=3),
        row("dot", 7, no_loss, step=5),
        row("dot", 8, no_module),
        (Trial({"score": "dot", "seed": 9}, settings), None),
    ]
    assert failures(rows) == [
        "score=mlp, seeds 7, 9; score=dot, seed 7: the loss was not finite, at step 3 or 5",
        "score=dot, seed 8: config.score.name='dot': line 3",
    ]
    assert failures(rows[1:2]) == []


ABSURD = ["--config.optimizer.name=sgd", "--config.optimizer.clip_norm=3e38"]
KILLED = ["--grid=score=linear,dot", "--grid=optimizer.learning_rate=1e-3,3e38", "--workdir=sweep"]


def ranked(task, rates, width=None):
    """The lines of the table of trials that found one thing at each rate, of two seeds each."""
    rows = []
    for rate in rates:
        metrics = {"exact_match": 0.25, "token_accuracy": 0.5, "alignment_accuracy": None}
        result = {"status": "done", "test": {"all": metrics, "by_length": {"3": metrics}}}
        settings = small({"optimizer.learning_rate": rate}, task=task)
        overrides = {"optimizer.learning_rate": rate, "score.options.shape": "[1, 2]"}
        rows += [(Trial({**overrides, "seed": seed}, settings), result) for seed in (7, 8)]
    console = Console(
        file=io.StringIO(), force_terminal=width is not None, width=width or 80, color_system=None
    )
    print_ranks(rows, console)
    return accuracy_of(rows), console.file.getvalue().splitlines()


def test_ranks_of_a_classifier_are_by_its_accuracy():
    name, lines = ranked("digits", [0.125])
    headings = [cell.strip() for cell in lines[2].split("┃")[1:-1]]
    assert (name, headings) == ("accuracy", ["learning_rate", "shape", "seeds", "accuracy"])
    cells = [cell.strip() for cell in lines[4].split("│")[1:-1]]
    assert cells == ["0.125", "[1, 2]", "2", "0.2500"]


def test_ranks_of_other_tasks_are_by_exact_match():
    name, lines = ranked("copy", [0.125])
    headings = [cell.strip() for cell in lines[2].split("┃")[1:-1]]
    assert (name, headings[3:]) == ("exact match", ["exact match", "at longest", "token accuracy"])


@pytest.mark.parametrize("width", [40, 60, 80])
def test_ranks_fit_a_terminal(width):
    _, lines = ranked("copy", [0.125, 0.0625], width)
    assert max(map(len, lines)) <= width
    cells = [cell.strip() for line in lines for cell in line.split("│")]
    assert {"0.125", "0.0625", "[1, 2]", "0.2500", "0.5000"} <= set(cells)
