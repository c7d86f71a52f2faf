"""ASEntmax: as sharp as the query and the number of keys ask for."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from normalizer_equations import asentmax as equation
from normalizer_equations import row_by_row
from oracles import (
    BATCH,
    HEADS,
    KEYS,
    QUERIES,
    QUERY_DIM,
    assert_close,
    jit,
    normal,
    randomized,
    refused,
)

from attention.normalizers import ASEntmax, ScaledEntmax, entmax15

pytestmark = pytest.mark.usefixtures("strict")

SHAPE = (BATCH, HEADS, QUERIES, KEYS)
WHERE = np.random.default_rng(0).random(SHAPE) < 0.6
WHERE[:, :, 1] = False  # a query with no key
WHERE[:, :, 2] = np.arange(KEYS) == 3  # and one with a single key
SCORES, FACTORS = normal(1, *SHAPE), normal(3, *SHAPE)
QUERY_VECTORS = normal(5, BATCH, QUERIES, QUERY_DIM)


def exact(array):
    return np.asarray(array, np.float64)


def learned(**options):
    return randomized(lambda: ASEntmax(QUERY_DIM, HEADS, rngs=nnx.Rngs(0), **options))


def read_by_numpy(parameters, queries):
    """What β and γ are made of, query by query and head by head."""
    read = {name: np.zeros((BATCH, HEADS, QUERIES)) for name in ("beta", "gamma")}
    for name, numbers in read.items():
        weight, bias = parameters[f"{name}_weight"], parameters[f"{name}_bias"]
        for b, h, i in np.ndindex(numbers.shape):
            numbers[b, h, i] = queries[b, i] @ weight[:, h] + bias[h]
    return read


def by_numpy(parameters, queries, scores, where, delta=1.0, gamma_range=2.0):
    """The weights, query by query and head by head."""
    read = read_by_numpy(parameters, queries)
    beta, gamma = np.log(1 + np.exp(read["beta"])), gamma_range * np.tanh(read["gamma"])
    return row_by_row(lambda *row: equation(*row, delta), scores, where, beta, gamma)


def slopes_by_numpy(beta, gamma, step=1e-6):
    """Central differences by the β and the γ of every query, of `FACTORS` on its weights."""

    def values(beta, gamma):
        return np.sum(row_by_row(equation, exact(SCORES), WHERE, beta, gamma) * exact(FACTORS), -1)

    by_beta = values(beta + step, gamma) - values(beta - step, gamma)
    by_gamma = values(beta, gamma + step) - values(beta, gamma - step)
    return by_beta / (2 * step), by_gamma / (2 * step)


def parameters_of(normalizer):
    return jax.tree.map(exact, nnx.to_pure_dict(nnx.state(normalizer, nnx.Param)))


# Given β and γ


@pytest.mark.parametrize(
    ("difference", "beta", "gamma"),
    [
        (0.4, 0.0, 7.0),  # not scaled at all
        (0.4 / 2, 1.0, 0.0),  # by 1 + 1 · (log 4)⁰
        (0.4 / 3, 1 / math.log(2), 1.0),  # by 1 + log 4 / log 2
        (0.4 / 5, 1 / math.log(2) ** 2, 2.0),  # by 1 + (log 4 / log 2)²
        (0.4 / 1.5, math.log(2), -1.0),  # by 1 + log 2 / log 4
    ],
)
def test_weights_are_those_found_by_hand(difference, beta, gamma):
    # Of four allowed keys; the masked ones are not counted.
    scores = jnp.asarray([difference, 9.0, 0.0, -9.0, -9.0, 7.0, -jnp.inf])
    where = jnp.asarray([True, False, True, True, True, False, True])
    normalizer = ScaledEntmax(jnp.asarray(beta), jnp.asarray(gamma))
    weights = jit(lambda n: n(scores, where))(normalizer)
    assert_close(weights, np.array([0.8**2, 0, 0.6**2, 0, 0, 0, 0]), tolerance=1e-6)


def test_without_beta_it_is_entmax():
    def both(zero, gamma, where):
        return ScaledEntmax(zero, gamma)(SCORES, where), entmax15(SCORES, where)

    weights, expected = jit(both)(jnp.zeros(SHAPE[:-1]), normal(4, *SHAPE[:-1]), jnp.asarray(WHERE))
    assert_close(weights, expected, tolerance=1e-6)


def test_gradients_of_beta_and_gamma_are_those_of_the_equation():
    beta, gamma = jnp.abs(normal(6, *SHAPE[:-1])), normal(7, *SHAPE[:-1])

    def function(normalizer):
        return jnp.sum(normalizer(SCORES, jnp.asarray(WHERE)) * FACTORS)

    actual = jit(jax.grad(function))(ScaledEntmax(beta, gamma))
    expected = ScaledEntmax(
        *(jnp.asarray(s, jnp.float32) for s in slopes_by_numpy(exact(beta), exact(gamma)))
    )
    assert np.any(expected.beta)
    assert np.any(expected.gamma)
    assert_close(actual, expected, tolerance=1e-6)
    assert not np.any(actual.gamma[:, :, 1:3])  # with no key, and with a single one


@functools.partial(jit, static_argnames="delta")
def weights_and_jacobians(scores, where, beta, gamma, delta):
    def weigh(beta, gamma):
        return ScaledEntmax(beta, gamma, delta)(scores, where)

    return weigh(beta, gamma), *(f(weigh, (0, 1))(beta, gamma) for f in (jax.jacfwd, jax.jacrev))


@pytest.mark.parametrize("low", [float(np.finfo(np.float32).min), -1e30, -np.inf, np.nan])
@pytest.mark.parametrize("delta", [0.0, 1.0])
def test_no_score_makes_the_derivatives_of_a_scale_infinite(low, delta):
    scores = np.array([3e38, 1.0, low, low, low, 0.0, 2.9e38], np.float32)
    where = jnp.asarray(~np.isnan(scores))
    numbers = (jnp.asarray(3.0), jnp.asarray(0.5))
    weights, forward, reverse = weights_and_jacobians(jnp.asarray(scores), where, *numbers, delta)
    assert_close(forward, reverse, tolerance=1e-6)
    assert_close(weights, np.eye(KEYS)[0], tolerance=1e-6)


def test_a_scale_of_zero_makes_allowed_keys_equal():
    weights = ScaledEntmax(jnp.zeros(()), jnp.zeros(()), 0.0)(
        normal(1, KEYS), jnp.asarray(np.arange(KEYS) < 4)
    )
    assert_close(weights, np.where(np.arange(KEYS) < 4, 1 / 4, 0.0), tolerance=1e-6)


def test_scores_without_the_axes_of_beta_are_refused():
    normalizer = ScaledEntmax(jnp.zeros((HEADS, QUERIES)), jnp.zeros((HEADS, QUERIES)))
    with refused(r"beta of shape \(3, 5\) does not fit scores of shape \(2, 3, 1\)"):
        normalizer(jnp.zeros((BATCH, HEADS, KEYS)))


# Learned


@pytest.mark.parametrize(
    "options", [{}, {"delta": 0.3, "gamma_range": 3.0}, {"delta": 0.0}, {"gamma_range": 0.0}]
)
def test_beta_and_gamma_are_read_from_the_query(options):
    normalizer = learned(**options)
    function = jit(lambda n, q: n.reading(q)(SCORES, jnp.asarray(WHERE)))
    weights = function(normalizer, QUERY_VECTORS)
    expected = by_numpy(
        parameters_of(normalizer), exact(QUERY_VECTORS), exact(SCORES), WHERE, **options
    )
    assert_close(weights, expected, tolerance=2e-6)
    other = function(normalizer, jax.device_put(-np.asarray(QUERY_VECTORS)))
    assert np.any(np.abs(np.asarray(weights) - np.asarray(other)) > 0.01)


def test_gradients_are_those_of_the_equation():
    normalizer = learned()
    graph, state = nnx.split(normalizer)
    numbers = parameters_of(normalizer)

    def function(state, queries):
        weights = nnx.merge(graph, state).reading(queries)(SCORES, jnp.asarray(WHERE))
        return jnp.sum(weights * FACTORS)

    # By the chain rule, from the slopes of β = log(1 + e^r) and γ = 2 tanh s.
    queries, read = exact(QUERY_VECTORS), read_by_numpy(numbers, exact(QUERY_VECTORS))
    beta, gamma = np.log(1 + np.exp(read["beta"])), 2 * np.tanh(read["gamma"])
    by_beta, by_gamma = slopes_by_numpy(beta, gamma)
    by_read = {
        "beta": by_beta / (1 + np.exp(-read["beta"])),
        "gamma": by_gamma * (2 - gamma**2 / 2),
    }
    expected = {f"{name}_bias": by.sum((0, 2)) for name, by in by_read.items()}
    expected |= {
        f"{name}_weight": np.einsum("bid,bhi->dh", queries, by) for name, by in by_read.items()
    }
    assert all(np.any(array) for array in expected.values())

    by_state, by_queries = jit(jax.grad(function, (0, 1)))(state, QUERY_VECTORS)
    assert_close(nnx.to_pure_dict(by_state), expected, tolerance=3e-6)
    expected = sum(
        np.einsum("bhi,dh->bid", by, numbers[f"{name}_weight"]) for name, by in by_read.items()
    )
    assert_close(by_queries, expected, tolerance=3e-6)


def test_queries_that_all_examples_share():
    normalizer = learned()
    shared = QUERY_VECTORS[0]
    full = jnp.broadcast_to(shared, QUERY_VECTORS.shape)
    actual, expected = (
        jit(lambda n, q: n.reading(q)(SCORES))(normalizer, q) for q in (shared, full)
    )
    assert_close(actual, expected, tolerance=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_read_in_single(dtype):
    normalizer, queries = learned(), QUERY_VECTORS.astype(dtype)
    actual, expected = (
        jit(lambda n, q: n.reading(q))(normalizer, q)
        for q in (queries, queries.astype(jnp.float32))
    )
    assert actual.beta.dtype == actual.gamma.dtype == jnp.float32
    assert_close(actual, expected, tolerance=1e-6)


def test_the_scale_differs_from_query_to_query_from_the_beginning():
    normalizer = ASEntmax(QUERY_DIM, HEADS, rngs=nnx.Rngs(0))
    for weight in (normalizer.beta_weight[...], normalizer.gamma_weight[...]):
        assert weight.shape == (QUERY_DIM, HEADS)
        assert np.max(np.abs(weight)) <= QUERY_DIM**-0.5
        assert np.std(weight) > 0.4 * QUERY_DIM**-0.5
    read = normalizer.reading(QUERY_VECTORS)
    assert np.all(np.asarray(read.beta) > 0)
    assert np.all(np.abs(read.gamma) < 2)


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (jnp.zeros((QUERIES, 3)), r"an array \[\.\.\., queries, query_dim=11\], got \(5, 3\)$"),
        ({"x": jnp.zeros((QUERIES, QUERY_DIM))}, "query_dim=11], got dict$"),
    ],
)
def test_queries_that_are_no_vectors_are_refused(queries, message):
    with refused(message):
        learned().reading(queries)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ((0, 1), {}, "query_dim=0: must be a whole number from 1"),
        ((1, 0), {}, "heads=0: must be a whole number from 1"),
        ((1, 1), {"delta": -0.1}, "delta=-0.1: must be at least 0"),
        ((1, 1), {"gamma_range": math.nan}, "gamma_range=nan: must be at least 0"),
    ],
)
def test_what_cannot_be_made_is_refused(sizes, options, message):
    with refused(message):
        ASEntmax(*sizes, rngs=nnx.Rngs(0), **options)
