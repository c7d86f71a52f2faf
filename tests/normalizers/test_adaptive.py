"""ASEntmax: as sharp as the query and the number of keys ask for."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from normalizer_equations import asentmax as equation
from normalizer_equations import row_by_row, slopes
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


def by_numpy(parameters, queries, scores, where, delta=1.0, gamma_range=2.0):
    """The weights, query by query and head by head."""
    beta, gamma = np.zeros(scores.shape[:-1]), np.zeros(scores.shape[:-1])
    for b, h, i in np.ndindex(beta.shape):
        read = {
            name: queries[b, i] @ parameters[f"{name}_weight"][:, h] + parameters[f"{name}_bias"][h]
            for name in ("beta", "gamma")
        }
        beta[b, h, i] = math.log(1 + math.exp(read["beta"]))
        gamma[b, h, i] = gamma_range * math.tanh(read["gamma"])
    return row_by_row(lambda *row: equation(*row, delta), scores, where, beta, gamma)


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
    zero = jnp.zeros(SHAPE[:-1])
    weights = ScaledEntmax(zero, normal(4, *SHAPE[:-1]))(SCORES, jnp.asarray(WHERE))
    assert_close(weights, entmax15(SCORES, jnp.asarray(WHERE)), tolerance=1e-6)


def test_gradients_of_beta_and_gamma_are_those_of_the_equation():
    beta, gamma = jnp.abs(normal(6, *SHAPE[:-1])), normal(7, *SHAPE[:-1])

    def function(normalizer):
        return jnp.sum(normalizer(SCORES, jnp.asarray(WHERE)) * FACTORS)

    def value(beta, gamma):
        return np.sum(row_by_row(equation, exact(SCORES), WHERE, beta, gamma) * exact(FACTORS))

    actual = jit(jax.grad(function))(ScaledEntmax(beta, gamma))
    expected = ScaledEntmax(
        jnp.asarray(slopes(lambda b: value(b, exact(gamma)), beta), jnp.float32),
        jnp.asarray(slopes(lambda g: value(exact(beta), g), gamma), jnp.float32),
    )
    assert np.any(expected.beta)
    assert np.any(expected.gamma)
    assert_close(actual, expected, tolerance=1e-6)
    assert not np.any(actual.gamma[:, :, 1:3])  # with no key, and with a single one


@pytest.mark.parametrize("low", [float(np.finfo(np.float32).min), -1e30, -np.inf, np.nan])
@pytest.mark.parametrize("delta", [0.0, 1.0])
def test_no_score_makes_the_derivatives_of_a_scale_infinite(low, delta):
    scores = np.array([3e38, 1.0, low, low, low, 0.0, 2.9e38], np.float32)
    where = jnp.asarray(~np.isnan(scores))

    def weigh(beta, gamma):
        return ScaledEntmax(beta, gamma, delta)(jnp.asarray(scores), where)

    numbers = (jnp.asarray(3.0), jnp.asarray(0.5))
    forward, reverse = (jit(f(weigh, (0, 1)))(*numbers) for f in (jax.jacfwd, jax.jacrev))
    assert_close(forward, reverse, tolerance=1e-6)
    assert_close(weigh(*numbers), np.eye(KEYS)[0], tolerance=1e-6)


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
    weights = jit(lambda n, q: n.reading(q)(SCORES, jnp.asarray(WHERE)))(normalizer, QUERY_VECTORS)
    expected = by_numpy(
        parameters_of(normalizer), exact(QUERY_VECTORS), exact(SCORES), WHERE, **options
    )
    assert_close(weights, expected, tolerance=2e-6)
    other = jit(lambda n, q: n.reading(q)(SCORES, jnp.asarray(WHERE)))(normalizer, -QUERY_VECTORS)
    assert np.any(np.abs(np.asarray(weights - other)) > 0.01)


def test_gradients_are_those_of_the_equation():
    normalizer = learned()
    graph, state = nnx.split(normalizer)
    numbers = parameters_of(normalizer)

    def function(state, queries):
        weights = nnx.merge(graph, state).reading(queries)(SCORES, jnp.asarray(WHERE))
        return jnp.sum(weights * FACTORS)

    def value(numbers, queries):
        return np.sum(by_numpy(numbers, queries, exact(SCORES), WHERE) * exact(FACTORS))

    by_state, by_queries = jit(jax.grad(function, (0, 1)))(state, QUERY_VECTORS)
    for name, array in nnx.to_pure_dict(by_state).items():
        expected = slopes(
            lambda x, name=name: value(numbers | {name: x}, exact(QUERY_VECTORS)), numbers[name]
        )
        assert np.any(expected)
        assert_close(array, expected, tolerance=3e-6)
    expected = slopes(lambda q: value(numbers, q), exact(QUERY_VECTORS))
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
