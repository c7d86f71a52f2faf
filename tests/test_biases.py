import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from oracles import HEADS, KEYS, QUERIES, assert_close, normal, refused

from attention.biases import Alibi, RelativePosition

pytestmark = pytest.mark.usefixtures("strict")

QUERY_INDEX, KEY_INDEX = jnp.arange(QUERIES) + 3, jnp.arange(KEYS)


def test_alibi_is_its_equation():
    bias = Alibi(HEADS, rngs=nnx.Rngs(0))(QUERY_INDEX, KEY_INDEX)
    expected = [
        [
            [-(2 ** (-8 * (h + 1) / HEADS)) * abs(i + 3 - j) for j in range(KEYS)]
            for i in range(QUERIES)
        ]
        for h in range(HEADS)
    ]
    assert_close(bias, np.array(expected), tolerance=1e-6)


def test_eight_heads_have_the_slopes_of_the_paper():
    bias = Alibi(8, rngs=nnx.Rngs(0))(jnp.arange(1), jnp.arange(2))
    np.testing.assert_array_equal(bias[:, 0, 1], [-(0.5**k) for k in range(1, 9)])


def test_alibi_learns_nothing():
    assert not nnx.state(Alibi(HEADS, rngs=nnx.Rngs(0)), nnx.Param)


def test_relative_position_looks_up_the_clipped_distance():
    bias = RelativePosition(HEADS, clip=2, rngs=nnx.Rngs(0))
    bias.table[...] = normal(1, HEADS, 5)
    table = np.asarray(bias.table[...])
    expected = [
        [[table[h, np.clip(j - i - 3, -2, 2) + 2] for j in range(KEYS)] for i in range(QUERIES)]
        for h in range(HEADS)
    ]
    np.testing.assert_array_equal(bias(QUERY_INDEX, KEY_INDEX), np.array(expected))


def test_relative_position_begins_without_preference():
    assert not np.any(RelativePosition(HEADS, rngs=nnx.Rngs(0))(QUERY_INDEX, KEY_INDEX))


def test_a_negative_clip_is_refused():
    with refused("clip=-1: must be at least 0"):
        RelativePosition(HEADS, clip=-1, rngs=nnx.Rngs(0))
