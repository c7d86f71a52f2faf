import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import (
    BATCH,
    HEADS,
    KEYS,
    VALUE_DIM,
    assert_close,
    jit,
    loop_scores,
    make_form,
    make_mask,
    normal,
)

from attention import Additive, attend
from attention.algorithms import additive

pytestmark = pytest.mark.usefixtures("strict")

FORWARD, GRADIENT = 1e-5, 1e-4  # of the greatest entry, or of one
# Batch, queries, keys, hidden: a batch larger than both becomes the last axis.
BATCH_LAST = (71, 5, 37, 17)
# Fewer than 32 rows and more, one turn of hidden units and more, odd numbers of either.
SIZES = [
    (1, 1, 1, 1),
    (2, 5, 37, 2),
    (2, 67, 5, 17),
    (3, 37, 67, 37),
    (73, 67, 3, 37),
    BATCH_LAST,
]


def make_arrays(batch, queries, keys, hidden):
    return (
        normal(1, batch, queries, hidden),
        normal(2, batch, keys, hidden),
        normal(3, batch, hidden),
    )


def scores(queries, keys, readout, activation=jnp.tanh):
    return additive.scores(Additive(queries, keys, readout, activation))


def plain_scores(queries, keys, readout, activation=jnp.tanh):
    form = Additive(queries, keys, readout, activation)
    return jax.vmap(lambda form: form.scores())(form)


def gradient_of(scores):
    """The scores, and the gradient of a functional of them."""

    def pulled(arrays, cotangent):
        result, pullback = jax.vjp(scores, *arrays)
        return result, pullback(cotangent.astype(result.dtype))

    return pulled


def hessian_product_of(scores):
    def product(arrays, tangents, cotangent):
        loss = lambda *arrays: jnp.sum(cotangent * scores(*arrays))  # noqa: E731
        return jax.jvp(jax.grad(loss, argnums=(0, 1, 2)), arrays, tangents)[1]

    return product


pulled = jit(gradient_of(scores))
jvp = jit(functools.partial(jax.jvp, scores))
hessian_product = jit(hessian_product_of(scores))


def functional(arrays):
    queries, keys, _ = arrays
    return normal(4, *queries.shape[:2], keys.shape[1])


def tangents(arrays):
    return tuple(normal([5, i], *array.shape) for i, array in enumerate(arrays))


def in_float64(function, *args):
    with jax.enable_x64(True):
        return function(*jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), args))


def pulled_by_numpy(arrays, cotangent):
    """The equation and its derivatives in float64."""
    queries, keys, readout, c = (np.asarray(array, np.float64) for array in (*arrays, cotangent))
    units = np.tanh(queries[:, :, None] + keys[:, None])
    slopes = c[..., None] * readout[:, None, None] * (1 - units**2)
    gradient = slopes.sum(axis=2), slopes.sum(axis=1), np.einsum("bij,bijh->bh", c, units)
    return np.einsum("bijh,bh->bij", units, readout), gradient


def assert_scores_and_gradient(actual, expected):
    assert_close(actual[0], expected[0], FORWARD)
    assert_close(actual[1], expected[1], GRADIENT)


# Sizes


def test_two_scores_by_hand():
    half = 0.5493061443340548  # tanh of it is 1/2
    queries, keys = jnp.asarray([[[half, 0.0]]]), jnp.asarray([[[0.0, half], [-half, -half]]])
    actual = jit(scores)(queries, keys, jnp.asarray([[6.0, 4.0]]))
    assert_close(actual, np.array([[[5.0, -2.0]]]))


def test_scores_are_the_equation_in_loops():
    form = make_form(Additive, (BATCH,))
    expected = np.stack([loop_scores(form, (i,)) for i in range(BATCH)])
    assert_close(jit(additive.scores)(form), expected, FORWARD)


@pytest.mark.parametrize("sizes", SIZES)
def test_scores_and_gradient_are_those_in_float64(sizes):
    arrays = make_arrays(*sizes)
    cotangent = functional(arrays)
    assert_scores_and_gradient(pulled(arrays, cotangent), pulled_by_numpy(arrays, cotangent))


# Magnitudes

SHAPE = (2, 37, 41, 17)


def _uniform(seed, axis, reach):
    batch, *_, hidden = SHAPE
    uniform = np.random.default_rng(seed).uniform(-reach, reach, (batch, SHAPE[axis], hidden))
    return uniform.astype(np.float32)


