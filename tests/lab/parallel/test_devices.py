"""The same numbers on 1, 2 and 8 devices, which a process of its own pretends to have."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import small

from attention.lab.errors import UsageError
from attention.lab.parallel.devices import described, make_mesh, split_rows
from attention.lab.parallel.replicas import over_replicas
from attention.lab.runs.checkpoints import Checkpoints
from attention.lab.training.build import build
from attention.lab.training.evaluate import Evaluator
from attention.lab.training.state import abstract_state, initial_state, restored_state
from attention.lab.training.update import make_train

# Replicas, devices, and whether parameters are split.
LAYOUTS = [(1, 1, 0), (1, 2, 1), (1, 8, 0), (4, 1, 0), (4, 2, 0), (4, 8, 1)]
# A checkpoint of a layout goes on in another.
MOVES = [((1, 8, 0), (1, 2, 1)), ((4, 8, 1), (4, 1, 0))]
UPDATES, SAVED_AT = 50, 30


@functools.cache
def experiment(replicas, devices, split):
    """One whose batches 8 devices can share, and some of its arrays, but not all."""
    changes = {"num_seeds": replicas, "train.shard_parameters": bool(split), "model.dim": 8}
    changes |= {"train.batch_size": 24, "eval.batch_size": 10, "train.steps": UPDATES}
    settings = small(changes | {"model.dropout": 0.1}, score="mlp" if replicas == 1 else "dot")
    return build(settings, None, jax.devices()[:devices])


@functools.cache
def program(*layout):
    return make_train(experiment(*layout))


def train(layout, state, until):
    """The state after so many updates, and the losses of the replicas."""
    state, metrics = program(*layout)(state, experiment(*layout).task, until)
    return state, metrics["loss"].tolist()


def splits(layout, state):
    """How often the program of updates says that an array is split."""
    traced = jax.make_jaxpr(lambda state: program(*layout)(state, experiment(*layout).task, 1))
    return str(traced(state)).count("sharding_constraint[")


def share_of_rows(layout):
    """The shape, on a device, of what `split_rows` makes of 24 × 5."""
    lifted = over_replicas(
        lambda seed: split_rows(jnp.zeros((24, 5)) + seed), experiment(*layout).mesh
    )
    return jax.jit(lifted)(jnp.arange(1.0, layout[0] + 1)).addressable_shards[0].data.shape


def measure(directory):
    """Everything that needs 8 devices; prints it, as JSON."""
    losses, reports, shares, rows = {}, {}, {}, {}
    for layout in LAYOUTS:
        name = str(layout)
        rows[name] = share_of_rows(layout), splits(layout, abstract_state(experiment(*layout)))
        state, first = train(layout, initial_state(experiment(*layout)), SAVED_AT)
        with Checkpoints(Path(directory) / name, 1, {}) as checkpoints:
            checkpoints.save(SAVED_AT, vars(state))
        state, then = train(layout, state, UPDATES)
        losses[name] = [first, then]
        reports[name] = Evaluator(experiment(*layout)).report(state, "test")
        shares[name] = [
            leaf.addressable_shards[0].data.shape
            for tree in (state.parameters, state.optimizer[1][0].mu)
            for leaf in (tree["encoder"]["embedding"], tree["decoder"]["output"]["bias"])
        ]
    going_on = []
    for before, after in MOVES:
        state = restored_state(Path(directory) / str(before), experiment(*after))
        going_on.append(train(after, state, UPDATES)[1])
    meshes = [(7, 1, 24), (7, 14, 24), (8, 6, 24), (6, 4, 7), (6, 1, 128)]
    told = [described(make_mesh(jax.devices()[:n], *sizes), n) for n, *sizes in meshes]
    try:
        build(small({"train.shard_parameters": True, "train.batch_size": 24}), None)
    except UsageError as error:
        refused = str(error)
    found = {"losses": losses, "reports": reports, "shares": shares, "rows": rows}
    print(json.dumps(found | {"going_on": going_on, "told": told, "refused": refused}))


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    here = Path(__file__).parent
    path = [str(here), str(here.parent), *sys.path]
    done = subprocess.run(
        [
            *(sys.executable, "-c", "import sys, test_devices as t; t.measure(sys.argv[1])"),
            str(tmp_path_factory.mktemp("saved")),
        ],
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("replicas", [1, 4])
def test_losses_are_the_same_on_1_2_and_8_devices(measured, replicas):
    losses = measured["losses"]
    expected = losses[f"({replicas}, 1, 0)"]
    assert np.shape(expected) == (2, replicas)
    assert len(np.unique(expected)) == 2 * replicas
    for layout in LAYOUTS:
        if layout[0] == replicas:
            np.testing.assert_allclose(losses[str(layout)], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("replicas", [1, 4])
def test_reports_are_the_same_on_1_2_and_8_devices(measured, replicas):
    reports = [measured["reports"][str(layout)] for layout in LAYOUTS if layout[0] == replicas]
    assert reports == reports[:1] * len(reports)


def test_each_device_has_its_share_of_replicas_and_on_request_of_parameters(measured):
    """Of an embedding of 5 × 8, and of a bias of 5, which cannot be split."""
    for (replicas, devices, split), shapes in zip(
        LAYOUTS, measured["shares"].values(), strict=True
    ):
        seed = {(4, 2): 2, (4, 8): 4}.get((replicas, devices), 1)
        embedding = [replicas // seed, 5, 8 // (devices // seed if split else 1)]
        assert shapes == 2 * [embedding, [replicas // seed, 5]]


def test_each_device_has_its_share_of_the_rows(measured):
    fields = 5  # of the batch
    for (replicas, devices, split), (shape, splits) in zip(
        LAYOUTS, measured["rows"].values(), strict=True
    ):
        data = {(4, 2): 1, (4, 8): 2}.get((replicas, devices), devices)
        assert shape == [replicas // (devices // data), 24 // data, 5]
        assert splits == 0 if data == 1 else splits > fields if split else splits == fields


def test_a_checkpoint_goes_on_on_another_number_of_devices(measured):
    losses, going_on = measured["losses"], measured["going_on"]
    for (before, _), loss in zip(MOVES, going_on, strict=True):
        np.testing.assert_allclose(loss, losses[str(before)][1], rtol=0, atol=1e-5)


def test_devices_that_get_no_equal_share_are_left_out_and_it_is_told(measured):
    assert measured["told"] == [
        "devices: replicas over 1, each batch over 6; 1 of 7 left out, the sizes do not divide",
        "devices: replicas over 7, each batch over 1",
        "devices: replicas over 2, each batch over 4",
        "devices: replicas over 4, each batch over 1; 2 of 6 left out, the sizes do not divide",
        "devices: replicas over 1, each batch over 4; 2 of 6 left out, the sizes do not divide",
    ]


def test_parameters_that_cannot_be_split_are_refused(measured):
    assert measured["refused"] == (
        "config.train.shard_parameters=True: no parameter has an axis that divides by 8, the"
        " devices that share a batch"
    )
