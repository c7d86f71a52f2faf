"""That the results of a sweep are those of its trials."""

import json

import pytest
from small_sweeps import finish

from attention.lab.sweeps.folder import make_group, result_of
from attention.lab.sweeps.results import curves, outcomes


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


ABSURD = ["--config.optimizer.name=sgd", "--config.optimizer.clip_norm=3e38"]
KILLED = ["--grid=score=linear,dot", "--grid=optimizer.learning_rate=1e-3,3e38", "--workdir=sweep"]