def magnitudes():
    """By name: which of `_TANH` must be chosen (None: whichever is exact), queries and keys."""
    q, k = functools.partial(_uniform, 1, 1), functools.partial(_uniform, 2, 2)
    (batch, queries, keys, hidden), one = SHAPE, np.float32(1)
    centers = np.random.default_rng(3).normal(0, 1e3, (batch, 1, hidden)).astype(np.float32)

    def across(reach):
        """One unit that spans this much, in keys the other way."""
        x, y = q(1), k(1)
        x[1, :, 3] = np.linspace(-reach, reach, queries)
        y[1, :, 3] = np.linspace(reach, -reach, keys)
        return x, y

    def exactly(spread):
        x = np.trunc(q(spread / 2))
        x[:, 0], x[:, 1] = -spread / 2, spread / 2
        return x, np.rint(k(spread / 2))

    return {
        "ordinary": (0, q(2), k(2)),
        "as wide as the first allows": (0, q(5), k(8)),
        "as wide as the second allows": (1, q(16), k(20)),
        "just within the first limit": (0, *exactly(9.75)),
        "at the first limit": (None, *exactly(10)),
        "at the second limit": (None, *exactly(32)),
        "no float in the middle": (None, 3e7 + 2 * np.floor(q(3)), 2 * np.rint(k(2)) - 3e7),
        "wide": (2, q(60), k(60)),
        "1e4": (2, q(1e4), k(1e4)),
        "1e30": (2, q(1e30), k(1e30)),
        "the greatest": (2, q(3e38), k(3e38)),
        "far apart": (0, 1e4 + q(3), -1e4 + k(3)),
        "far apart, wider": (1, 1e4 + q(15), -1e4 + k(15)),
        "far apart, widest": (2, 1e4 + q(60), -1e4 + k(60)),
        "cancelling at 1e30": (0, 0 * q(1) + 1e30 * one, 0 * k(1) - 1e30 * one),
        "one unit across 9": (0, *across(4.5)),
        "one unit across 30": (1, *across(15)),
        "one unit across 120": (2, *across(60)),
        "saturated": (0, 20 + q(3), 20 + k(3)),
        "saturated below": (0, -20 + q(15), -40 + k(15)),
        "keys beyond their limit": (0, q(5), k(30)),
        "keys beyond their limit, wider": (1, q(16), k(60)),
        "keys of 1e30": (0, q(5), k(1e30)),
        "units with centers of their own": (0, centers + q(4), k(4) - centers),
        "units with centers of their own, wider": (1, centers + q(15), k(15) - centers),
    }


MAGNITUDES = magnitudes()
every_magnitude = pytest.mark.parametrize("name", MAGNITUDES)


def make_magnitude(name):
    _, queries, keys = MAGNITUDES[name]
    return jnp.asarray(queries), jnp.asarray(keys), normal(3, SHAPE[0], SHAPE[-1])


@functools.cache
def expected_of_magnitude(name):
    arrays = make_magnitude(name)
    return pulled_by_numpy(arrays, functional(arrays))


plain_jvp = jit(functools.partial(jax.jvp, plain_scores))
plain_hessian_product = jit(hessian_product_of(plain_scores))


@every_magnitude
def test_the_first_regime_that_is_exact_is_chosen(name):
    regime, *arrays = MAGNITUDES[name]
    chosen = additive._origin(*map(jnp.asarray, arrays))[1]
    assert regime is None or int(chosen) == regime


@pytest.mark.parametrize("reach", [4.5, 15.0])
def test_float64_is_exact_to_its_own_digits(reach):
    queries, keys = np.linspace(-reach, reach, 14), np.linspace(-20, 20, 23)
    arrays = queries.reshape(1, 7, 2), np.stack([keys, -keys], axis=-1)[None], np.full((1, 2), 1e3)
    actual = in_float64(pulled, arrays, functional(arrays))
    expected = pulled_by_numpy(arrays, functional(arrays))
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == np.float64
        assert_close(ours, theirs, 1e-14)


@pytest.mark.parametrize("magnitude", [0.0, 1e-30, 1e37])
def test_readout_of_any_magnitude(magnitude):
    queries, keys, readout = make_magnitude("keys beyond their limit")  # up to 30
    expected = magnitude * np.float64(in_float64(plain_scores, queries, keys, readout))
    actual = scores(queries, keys, np.float32(magnitude) * readout)
    assert_close(actual / (magnitude or 1.0), expected / (magnitude or 1.0), FORWARD)


@every_magnitude
def test_scores_and_gradient_of_any_magnitude(name):
    arrays = make_magnitude(name)
    assert_scores_and_gradient(pulled(arrays, functional(arrays)), expected_of_magnitude(name))


