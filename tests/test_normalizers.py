import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import BATCH, HEADS, KEYS, QUERIES, assert_close, normal

from attention.normalizers import NORMALIZERS

pytestmark = [
    pytest.mark.usefixtures("strict"),
    pytest.mark.parametrize("normalize", NORMALIZERS.values(), ids=NORMALIZERS),
]

SHAPE = (BATCH, HEADS, QUERIES, KEYS)
WHERE = np.random.default_rng(0).random(SHAPE) < 0.5
WHERE[:, :, 1] = False  # a query with no key
WHERE[:, :, 2] = True


def pulled(normalize, scores, where):
    """The weights, and the gradient of a random functional of them."""
    weights, pullback = jax.vjp(lambda scores: normalize(scores, where=where), scores)
    return weights, pullback(normal(7, *weights.shape))[0]


def test_weights_are_positive_and_sum_to_one(normalize):
    weights = normalize(normal(1, *SHAPE, scale=3.0))
    assert jnp.all(weights > 0)
    assert_close(jnp.sum(weights, -1), np.ones(SHAPE[:-1]), tolerance=1e-6)


def test_rows_with_a_key_sum_to_one_and_others_to_zero(normalize):
    weights = normalize(normal(1, *SHAPE, scale=3.0), where=jnp.asarray(WHERE))
    assert_close(jnp.sum(weights, -1), np.any(WHERE, -1).astype(float), tolerance=1e-6)


def test_a_masked_key_has_weight_and_gradient_zero(normalize):
    weights, gradient = pulled(normalize, normal(1, *SHAPE), jnp.asarray(WHERE))
    assert not np.any(np.asarray(weights)[~WHERE])
    assert not np.any(np.asarray(gradient)[~WHERE])
    assert np.all(np.asarray(weights)[WHERE] > 0)
    assert np.any(np.asarray(gradient)[WHERE])


def test_a_row_with_no_key_has_weights_and_gradient_zero(normalize):
    nothing = jnp.zeros(KEYS, bool)
    weights, gradient = pulled(normalize, normal(1, KEYS, scale=30.0), nothing)
    assert_close((weights, gradient), (np.zeros(KEYS), np.zeros(KEYS)), tolerance=0)


def test_masked_keys_might_as_well_be_absent(normalize):
    scores, kept = normal(1, KEYS, scale=3.0), np.array([0, 2, 5])
    where = jnp.zeros(KEYS, bool).at[kept].set(True)
    assert_close(normalize(scores, where=where)[kept], normalize(scores[kept]), tolerance=1e-6)


@pytest.mark.parametrize("anything", [jnp.inf, -jnp.inf, jnp.nan, 3e38])
def test_the_score_of_a_masked_key_may_be_anything(normalize, anything):
    scores, where = normal(1, KEYS), jnp.arange(KEYS) != 3
    assert_close(
        pulled(normalize, scores.at[3].set(anything), where), pulled(normalize, scores, where)
    )


@pytest.mark.parametrize("shift", [-3e4, 3e4])
def test_great_scores_do_not_overflow(normalize, shift):
    scores = jnp.arange(KEYS, dtype=jnp.float32)
    where = jnp.arange(KEYS) > 1
    assert_close(normalize(scores + shift, where=where), normalize(scores, where=where))


def test_a_mask_broadcasts_against_the_scores(normalize):
    scores, where = normal(1, *SHAPE), jnp.asarray(WHERE[:, :1, :1])
    full = jnp.broadcast_to(where, SHAPE)
    assert_close(normalize(scores, where=where), normalize(scores, where=full), tolerance=0)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_stays_and_stays_finite(normalize, dtype):
    scores, where = normal(1, *SHAPE).astype(dtype), jnp.asarray(WHERE)
    weights, pullback = jax.vjp(lambda scores: normalize(scores, where=where), scores)
    assert weights.dtype == dtype
    assert_close(weights, normalize(scores.astype(jnp.float32), where=where), tolerance=1e-2)
    assert jnp.all(jnp.isfinite(pullback(weights)[0]))


def test_softmax_is_its_equation(normalize):
    if normalize is not NORMALIZERS["softmax"]:
        pytest.skip("softmax alone")
    scores = np.asarray(normal(1, QUERIES, KEYS), np.float64)
    expected = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    assert_close(normalize(normal(1, QUERIES, KEYS)), expected, tolerance=1e-6)
