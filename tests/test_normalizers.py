import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import BATCH, HEADS, KEYS, QUERIES, arrays_in, assert_close, jit, normal

from attention.normalizers import softmax

pytestmark = pytest.mark.usefixtures("strict")

SHAPE = (BATCH, HEADS, QUERIES, KEYS)
WHERE = np.random.default_rng(0).random(SHAPE) < 0.5
WHERE[:, :, 1] = False  # a query with no key
WHERE[:, :, 2] = True


@jit
def pulled(scores, where):
    """The weights, and the gradient of a random functional of them."""
    weights, pullback = jax.vjp(lambda scores: softmax(scores, where=where), scores)
    return weights, pullback(normal(7, *weights.shape).astype(scores.dtype))[0]


def test_weights_are_the_equation():
    scores = np.asarray(normal(1, QUERIES, KEYS), np.float64)
    expected = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    assert_close(softmax(normal(1, QUERIES, KEYS)), expected, tolerance=1e-6)


def test_weights_are_positive_and_sum_to_one():
    weights = np.asarray(softmax(normal(1, *SHAPE, scale=3.0)))
    assert np.all(weights > 0)
    assert_close(np.sum(weights, -1), np.ones(SHAPE[:-1]), tolerance=1e-6)


def test_rows_with_a_key_sum_to_one_and_others_to_zero():
    weights, _ = pulled(normal(1, *SHAPE, scale=3.0), jnp.asarray(WHERE))
    assert_close(np.sum(weights, -1), np.any(WHERE, -1).astype(float), tolerance=1e-6)


def test_a_masked_key_has_weight_and_gradient_zero():
    weights, gradient = arrays_in(pulled(normal(1, *SHAPE), jnp.asarray(WHERE)))
    assert not np.any(weights[~WHERE])
    assert not np.any(gradient[~WHERE])
    assert np.all(weights[WHERE] > 0)
    assert np.any(gradient[WHERE])


def test_a_row_with_no_key_has_weights_and_gradient_zero():
    nothing = jnp.asarray(np.zeros(KEYS, bool))
    for leaf in arrays_in(pulled(normal(1, KEYS, scale=30.0), nothing)):
        assert not np.any(leaf)  # which NaN would be


def test_a_row_with_no_key_makes_no_nan_on_the_way():
    with jax.debug_nans(True):
        assert not np.any(softmax(normal(1, KEYS), where=jnp.asarray(np.zeros(KEYS, bool))))


def test_masked_keys_might_as_well_be_absent():
    scores, kept = np.asarray(normal(1, KEYS, scale=3.0)), np.array([0, 2, 5])
    weights, _ = pulled(jnp.asarray(scores), jnp.asarray(np.isin(range(KEYS), kept)))
    assert_close(np.asarray(weights)[kept], softmax(jnp.asarray(scores[kept])), tolerance=1e-6)


@pytest.mark.parametrize("anything", [jnp.inf, -jnp.inf, jnp.nan, 3e38])
def test_the_score_of_a_masked_key_may_be_anything(anything):
    scores, where = np.asarray(normal(1, KEYS)), jnp.asarray(np.arange(KEYS) != 3)
    changed = np.where(where, scores, np.float32(anything))
    actual, expected = (pulled(jnp.asarray(s), where) for s in (changed, scores))
    assert_close(actual, expected, tolerance=0)


@pytest.mark.parametrize("shift", [-3e4, 3e4])
def test_great_scores_do_not_overflow(shift):
    scores, where = np.arange(KEYS, dtype=np.float32), jnp.asarray(np.arange(KEYS) > 1)
    moved = jnp.asarray(scores + np.float32(shift))
    assert_close(pulled(moved, where), pulled(jnp.asarray(scores), where))


def test_a_mask_broadcasts_against_the_scores():
    scores, where = normal(1, *SHAPE), jnp.asarray(WHERE[:, :1, :1])
    full = jnp.asarray(np.broadcast_to(where, SHAPE))
    assert_close(pulled(scores, where), pulled(scores, full), tolerance=0)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_stays_and_stays_finite(dtype):
    scores, where = normal(1, *SHAPE).astype(dtype), jnp.asarray(WHERE)
    weights, gradient = pulled(scores, where)
    assert weights.dtype == dtype
    expected, _ = pulled(scores.astype(jnp.float32), where)
    assert_close(weights, expected, tolerance=1e-2)
    assert np.all(np.isfinite(np.asarray(gradient, np.float32)))