@every_magnitude
def test_jvp_of_any_magnitude(name):
    arrays = make_magnitude(name)
    expected = in_float64(plain_jvp, arrays, tangents(arrays))
    actual = jvp(arrays, tangents(arrays))
    assert_close(actual, expected, GRADIENT)


@every_magnitude
def test_hessian_product_of_any_magnitude(name):
    arrays = make_magnitude(name)
    args = arrays, tangents(arrays), functional(arrays)
    assert_close(hessian_product(*args), in_float64(plain_hessian_product, *args), GRADIENT)


def gradient_over_magnitudes(arrays, cotangent):
    return jax.vmap(gradient_of(jax.checkpoint(scores)), in_axes=(0, None))(arrays, cotangent)


def gradient_through_magnitudes(arrays, cotangent):
    cotangents = jnp.broadcast_to(cotangent, (len(MAGNITUDES), *cotangent.shape))
    return gradient_of(jax.checkpoint(jax.vmap(scores)))(arrays, cotangents)


@pytest.mark.parametrize("gradient", [gradient_over_magnitudes, gradient_through_magnitudes])
def test_all_magnitudes_at_once_under_vmap_and_checkpoint(gradient):
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(make_magnitude, MAGNITUDES))
    expected = jax.tree.map(
        lambda *leaves: np.stack(leaves), *map(expected_of_magnitude, MAGNITUDES)
    )
    cotangent = functional(make_magnitude("wide"))
    assert_scores_and_gradient(jit(gradient)(stacked, cotangent), expected)


@pytest.mark.parametrize("name", ["ordinary", "as wide as the second allows", "wide"])
def test_nan_is_not_hidden(name):
    queries, keys, readout = map(np.array, make_magnitude(name))
    queries[1, 5, 3] = keys[0, 7, 2] = np.nan
    nan = np.zeros((SHAPE[0], SHAPE[1], SHAPE[2]), bool)
    nan[1, 5, :] = nan[0, :, 7] = True
    arrays = jnp.asarray(queries), jnp.asarray(keys), jnp.asarray(readout)
    actual, _ = pulled(arrays, functional(arrays))
    np.testing.assert_array_equal(np.isnan(actual), nan)


# Activations


@pytest.mark.parametrize(
    ("activation", "sizes"),
    [
        *((f, (2, 37, 5, 17)) for f in (jax.nn.leaky_relu, jax.nn.silu, jax.nn.gelu, jnp.sin)),
        (jax.nn.relu, (41, 5, 3, 17)),
        (jax.nn.leaky_relu, (41, 5, 3, 17)),
    ],
)
def test_any_activation_in_value_and_gradient(activation, sizes):
    arrays = make_arrays(*sizes)
    args = arrays, functional(arrays)
    actual = jit(gradient_of(functools.partial(scores, activation=activation)))(*args)
    plain = jit(gradient_of(functools.partial(plain_scores, activation=activation)))
    assert_scores_and_gradient(actual, in_float64(plain, *args))


# Precision


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_that_of_the_inputs_and_gradients_alone(dtype):
    arrays = tuple(array.astype(dtype) for array in make_arrays(2, 37, 5, 17))
    cotangent = functional(arrays)
    actual, gradient = pulled(arrays, cotangent)
    expected, gradient_expected = pulled_by_numpy(arrays, cotangent)
    assert actual.dtype == jnp.float32
    assert {leaf.dtype for leaf in gradient} == {jnp.dtype(dtype)}
    assert_close(actual, expected, FORWARD)
    assert_close(gradient, gradient_expected, float(jnp.finfo(dtype).eps))


# Derivatives


@pytest.mark.parametrize("sizes", [SHAPE, BATCH_LAST])
def test_jvp_is_the_transpose_of_vjp(sizes):
    arrays = make_arrays(*sizes)
    cotangent, directions = functional(arrays), tangents(arrays)
    _, tangent = jvp(arrays, directions)
    _, cotangents = pulled(arrays, cotangent)
    by_vjp = sum(np.sum(a * b) for a, b in zip(cotangents, directions, strict=True))
    assert_close(np.sum(cotangent * tangent), by_vjp, GRADIENT)


def test_derivatives_with_the_batch_last():
    arrays = make_arrays(*BATCH_LAST)
    args = arrays, tangents(arrays), functional(arrays)
    assert_close(jvp(*args[:2]), in_float64(plain_jvp, *args[:2]), GRADIENT)
    assert_close(hessian_product(*args), in_float64(plain_hessian_product, *args), GRADIENT)


