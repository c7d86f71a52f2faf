"""The contract that all normalizers keep, and their equations in float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from normalizer_equations import EQUATIONS, row_by_row
from oracles import BATCH, HEADS, KEYS, QUERIES, arrays_in, assert_close, jit, normal, refused

from attention.normalizers import NORMALIZERS, ScaledEntmax, SoftmaxWithSink

pytestmark = pytest.mark.usefixtures("strict")

SHAPE = (BATCH, HEADS, QUERIES, KEYS)
WHERE = np.random.default_rng(0).random(SHAPE) < 0.5
WHERE[:, :, 1] = False  # a query with no key
WHERE[:, :, 2] = True
LOWEST = float(np.finfo(np.float32).min)

SPARSE = ["sparsemax", "entmax15"]
DENSE = ["softmax", "sigmoid", "softmax_one", "softmax_sink"]
every = pytest.mark.parametrize("name", [*DENSE, *SPARSE, "asentmax"])
sparse = pytest.mark.parametrize("name", SPARSE)
dense = pytest.mark.parametrize("name", DENSE)
summing_to_one = pytest.mark.parametrize("name", ["softmax", *SPARSE, "asentmax"])


def parameters(name, lead):
    """Those of a normalizer that has read queries, for scores of the axes `(*lead, keys)`."""
    if name == "softmax_sink":
        return [normal(11, *lead[1:-1])]
    if name == "asentmax":
        return [jnp.abs(normal(12, *lead)), normal(13, *lead)]
    return []


def make(name, given):
    """The normalizer of a name, of the given parameters if it has any."""
    classes = {"softmax_sink": SoftmaxWithSink, "asentmax": ScaledEntmax}
    return classes[name](*given) if name in classes else NORMALIZERS[name]


def call(name, scores, where=None):
    return make(name, parameters(name, scores.shape[:-1]))(scores, where=where)


@functools.partial(jit, static_argnums=0)
def weigh(name, scores, where=None):
    return call(name, scores, where)


@functools.partial(jit, static_argnums=0)
def pulled(name, scores, where=None):
    """The weights, and the gradient of a random functional of them."""
    weights, pullback = jax.vjp(lambda s: call(name, s, where), scores)
    return weights, pullback(functional(*weights.shape).astype(scores.dtype))[0]


def functional(*shape):
    return normal(7, *shape)


def expected_weights(name, scores, where):
    """The equation, row by row in float64, of the allowed keys alone."""
    given = [np.asarray(value, np.float64) for value in parameters(name, scores.shape[:-1])]
    if name == "softmax_sink" and given[0].ndim:
        given = [given[0][:, None]]
    return row_by_row(EQUATIONS[name], scores, where, *given)


def expected_gradient(name, scores, where, step=1e-6):
    """Central differences of the functional, one key of every row at a time."""
    factors = np.asarray(functional(*SHAPE), np.float64)

    def values(scores):
        return np.sum(expected_weights(name, scores, where) * factors, -1)

    steps = step * np.eye(KEYS)
    differences = [values(scores + along) - values(scores - along) for along in steps]
    return np.stack(differences, -1) / (2 * step)


@every
def test_weights_are_the_equation(name):
    scores = normal(1, *SHAPE)
    expected = expected_weights(name, np.asarray(scores, np.float64), np.ones(SHAPE, bool))
    assert_close(weigh(name, scores), expected, tolerance=1e-6)


@every
def test_weights_and_gradient_under_a_mask_are_the_equations(name):
    scores = normal(1, *SHAPE)
    weights, gradient = pulled(name, scores, jnp.asarray(WHERE))
    exact = np.asarray(scores, np.float64)
    assert_close(weights, expected_weights(name, exact, WHERE), tolerance=1e-6)
    assert_close(gradient, expected_gradient(name, exact, WHERE), tolerance=3e-6)


@pytest.mark.parametrize(
    ("name", "scores", "expected"),
    [
        ("softmax", [0.0, math.log(3)], [1 / 4, 3 / 4]),
        ("sigmoid", [0.0, math.log(3), math.log(9)], [1 / 4, 1 / 2, 3 / 4]),
        ("sparsemax", [0.5, 0.2, -1.0], [0.65, 0.35, 0.0]),
        ("entmax15", [1.1, 0.7, -2.0], [0.8**2, 0.6**2, 0.0]),
        ("softmax_one", [0.0, math.log(2)], [1 / 4, 1 / 2]),
    ],
)
def test_weights_are_those_found_by_hand(name, scores, expected):
    assert_close(weigh(name, jnp.asarray(scores, jnp.float32)), np.array(expected), tolerance=1e-6)


@sparse
def test_jacobian_is_the_published_one(name):
    scores = normal(1, KEYS)
    p = np.asarray(weigh(name, scores), np.float64)
    g = np.sqrt(p) if name == "entmax15" else (p > 0).astype(float)
    jacobian = jit(jax.jacrev(NORMALIZERS[name]))(scores)
    assert_close(jacobian, np.diag(g) - np.outer(g, g) / np.sum(g), tolerance=1e-6)


@every
def test_forward_and_reverse_mode_agree(name):
    def both(scores, where):
        def function(scores):
            return call(name, scores, where)

        return jax.jacfwd(function)(scores), jax.jacrev(function)(scores)

    forward, reverse = jit(both)(normal(1, KEYS), jnp.asarray(np.arange(KEYS) != 3))
    assert np.any(forward)
    assert_close(forward, reverse, tolerance=1e-6)


@every
def test_hessian_vector_product_is_a_difference_of_gradients(name):
    where = jnp.asarray(WHERE)

    def gradient(scores):
        return jax.grad(lambda s: jnp.sum(call(name, s, where) ** 3))(scores)

    with jax.enable_x64(True):
        scores, along = (normal(seed, *SHAPE).astype(jnp.float64) for seed in (1, 2))
        derivatives = jit(lambda scores: jax.jvp(gradient, (scores,), (along,)))
        _, product = derivatives(scores)
        after, before = (derivatives(scores + step * along)[0] for step in (1e-6, -1e-6))
        assert np.any(product)
        assert_close(product, (after - before) / 2e-6, tolerance=1e-8)


@dense
def test_weights_are_positive(name):
    assert np.all(np.asarray(weigh(name, normal(1, *SHAPE, scale=3.0))) > 0)


@sparse
def test_many_weights_are_zero(name):
    weights = np.asarray(weigh(name, normal(1, *SHAPE, scale=3.0)))
    assert np.all(weights >= 0)
    assert 0.4 < np.mean(weights == 0) < 0.9
    assert np.any(np.sum(weights > 0, -1) > 1)


@summing_to_one
def test_rows_with_a_key_sum_to_one_and_others_to_zero(name):
    weights, _ = pulled(name, normal(1, *SHAPE, scale=3.0), jnp.asarray(WHERE))
    assert_close(np.sum(weights, -1), np.any(WHERE, -1).astype(float), tolerance=1e-6)


@summing_to_one
def test_gradients_sum_to_zero(name):
    _, gradient = pulled(name, normal(1, *SHAPE), jnp.asarray(WHERE))
    assert_close(np.sum(gradient, -1), np.zeros(SHAPE[:-1]), tolerance=1e-6)


@every
def test_a_masked_key_has_weight_and_gradient_zero(name):
    weights, gradient = arrays_in(pulled(name, normal(1, *SHAPE), jnp.asarray(WHERE)))
    assert not np.any(weights[~WHERE])
    assert not np.any(gradient[~WHERE])
    assert np.any(gradient[WHERE])


@every
def test_a_row_with_no_key_has_weights_and_gradient_zero(name):
    nothing = jnp.asarray(np.zeros(KEYS, bool))
    for leaf in arrays_in(pulled(name, normal(1, KEYS, scale=30.0), nothing)):
        assert not np.any(leaf)  # which NaN would be


@every
def test_a_row_with_no_key_makes_no_nan_on_the_way(name):
    nothing = jnp.asarray(np.zeros(KEYS, bool))
    with jax.debug_nans(True):
        assert not np.any(jax.grad(lambda s: jnp.max(call(name, s, nothing)))(normal(1, KEYS)))


@every
def test_no_keys_at_all_have_no_weights(name):
    assert weigh(name, jnp.zeros((QUERIES, 0))).shape == (QUERIES, 0)


@every
def test_a_row_with_no_key_has_every_derivative_zero(name):
    nothing = jnp.asarray(np.zeros(KEYS, bool))

    @jit
    def derivatives(scores, where):
        """The Jacobian and the Hessian, and the weights and the gradient beside them."""

        def both(scores):
            weights, pullback = jax.vjp(lambda s: call(name, s, where), scores)
            return (weights, pullback(functional(KEYS))), (weights, pullback(functional(KEYS)))

        return jax.jacfwd(both, has_aux=True)(scores)

    for where, scores in ((nothing, normal(1, KEYS)), (None, jnp.full(KEYS, -jnp.inf))):
        for leaf in arrays_in(derivatives(scores, where)):
            np.testing.assert_array_equal(leaf, 0.0)


@every
@pytest.mark.parametrize("masked", [False, True])
def test_a_score_of_minus_infinity_is_that_of_a_masked_key(name, masked):
    where = WHERE if masked else np.ones(SHAPE, bool)
    absent = np.random.default_rng(4).random(SHAPE) < 0.4
    absent[:, :, 3] = True
    scores = np.where(absent, -np.inf, normal(1, *SHAPE)).astype(np.float32)
    actual = pulled(name, jnp.asarray(scores), jnp.asarray(where) if masked else None)
    expected = pulled(name, normal(1, *SHAPE), jnp.asarray(where & ~absent))
    assert_close(actual, expected, tolerance=1e-6)
    assert not np.any(np.asarray(actual[0])[absent])
    assert not np.any(np.asarray(actual[1])[absent])


@every
@pytest.mark.parametrize("low", [LOWEST, -1e30])
@pytest.mark.parametrize("masked", [5.0, LOWEST, -np.inf, np.nan])
def test_the_lowest_allowed_score_beats_a_masked_one(name, low, masked):
    for allowed in ([1], [0, 2], [0, 2, 3]):
        scores, where = np.full(KEYS, masked, np.float32), np.isin(range(KEYS), allowed)
        scores[allowed] = low
        weights, gradient = pulled(name, jnp.asarray(scores), jnp.asarray(where))
        assert_close(weights, expected_weights(name, scores.astype(np.float64), where), 1e-6)
        assert np.all(np.isfinite(gradient))
        assert not np.any(np.asarray(gradient)[~where])


@every
def test_a_score_that_is_no_number_is_seen(name):
    scores = np.asarray(normal(1, KEYS)).copy()
    scores[2] = np.nan
    assert np.isnan(weigh(name, jnp.asarray(scores))).any()
    for first, seen in ((1, True), (2, False)):
        weights, _ = pulled(name, jnp.asarray(scores), jnp.asarray(np.arange(KEYS) > first))
        assert np.isnan(weights).any() == seen


@every
def test_masked_keys_might_as_well_be_absent(name):
    scores, kept = np.asarray(normal(1, KEYS)), np.array([0, 2, 5])
    weights, _ = pulled(name, jnp.asarray(scores), jnp.asarray(np.isin(range(KEYS), kept)))
    expected = weigh(name, jnp.asarray(scores[kept]))
    assert_close(np.asarray(weights)[kept], expected, tolerance=1e-6)


@every
@pytest.mark.parametrize("anything", [jnp.inf, -jnp.inf, jnp.nan, 3e38])
def test_the_score_of_a_masked_key_may_be_anything(name, anything):
    scores, where = np.asarray(normal(1, KEYS)), jnp.asarray(np.arange(KEYS) != 3)
    changed = np.where(where, scores, np.float32(anything))
    actual, expected = (pulled(name, jnp.asarray(s), where) for s in (changed, scores))
    assert_close(actual, expected, tolerance=0)


@summing_to_one
@pytest.mark.parametrize("shift", [-3e4, 3e4])
def test_a_shift_of_all_scores_changes_nothing(name, shift):
    # Quarters, which survive the shift unrounded.
    scores, where = np.arange(KEYS, dtype=np.float32) / 4, jnp.asarray(np.arange(KEYS) > 1)
    moved = jnp.asarray(scores + np.float32(shift))
    assert_close(pulled(name, moved, where), pulled(name, jnp.asarray(scores), where))


@every
@pytest.mark.parametrize("scale", [3e4, 1e37])
def test_great_scores_do_not_overflow(name, scale):
    scores = normal(1, KEYS, scale=scale)
    weights, gradient = arrays_in(pulled(name, scores, jnp.asarray(np.arange(KEYS) > 1)))
    best = np.arange(KEYS) == 2 + np.argmax(scores[2:])
    chosen = np.asarray(scores > 0) & (np.arange(KEYS) > 1) if name == "sigmoid" else best
    assert_close(weights, chosen.astype(float), tolerance=0)
    assert not np.any(gradient)


@pytest.mark.parametrize(("name", "lead"), [("sparsemax", 0.0), ("entmax15", 1.8)])
def test_weights_of_many_keys_are_precise(name, lead):
    scores = np.append(normal(1, 1000, scale=1e-3), np.float32(lead))
    expected = EQUATIONS[name](scores.astype(np.float64))
    assert np.sum(expected > 0) > 500
    assert_close(weigh(name, jnp.asarray(scores)), expected, tolerance=1e-7)


@every
def test_permuted_scores_have_permuted_weights(name):
    order = np.random.default_rng(3).permutation(KEYS)
    scores, where = np.asarray(normal(1, *SHAPE)), WHERE
    permuted, _ = pulled(name, jnp.asarray(scores[..., order]), jnp.asarray(where[..., order]))
    weights, _ = pulled(name, jnp.asarray(scores), jnp.asarray(where))
    assert_close(permuted, np.asarray(weights)[..., order], tolerance=1e-6)


# `over_allowed` broadcasts it for all of them.
@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("softmax", np.s_[:, :1, :1]),
        ("sigmoid", np.s_[..., :1]),
        ("softmax_one", np.s_[0, 0, 0]),
        ("softmax_sink", np.s_[:, :1, :1]),
        ("sparsemax", np.s_[..., :1]),
        ("entmax15", np.s_[0, 0, 0]),
        ("asentmax", np.s_[:, :1, :1]),
        ("asentmax", np.s_[..., :1]),
    ],
)
def test_a_mask_broadcasts_against_the_scores(name, axes):
    scores, where = normal(1, *SHAPE), jnp.asarray(WHERE[axes])
    full = jnp.asarray(np.broadcast_to(where, SHAPE))
    assert_close(pulled(name, scores, where), pulled(name, scores, full), tolerance=1e-6)


@every
def test_vmap_is_a_leading_axis(name):
    scores, where = normal(1, *SHAPE), jnp.asarray(WHERE)
    axes = [None if name == "softmax_sink" else 0, 0, 0]
    mapped = jit(jax.vmap(lambda given, *row: make(name, given)(*row), axes))(
        parameters(name, SHAPE[:-1]), scores, where
    )
    assert_close(mapped, pulled(name, scores, where)[0], tolerance=1e-6)


@every
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_rounded_once(name, dtype):
    scores, where = normal(1, *SHAPE).astype(dtype), jnp.asarray(WHERE)
    weights, gradient = pulled(name, scores, where)
    assert weights.dtype == gradient.dtype == dtype
    expected, _ = pulled(name, scores.astype(jnp.float32), where)
    assert_close(weights, expected.astype(dtype), tolerance=0)
    assert np.all(np.isfinite(np.asarray(gradient, np.float32)))


@every
def test_double_precision_stays(name):
    with jax.enable_x64(True):
        scores = normal(1, QUERIES, KEYS).astype(jnp.float64)
        weights = weigh(name, scores)
        assert weights.dtype == jnp.float64
        expected = expected_weights(name, np.asarray(scores), np.ones(scores.shape, bool))
        assert_close(weights, expected, tolerance=1e-14)


@every
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32])
def test_where_double_precision_is_possible_dtypes_are_those_of_the_scores(name, dtype):
    scores, where = normal(1, *SHAPE).astype(dtype), jnp.asarray(WHERE)
    expected = pulled(name, scores, where)
    with jax.enable_x64(True):
        actual = pulled(name, scores, where)
        alone = jax.eval_shape(functools.partial(call, name), scores)
    assert alone.dtype == actual[0].dtype == actual[1].dtype == dtype
    assert_close(actual, expected, tolerance=1e-6)


def test_a_score_that_is_no_number_counts_for_a_sigmoid():
    scores = np.zeros(KEYS, np.float32)
    scores[2], scores[3] = np.nan, -np.inf
    weights = np.asarray(weigh("sigmoid", jnp.asarray(scores)))
    assert_close(weights[4:], np.full(KEYS - 4, 1 / KEYS), tolerance=1e-6)


@every
def test_integer_scores_are_refused(name):
    with refused(r"int32 of shape \(7,\)"):
        call(name, jnp.arange(KEYS))
