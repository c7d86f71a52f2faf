"""Softmax with a sink: a further term in the denominator."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from normalizer_equations import row_by_row, slopes
from normalizer_equations import softmax as equation
from oracles import (
    BATCH,
    HEADS,
    KEYS,
    QUERIES,
    VALUE_DIM,
    arrays_in,
    assert_close,
    jit,
    loop_scores,
    make_form,
    normal,
    refused,
)

from attention import InnerProduct, attend
from attention.normalizers import LearnedSink, Softmax, SoftmaxWithSink, softmax

pytestmark = pytest.mark.usefixtures("strict")

SHAPE = (BATCH, HEADS, QUERIES, KEYS)
WHERE = np.random.default_rng(0).random(SHAPE) < 0.5
WHERE[:, :, 1] = False  # a query with no key
SCORES, SINK, FACTORS = normal(1, *SHAPE), normal(2, HEADS), normal(3, *SHAPE)


def exact(array):
    return np.asarray(array, np.float64)


def log_normalizer(scores, where):
    some = np.any(where, -1)
    total = np.sum(np.where(where, np.exp(exact(scores)), 0.0), -1)
    return jnp.asarray(np.where(some, np.log(np.where(some, total, 1.0)), -np.inf), jnp.float32)


@pytest.mark.parametrize(
    ("sink", "expected"),
    [(0.0, [1 / 4, 1 / 2]), (math.log(5), [1 / 8, 1 / 4]), (-1e38, [1 / 3, 2 / 3])],
)
def test_weights_are_those_found_by_hand(sink, expected):
    weights = SoftmaxWithSink(sink)(jnp.asarray([0.0, math.log(2)], jnp.float32))
    assert_close(weights, np.array(expected), tolerance=1e-6)


def test_it_is_a_softmax_with_a_further_key_whose_weight_is_dropped():
    def with_key(scores, where):
        column = jnp.broadcast_to(SINK[None, :, None, None], (*SHAPE[:-1], 1))
        scores = jnp.concatenate([scores, column], -1)
        where = jnp.concatenate([where, jnp.any(where, -1, keepdims=True)], -1)
        return softmax(scores, where)[..., :-1]

    def pulled(function):
        weights, pullback = jax.vjp(lambda s: function(s, jnp.asarray(WHERE)), SCORES)
        return weights, pullback(FACTORS)

    actual, expected = (jit(lambda f=f: pulled(f))() for f in (SoftmaxWithSink(SINK), with_key))
    assert_close(actual, expected, tolerance=1e-6)


@pytest.mark.parametrize("sink", [jnp.asarray(0.3), SINK])
def test_the_gradient_of_a_sink_is_that_of_the_equation(sink):
    def value(sink):
        weights = row_by_row(equation, exact(SCORES), WHERE, sink[..., None])
        return np.sum(weights * exact(FACTORS))

    def function(normalizer, scores):
        return jnp.sum(normalizer(scores, jnp.asarray(WHERE)) * FACTORS)

    gradient = jit(jax.grad(function))(SoftmaxWithSink(sink), SCORES)
    assert type(gradient) is SoftmaxWithSink
    assert gradient.sink.shape == sink.shape
    assert_close(gradient.sink, slopes(value, sink), tolerance=1e-6)


def test_a_sink_has_a_hessian():
    def function(sink):
        scores, factors = exact(SCORES), exact(FACTORS)
        return jnp.sum(SoftmaxWithSink(sink)(jnp.asarray(scores), jnp.asarray(WHERE)) * factors)

    def gradient(sink):
        return exact(jit(jax.grad(function))(jnp.asarray(sink)))

    with jax.enable_x64(True):
        hessian = jit(jax.hessian(function))(jnp.asarray(exact(SINK)))
        assert_close(hessian, slopes(gradient, SINK), tolerance=1e-8)


@pytest.mark.parametrize("sink", [0.0, SINK])
def test_the_weights_are_those_of_a_softmax_times_a_share(sink):
    normalizer, where = SoftmaxWithSink(sink), jnp.asarray(WHERE)
    share = jit(lambda n, log: n.share(log))(normalizer, log_normalizer(SCORES, WHERE))
    weights = jit(lambda n, s: n(s, where))(normalizer, SCORES)
    assert_close(weights, exact(softmax(SCORES, where)) * exact(share)[..., None], 1e-6)
    assert_close(share, np.sum(exact(weights), -1), tolerance=1e-6)
    assert not np.any(np.asarray(share)[:, :, 1])


def test_a_share_by_hand():
    share = SoftmaxWithSink(0.0).share(jnp.asarray([math.log(3), -jnp.inf]))
    assert_close(share, np.array([3 / 4, 0.0]), tolerance=1e-6)


def test_the_share_of_no_key_passes_on_no_gradient():
    def function(sink, log):
        return jnp.sum(SoftmaxWithSink(sink).share(log))

    for leaf in arrays_in(jax.grad(function, (0, 1))(jnp.zeros(()), jnp.asarray([-jnp.inf]))):
        np.testing.assert_array_equal(leaf, 0.0)


@jit
def weight_and_gradient(sink, score):
    return jax.value_and_grad(lambda sink: SoftmaxWithSink(sink)(jnp.full(KEYS, score))[0])(sink)


@pytest.mark.parametrize(("sink", "weight"), [(1e38, 0.0), (-1e38, 1 / KEYS)])
@pytest.mark.parametrize("score", [-1e3, 0.0, 1e3])
def test_a_great_sink_takes_all_and_a_low_one_nothing(sink, weight, score):
    actual, gradient = weight_and_gradient(jnp.asarray(sink), jnp.asarray(score))
    assert_close(actual, np.array(weight), tolerance=1e-6)
    assert gradient == 0


def test_it_is_no_softmax_and_a_key_of_a_cache_where_its_sink_is_a_number():
    assert not isinstance(SoftmaxWithSink(), Softmax)
    assert {SoftmaxWithSink(), SoftmaxWithSink(0.0), SoftmaxWithSink(1.0)} == {
        SoftmaxWithSink(0.0),
        SoftmaxWithSink(1.0),
    }


@pytest.mark.parametrize("half", [jnp.float16, jnp.bfloat16])
def test_a_sink_of_another_dtype_is_one_of_the_scores(half):
    sink = SINK.astype(half)
    actual, expected = (
        jit(lambda n: n(SCORES))(SoftmaxWithSink(s)) for s in (sink, sink.astype(jnp.float32))
    )
    assert actual.dtype == jnp.float32
    assert_close(actual, expected, tolerance=0)


@pytest.mark.parametrize("shape", [(HEADS,), (HEADS, HEADS), (BATCH * HEADS, QUERIES, KEYS)])
def test_scores_without_the_axis_of_the_sinks_are_refused(shape):
    with refused(r"sink of shape \(3,\) does not fit scores of shape \("):
        SoftmaxWithSink(SINK)(jnp.zeros(shape))


def test_attend_takes_the_sink_of_zero_by_its_name():
    form, values = make_form(InnerProduct), normal(6, KEYS, VALUE_DIM)
    weights = row_by_row(equation, loop_scores(form), np.ones((QUERIES, KEYS), bool), 0.0)
    context = jit(lambda *args: attend(*args, normalizer="softmax_one"))(form, values)
    assert_close(context, weights @ exact(values))


# Learned


def test_a_learned_sink_begins_at_zero_and_is_all_that_is_learned():
    learned = LearnedSink(5, HEADS, rngs=nnx.Rngs(0))
    assert_close(nnx.to_pure_dict(nnx.state(learned, nnx.Param)), {"sink": np.zeros(HEADS)})


def test_a_learned_sink_gets_its_gradient():
    learned = LearnedSink(5, HEADS, rngs=nnx.Rngs(0))
    learned.sink[...] = SINK
    graph, state = nnx.split(learned)

    def function(state):
        weights = nnx.merge(graph, state).reading(None)(SCORES, jnp.asarray(WHERE))
        return jnp.sum(weights * FACTORS)

    def of_the_equation(sink):
        return jnp.sum(SoftmaxWithSink(sink)(SCORES, jnp.asarray(WHERE)) * FACTORS)

    (gradient,) = jax.tree.leaves(jit(jax.grad(function))(state))
    assert_close(gradient, jit(jax.grad(of_the_equation))(SINK), tolerance=1e-6)


def test_no_heads_are_refused():
    with refused("heads=0: must be a whole number from 1"):
        LearnedSink(5, 0, rngs=nnx.Rngs(0))