def test_no_array_of_queries_keys_and_hidden_exists():
    queries, keys, hidden = 257, 263, 67
    arrays = make_arrays(1, queries, keys, hidden)
    program = jax.jit(gradient_of(scores)).lower(arrays, functional(arrays)).compile()
    floats = program.memory_analysis().temp_size_in_bytes / 4
    assert floats < queries * keys * hidden / 8


# Attention


def problem(mask, lead):
    values = normal(6, *lead, KEYS, VALUE_DIM)
    return make_form(Additive, lead), values, *make_mask(mask, lead)


@functools.partial(jit, static_argnames=("normalizer", "implementation"))
def attended(form, values, mask, normalizer, implementation):
    def context(form, values):
        options = {"mask": mask, "normalizer": normalizer, "implementation": implementation}
        return attend(form, values, **options)

    result, pullback = jax.vjp(context, form, values)
    return result, pullback(normal(7, *result.shape))


@pytest.mark.parametrize(
    ("mask", "normalizer", "lead"),
    [
        ("dense & batch lengths & causal", "softmax", (BATCH, HEADS)),
        ("dense", "sigmoid", (BATCH,)),
        ("dense", "sparsemax", (BATCH, HEADS)),
        ("none", "entmax15", ()),
    ],
)
def test_attention_is_dense_in_value_and_gradient(mask, normalizer, lead):
    form, values, mask, _ = problem(mask, lead)
    actual, expected = (
        attended(form, values, mask, normalizer, name) for name in ("additive", "dense")
    )
    assert_scores_and_gradient(actual, expected)


def test_a_query_with_no_key_has_context_and_gradient_zero():
    form, values, mask, allowed = problem("dense & batch lengths & causal", (BATCH, HEADS))
    context, (gradient, _) = attended(form, values, mask, "softmax", "additive")
    some = allowed.any(axis=-1)
    assert not some.all()
    np.testing.assert_array_equal(np.any(context, axis=-1), some)
    assert not np.any(gradient.queries[~some])
    assert np.all(np.isfinite(gradient.queries))


def test_a_score_with_extreme_units_still_attends():
    form, values, mask, _ = problem("dense & batch lengths & causal", (BATCH, HEADS))
    form = Additive(form.queries * 1e30, form.keys - 1e4, form.readout)
    actual, expected = (
        attended(form, values, mask, "softmax", name) for name in ("additive", "dense")
    )
    assert_scores_and_gradient(actual, expected)


SIZES_OF_HIDDEN_VALUES = {
    "tiny, under a huge readout": (1e-6, 1e-6, 1.25e5),
    "small": (1e-4, 1e-4, 1.0),
    "queries of zero": (0.0, 1e-6, 1e5),
    "ordinary": (1.0, 1.0, 1.0),
    "wide": (60.0, 60.0, 1.0),
}


@pytest.mark.parametrize("name", SIZES_OF_HIDDEN_VALUES)
def test_errors_are_those_of_the_plain_form_whatever_the_size_of_hidden_values(name):
    of_queries, of_keys, of_readout = SIZES_OF_HIDDEN_VALUES[name]
    form = Additive(
        normal(1, 1, 101, 64, scale=of_queries),
        normal(2, 1, 103, 64, scale=of_keys),
        normal(3, 1, 64, scale=of_readout),
    )
    cotangent = normal(4, 101, 103)
    queries, keys, readout = (np.asarray(leaf, np.float64)[0] for leaf in jax.tree.leaves(form))
    hidden = np.tanh(queries[:, None, :] + keys[None, :, :])
    slope = np.asarray(cotangent, np.float64)[..., None] * (1 - hidden**2) * readout
    exact = {
        "scores": hidden @ readout,
        "queries": slope.sum(1),
        "keys": slope.sum(0),
        "readout": np.einsum("nm,nmh->h", np.asarray(cotangent, np.float64), hidden),
    }

    def errors(scores):
        out, pullback = jax.vjp(lambda form: scores(form)[0], form)
        (gradient,) = pullback(cotangent)
        found = {"scores": out} | {name: getattr(gradient, name)[0] for name in list(exact)[1:]}
        return {
            name: np.max(np.abs(np.asarray(array, np.float64) - exact[name]))
            for name, array in found.items()
        }

    plain, swept = errors(jax.vmap(lambda form: form.scores())), errors(additive.scores)
    for part, error in swept.items():
        floor = 1e-7 * np.max(np.abs(exact[part]))  # a rounding of the greatest entry
        assert error <= 10 * max(plain[part], floor), part
