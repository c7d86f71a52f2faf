import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import BATCH, HEADS, assert_close, jit, normal, refused

from attention.rotary import rotate

pytestmark = pytest.mark.usefixtures("strict")

TIME, DIM = 7, 10
LEADS = [(), (BATCH,), (BATCH, HEADS)]


def turned(vector, position, base=10_000.0):
    """A vector turned by its position, pair by pair, in loops."""
    half = len(vector) // 2
    result = np.zeros(len(vector))
    for pair in range(half):
        angle = position * base ** (-2 * pair / len(vector))
        left, right = float(vector[pair]), float(vector[pair + half])
        result[pair] = left * math.cos(angle) - right * math.sin(angle)
        result[pair + half] = right * math.cos(angle) + left * math.sin(angle)
    return result


def loop_rotate(vectors, positions, base=10_000.0):
    """`positions` has the shape of `vectors` without its last axis."""
    vectors = np.asarray(vectors, np.float64)
    result = np.zeros(vectors.shape)
    for at in np.ndindex(vectors.shape[:-1]):
        result[at] = turned(vectors[at], float(positions[at]), base)
    return result


def test_a_vector_turned_by_hand():
    # (3, 4) turned by 2 radians, (1, 0) by 2 / √100
    vector = jnp.asarray([[3.0, 1.0, 4.0, 0.0]])
    expected = np.array([[-4.8856302, 0.9800666, 1.0633050, 0.1986693]])
    actual = jit(rotate, static_argnames="base")(vector, np.array([2]), base=100.0)
    assert_close(actual, expected, tolerance=1e-6)


@pytest.mark.parametrize("lead", LEADS)
def test_positions_count_from_zero_where_none_are_told(lead):
    vectors = normal(1, *lead, TIME, DIM)
    expected = loop_rotate(vectors, np.broadcast_to(np.arange(TIME), (*lead, TIME)))
    assert_close(jit(rotate)(vectors), expected, tolerance=1e-6)
    np.testing.assert_array_equal(jit(rotate)(vectors, jnp.arange(TIME)), jit(rotate)(vectors))


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("batch_axes", [0, 1, 2])
def test_positions_are_those_of_the_first_leading_axes(lead, batch_axes):
    batch = lead[:batch_axes]
    positions = np.random.default_rng(2).integers(0, 50, (*batch, TIME))
    every = positions.reshape(*batch, *(1 for _ in lead[len(batch) :]), TIME)
    vectors = normal(1, *lead, TIME, DIM)
    expected = loop_rotate(vectors, np.broadcast_to(every, (*lead, TIME)))
    assert_close(jit(rotate)(vectors, positions), expected, tolerance=5e-6)


def test_positions_of_a_batch_axis_of_size_one_are_shared():
    vectors, positions = normal(1, BATCH, HEADS, TIME, DIM), jnp.arange(TIME) * 3
    np.testing.assert_array_equal(
        jit(rotate)(vectors, positions[None]), jit(rotate)(vectors, positions)
    )


def test_a_step_of_a_cache_is_turned_as_in_the_full_run():
    vectors = normal(1, BATCH, HEADS, TIME, DIM)
    step = jit(lambda at: rotate(vectors[:, :, 3:4], at[:, None]))(jnp.full(BATCH, 3))
    assert_close(step, jit(rotate)(vectors)[:, :, 3:4], tolerance=1e-6)


def test_inner_products_depend_on_the_distance_alone():
    query, key = normal(1, 1, DIM), normal(2, 1, DIM)

    def product(i, j):
        return jnp.sum(rotate(query, jnp.asarray([i])) * rotate(key, jnp.asarray([j])))

    assert_close(jit(product)(9, 4), product(105, 100), tolerance=1e-5)
    assert abs(product(9, 4) - product(9, 5)) > 1e-2


def test_the_gradient_is_turned_back():
    vectors, cotangent = normal(1, BATCH, TIME, DIM), normal(2, BATCH, TIME, DIM)
    positions = jnp.arange(TIME) + 5
    _, pullback = jax.vjp(lambda v: rotate(v, positions), vectors)
    expected = loop_rotate(cotangent, np.broadcast_to(-np.asarray(positions), (BATCH, TIME)))
    assert_close(pullback(cotangent)[0], expected, tolerance=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_kept_and_angles_are_not_rounded_to_it(dtype):
    vectors = normal(1, 1, DIM).astype(dtype)
    actual = jit(rotate)(vectors, jnp.asarray([1001]))
    assert actual.dtype == dtype
    expected = loop_rotate(np.asarray(vectors, np.float64), np.array([1001]))
    assert_close(actual, expected, tolerance=float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("dim", [1, 7])
def test_an_odd_dim_has_no_pairs(dim):
    with refused(rf"^dim={dim}: must be even, rotary positions turn features in pairs$"):
        rotate(normal(1, TIME, dim))


@pytest.mark.parametrize(
    "shape", [(), (TIME + 1,), (1,), (HEADS, TIME), (BATCH, HEADS, TIME), (TIME, BATCH)]
)
def test_positions_that_do_not_fit_are_refused(shape):
    message = rf"^positions of shape {shape} do not fit vectors of shape \(2, 7, 10\): they must"
    with refused(message.replace(f"{shape}", str(shape).replace("(", r"\(").replace(")", r"\)"))):
        rotate(normal(1, BATCH, TIME, DIM), jnp.zeros(shape))
