"""Keys on several devices: what needs eight is in `eight_devices.py`."""

import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from oracles import (
    BATCH,
    HEADS,
    KEYS,
    QUERIES,
    VALUE_DIM,
    jit,
    make_form,
    make_mask,
    normal,
    refused,
)
from test_attend import shapes_in

from attention import KeyOnly, attend_sharded, masks
from attention.algorithms.sharded import Share, ShareOfBias, ShareOfMask

pytestmark = pytest.mark.usefixtures("strict")

LEAD = (BATCH, HEADS)
MESH = Mesh(jax.devices()[:1], "sequence")
DEVICES = " --xla_force_host_platform_device_count=8"


def test_on_eight_devices():
    file = Path(__file__).with_name("eight_devices.py")
    flags = os.environ.get("XLA_FLAGS", "") + DEVICES  # those of conftest.py, and devices
    environment = {"XLA_FLAGS": flags, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-q", file],
        env=os.environ | environment | {"JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# Shares


def shares(devices, num_keys=KEYS):
    """The share of each device, and which keys it has: the last ones may not exist."""
    size = -(-num_keys // devices)
    for first in range(0, devices * size, size):
        yield Share(jnp.asarray(first, jnp.int32), size, num_keys), range(first, first + size)


@pytest.mark.parametrize(
    "name", ["none", "batch lengths", "window", "dense & batch lengths & causal"]
)
def test_the_shares_of_a_mask_are_its_columns(name):
    mask, allowed = make_mask(name, LEAD)
    for share, keys in shares(3):
        own = jit(own_allowed)(ShareOfMask(mask, share))
        own = np.broadcast_to(own, (*LEAD, QUERIES, share.size))
        for column, key in enumerate(keys):
            expected = allowed[..., key] if key < KEYS else np.zeros_like(allowed[..., 0])
            np.testing.assert_array_equal(own[..., column], expected)


def own_allowed(mask):
    return mask.evaluate(jnp.arange(QUERIES), jnp.arange(mask.share.size), len(LEAD))


def test_the_shares_of_a_bias_are_its_columns():

    def bias(i, j):
        return jnp.sin(i[:, None] - 2 * j[None, :])

    whole = np.asarray(bias(jnp.arange(QUERIES), jnp.arange(KEYS)))
    for share, keys in shares(3):
        own = np.asarray(ShareOfBias(bias, share)(jnp.arange(QUERIES), jnp.arange(share.size)))
        existing = [key for key in keys if key < KEYS]
        np.testing.assert_array_equal(own[..., : len(existing)], whole[..., existing])


@pytest.mark.parametrize(
    ("mask", "queries", "keys", "reaches"),
    [
        (None, range(2), range(2), True),
        (masks.causal(), range(2), range(2), True),  # on the first device
        (masks.causal(offset=-1), range(1), range(2), False),
        (masks.window(1), range(18, 20), range(5, 6), True),  # on the third
        (masks.window(1), range(7, 9), range(4, 5), False),
        (masks.window(1), range(20, 22), range(2, 4), False),  # there is no key 21
    ],
)
def test_tiles_are_those_that_any_device_needs(mask, queries, keys, reaches):
    share = Share(jnp.asarray(0), 6, 20)
    assert ShareOfMask(mask, share).reaches(queries, keys) is reaches


def test_pooling_makes_no_array_of_pairs():
    queries, keys = 101, 103

    def loss(form, values):
        mask = masks.lengths(jnp.asarray(50))
        return jnp.sum(attend_sharded(form, values, mesh=MESH, axis="sequence", mask=mask))

    form = KeyOnly(normal(1, keys), queries)
    program = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(form, normal(2, keys, VALUE_DIM))
    assert max(math.prod(shape) for shape in shapes_in(program)) <= max(queries, keys) * VALUE_DIM


# What cannot be


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axis": "keys"}, r"axis='keys' is not of the mesh; choose sequence$"),
        (
            {"normalizer": "entmax15"},
            r"normalizer='entmax15' cannot .*; choose softmax, softmax_one, sigmoid$",
        ),
        (
            {"normalizer": "sofmax"},
            r"normalizer='sofmax' .*; choose softmax, softmax_one, sigmoid$",
        ),
        ({"mask": masks.dense(jnp.ones((5, 6), bool))}, r"\(5, 6\) does not fit 5 .* 7 keys"),
    ],
)
def test_an_impossible_request_is_refused(changes, message):
    form, values = make_form(KeyOnly), normal(6, KEYS, VALUE_DIM)
    with refused(message):
        attend_sharded(form, values, **({"mesh": MESH, "axis": "sequence"} | changes))
