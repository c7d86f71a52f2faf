import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import (
    BATCH,
    FEW_HIDDEN,
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


def derivatives_of(scores):
    """The scores and that gradient, and how both move: the JVP, and the Hessian's product."""

    def derived(arrays, tangents, cotangent):
        pulled = gradient_of(scores)
        return jax.jvp(lambda arrays: pulled(arrays, cotangent), (arrays,), (tangents,))

    return derived


# To compile takes longer than all else: tests of the same shapes share these programs.
pulled = jit(gradient_of(scores))
derivatives = jit(derivatives_of(scores))
plain_derivatives = jit(derivatives_of(plain_scores))
scores_alone = jit(scores)
plain_scores_alone = jit(plain_scores)


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


def moved_by_numpy(arrays, tangents, cotangent):
    """How the scores and their gradient move, in float64."""
    queries, keys, readout, dq, dk, dv, c = (
        np.asarray(array, np.float64) for array in (*arrays, *tangents, cotangent)
    )
    units = np.tanh(queries[:, :, None] + keys[:, None])
    slopes, readout, dv = 1 - units**2, readout[:, None, None], dv[:, None, None]
    moved = slopes * (dq[:, :, None] + dk[:, None])  # of the units
    bent = c[..., None] * (dv * slopes - 2 * readout * units * moved)
    gradient = bent.sum(axis=2), bent.sum(axis=1), np.einsum("bij,bijh->bh", c, moved)
    return (dv * units + readout * moved).sum(axis=-1), gradient


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


def test_scores_and_all_derivatives_with_the_batch_last():
    arrays = make_arrays(*BATCH_LAST)
    args = arrays, tangents(arrays), functional(arrays)
    (actual, gradient), moved = derivatives(*args)
    assert_scores_and_gradient((actual, gradient), pulled_by_numpy(arrays, args[2]))
    assert_close(moved, moved_by_numpy(*args), GRADIENT)


# Magnitudes

SHAPE = (2, 37, 41, 17)


def _uniform(seed, axis, reach):
    batch, *_, hidden = SHAPE
    uniform = np.random.default_rng(seed).uniform(-reach, reach, (batch, SHAPE[axis], hidden))
    return uniform.astype(np.float32)


def magnitudes():
    """By name: which of `_TANH` must be chosen, queries and keys."""
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
        "at the first limit": (1, *exactly(10)),
        "just within the second limit": (1, *exactly(31.75)),
        "at the second limit": (2, *exactly(32)),
        "no float in the middle": (0, 3e7 + 2 * np.floor(q(3)), 2 * np.rint(k(2)) - 3e7),
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
        "queries beyond their limit": (0, q(30), k(5)),
        "queries beyond their limit, wider": (1, q(60), k(16)),
        "queries of 1e30": (0, q(1e30), k(5)),
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


@functools.cache
def derivatives_of_magnitude(name):
    arrays = make_magnitude(name)
    return derivatives(arrays, tangents(arrays), functional(arrays))


@functools.cache
def moved_of_magnitude(name):
    arrays = make_magnitude(name)
    return moved_by_numpy(arrays, tangents(arrays), functional(arrays))


@every_magnitude
def test_the_first_regime_that_is_exact_is_chosen(name):
    regime, *arrays = MAGNITUDES[name]
    chosen = additive._origin(*map(jnp.asarray, arrays))[1]
    assert int(chosen) == regime


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("name", ["ordinary", "as wide as the second allows", "wide"])
def test_infinite_hidden_values_have_a_tanh(name, side):
    arrays = [np.array(array) for array in make_magnitude(name)]
    arrays[side][1, 5, 3], arrays[side][0, 7, 2] = np.inf, -np.inf
    expected = np.einsum(
        "bijh,bh->bij", np.tanh(arrays[0][:, :, None] + arrays[1][:, None]), arrays[2]
    )
    assert_close(scores_alone(*map(jnp.asarray, arrays)), expected, FORWARD)


@pytest.mark.parametrize("reach", [4.5, 15.0])
def test_float64_is_exact_to_its_own_digits(reach):
    batch, num_queries, num_keys, hidden = SHAPE
    queries = np.linspace(-reach, reach, batch * num_queries * hidden)
    keys = np.linspace(-20, 20, num_keys)[:, None] * (-1.0) ** np.arange(hidden)
    arrays = (
        queries.reshape(batch, num_queries, hidden),
        np.stack([keys] * batch),
        np.full((batch, hidden), 1e3),
    )
    actual = in_float64(pulled, arrays, functional(arrays))
    expected = pulled_by_numpy(arrays, functional(arrays))
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == np.float64
        assert_close(ours, theirs, 1e-14)


@pytest.mark.parametrize("magnitude", [0.0, 1e-30, 1e37])
def test_readout_of_any_magnitude(magnitude):
    queries, keys, readout = make_magnitude("keys beyond their limit")  # up to 30
    units = np.tanh(np.float64(queries)[:, :, None] + np.float64(keys)[:, None])
    expected = magnitude * np.einsum("bijh,bh->bij", units, np.float64(readout))
    actual = scores_alone(queries, keys, np.float32(magnitude) * readout)
    assert_close(actual / (magnitude or 1.0), expected / (magnitude or 1.0), FORWARD)


@every_magnitude
def test_scores_and_gradient_of_any_magnitude(name):
    pulled, _ = derivatives_of_magnitude(name)
    assert_scores_and_gradient(pulled, expected_of_magnitude(name))


@every_magnitude
def test_jvp_of_any_magnitude(name):
    _, (tangent, _) = derivatives_of_magnitude(name)
    assert_close(tangent, moved_of_magnitude(name)[0], GRADIENT)


@every_magnitude
def test_hessian_product_of_any_magnitude(name):
    _, (_, product) = derivatives_of_magnitude(name)
    assert_close(product, moved_of_magnitude(name)[1], GRADIENT)


def test_all_magnitudes_at_once_under_vmap_and_checkpoint():
    """Some mapped inside of the derivative, and these again outside."""
    names = [*MAGNITUDES, "wide"]

    def stacked(*leaves):
        array = np.stack(leaves)
        return array.reshape(5, 6, *array.shape[1:])

    expected = jax.tree.map(stacked, *map(expected_of_magnitude, names))
    arrays = jax.tree.map(stacked, *map(make_magnitude, names))
    cotangent = functional(make_magnitude("wide"))
    cotangents = np.broadcast_to(cotangent, (6, *cotangent.shape))
    gradient = gradient_of(jax.checkpoint(jax.vmap(scores)))
    actual = jit(jax.vmap(gradient, in_axes=(0, None)))(arrays, cotangents)
    assert_scores_and_gradient(actual, expected)


# Errors: at most ten times those of the plain form


def smallnesses():
    """By name: queries, keys and readout, in which small hidden values count."""
    hidden = SHAPE[-1]
    q, k, v = (np.asarray(array) for array in make_arrays(*SHAPE))
    few = np.arange(hidden) % 5 == 0

    def beside(wide):
        """A few small units under a huge readout, among units of which one is wide."""
        x, y = np.where(few, 1e-6 * q, q), np.where(few, 1e-6 * k, k)
        x[..., 3], y[..., 3] = wide * q[..., 3], wide * k[..., 3]
        return x, y, np.where(few, 1e6 * v, v)

    def but_for_one(index, value):
        """Small units, of which one query or key is not, on the side where it stands alone."""
        arrays = 1e-4 * q, 1e-4 * k, v
        arrays[index][:, 3] = value
        return arrays

    saturated = np.where(few, 30.0, 0.0)
    return {
        **{f"{size:g}": (size * q, size * k, v) for size in (1e-30, 1e-12, 1e-6, 1e-4, 1e-2, 0.1)},
        "under a huge readout": (1e-6 * q, 1e-6 * k, 1.25e5 * v),
        "ordinary": (q, k, v),
        "wide": (4 * q, 4 * k, v),
        "wider": (20 * q, 20 * k, v),
        "a few units beside ordinary ones": beside(1),
        "a few units beside a wide one": beside(5),
        "a few units beside a wider one": beside(20),
        "queries of zero": (0 * q, 1e-6 * k, v),
        "keys of zero": (1e-6 * q, 0 * k, v),
        "small queries": (1e-6 * q, k, v),
        "small keys": (q, 1e-6 * k, v),
        "small sums": (3 + 1e-4 * q, -3 + 1e-4 * k, v),
        "small sums of 1e3": (1e3 + 1e-2 * q, 1e-2 * k - 1e3, v),
        "a small sum a row": (3 * k[:, : SHAPE[1]], 1e-4 - 3 * k, v),
        "all saturated": (20 + q, 20 + k, v),
        "all saturated below": (-20 + q, -20 + k, v),
        "a common offset": (q + saturated, k + saturated, np.where(few, 1e4, v)),
        "but for the least query": but_for_one(0, -5.0),
        "but for the greatest query": but_for_one(0, 5.0),
        "but for the least key": but_for_one(1, -5.0),
        "but for the greatest key": but_for_one(1, 5.0),
    }


SMALLNESSES = smallnesses()
every_smallness = pytest.mark.parametrize("name", SMALLNESSES)
pulled_plainly = jit(gradient_of(plain_scores))


def make_smallness(name):
    return tuple(jax.device_put(array.astype(np.float32)) for array in SMALLNESSES[name])


@functools.cache
def derivatives_of_smallness(name):
    """All derivatives, by which arguments, and the same ones of the plain form and in float64."""
    arrays = make_smallness(name)
    directions = tuple(
        np.asarray(array) * tangent for array, tangent in zip(arrays, tangents(arrays), strict=True)
    )
    args = arrays, directions, functional(arrays)
    expected = pulled_by_numpy(arrays, args[2]), moved_by_numpy(*args)
    return derivatives(*args), plain_derivatives(*args), expected


def assert_as_exact(actual, plain, expected):
    """At most ten times the errors of the plain form, or five of its last digit."""
    for a, b, c in zip(*map(jax.tree.leaves, (actual, plain, expected)), strict=True):
        a, b, c = (np.asarray(leaf, np.float64) for leaf in (a, b, c))
        ours, theirs, greatest = (np.max(np.abs(x)) for x in (a - c, b - c, c))
        assert ours <= 10 * max(theirs, np.finfo(np.float32).eps / 2 * greatest)


@every_smallness
def test_scores_and_gradient_are_as_exact_as_the_plain_form(name):
    assert_as_exact(*(pulled for pulled, _ in derivatives_of_smallness(name)))


@every_smallness
def test_jvp_is_as_exact_as_the_plain_form(name):
    assert_as_exact(*(tangent for _, (tangent, _) in derivatives_of_smallness(name)))


@pytest.mark.parametrize("axis", [1, 2])
@every_smallness
def test_every_row_and_column_is_as_exact_as_the_plain_form(name, axis):
    arrays = make_smallness(name)
    queries, keys, readout = (np.asarray(array, np.float64) for array in arrays)
    terms = np.tanh(queries[:, :, None] + keys[:, None]) * readout[:, None, None]
    expected = terms.sum(-1)
    ours, theirs, size = (
        np.max(np.abs(x), axis=axis)
        for x in (
            np.float64(scores_alone(*arrays)) - expected,
            np.float64(plain_scores_alone(*arrays)) - expected,
            np.abs(terms).sum(-1),  # of which a sum of few different terms errs by chance alone
        )
    )
    assert np.all(ours <= 10 * np.maximum(theirs, np.finfo(np.float32).eps / 2 * size))


@pytest.mark.parametrize("sizes", [BATCH_LAST, (1, 4, 37, 17), (2, 37, 1, 17)])
def test_small_hidden_values_with_the_batch_last_and_few_rows(sizes):
    queries, keys, readout = make_arrays(*sizes)
    arrays = 1e-6 * queries, 1e-6 * keys, 1.25e5 * readout
    args = arrays, tangents(arrays), functional(arrays)
    (actual, _), (plain, _) = derivatives(*args), plain_derivatives(*args)
    assert_as_exact(actual, plain, pulled_by_numpy(arrays, args[2]))


@pytest.mark.parametrize("size", [1e-12, 1e-4, 1.0, 8.0])
def test_float64_is_as_exact_as_the_plain_form(size):
    queries, keys, readout = make_arrays(*SHAPE)
    arrays = size * queries, size * keys, readout / size
    cotangent = functional(arrays)
    actual, plain = (in_float64(f, arrays, cotangent) for f in (pulled, pulled_plainly))
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(plain), strict=True):
        assert ours.dtype == np.float64
        assert np.max(np.abs(ours - theirs)) < 1e-14 * np.max(np.abs(theirs))


@pytest.mark.parametrize("of_queries", [4.9, 1e-3])
@pytest.mark.parametrize("of_keys", [4.9, 1e-3])
def test_a_term_errs_by_roundings_of_its_row_and_its_column(of_queries, of_keys):
    """One hidden unit, with hidden values of all sizes up to these."""
    draws = np.random.default_rng(1)

    def hidden_values(n, largest):
        sizes = 10 ** draws.uniform(-9, np.log10(largest), (1, n, 1))
        return jax.device_put((draws.choice([-1, 1], sizes.shape) * sizes).astype(np.float32))

    queries, keys = hidden_values(151, of_queries), hidden_values(157, of_keys)
    expected = np.tanh(np.float64(queries) + np.float64(keys).swapaxes(1, 2))
    greatest = (np.abs(expected).max(axis, keepdims=True) for axis in (1, 2))
    errors = np.abs(np.float64(scores_alone(queries, keys, jnp.ones((1, 1)))) - expected)
    assert np.all(errors < 8 * np.finfo(np.float32).eps * np.minimum(*greatest))


@pytest.mark.parametrize("reach", [4.9, 15.9])
def test_counting_from_an_origin_loses_no_digits(reach):
    """One wide unit: differences rounded to float32 would err three to seven times as much."""
    draws = np.random.default_rng(1)
    queries, keys = (
        jax.device_put(draws.uniform(-reach, reach, (1, n, 1)).astype(np.float32))
        for n in (151, 157)
    )
    expected = np.tanh(np.float64(queries) + np.float64(keys).swapaxes(1, 2))
    ours, plain = (
        np.max(np.abs(np.float64(f(queries, keys, jnp.ones((1, 1)))) - expected))
        for f in (scores_alone, plain_scores_alone)
    )
    assert ours < 1.5 * plain


@pytest.mark.parametrize("name", ["ordinary", "as wide as the second allows", "wide"])
def test_nan_is_not_hidden(name):
    queries, keys, readout = map(np.array, make_magnitude(name))
    queries[1, 5, 3] = keys[0, 7, 2] = np.nan
    nan = np.zeros((SHAPE[0], SHAPE[1], SHAPE[2]), bool)
    nan[1, 5, :] = nan[0, :, 7] = True
    arrays = jnp.asarray(queries), jnp.asarray(keys), jnp.asarray(readout)
    np.testing.assert_array_equal(np.isnan(scores_alone(*arrays)), nan)


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


@pytest.mark.parametrize("sizes", [(2, 7, 5, 3), (2, 7, 3, 5)])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_that_of_the_inputs_and_gradients_alone(dtype, sizes):
    arrays = tuple(array.astype(dtype) for array in make_arrays(*sizes))
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
    (_, cotangents), (tangent, _) = derivatives(arrays, directions, cotangent)
    by_vjp = sum(np.sum(a * b) for a, b in zip(cotangents, directions, strict=True))
    assert_close(np.sum(cotangent * tangent), by_vjp, GRADIENT)


MANY = (1, 257, 263, 67)


@functools.cache
def gradient_of_many():
    """Compiled as users do it: of more pairs than one group of rows, and more hidden units."""
    arrays = make_arrays(*MANY)
    return jax.jit(gradient_of(scores)).lower(arrays, functional(arrays)).compile()


def test_no_array_of_queries_keys_and_hidden_exists():
    floats = gradient_of_many().memory_analysis().temp_size_in_bytes / 4
    _, queries, keys, hidden = MANY
    assert floats < queries * keys * hidden / 8


@pytest.mark.parametrize("size", [1e-6, 1e-4])
def test_issue_16_gradient_of_the_readout(size):
    queries, keys, readout = make_arrays(*MANY)
    arrays = size * queries, size * keys, readout
    args = arrays, functional(arrays)
    assert_as_exact(gradient_of_many()(*args), pulled_plainly(*args), pulled_by_numpy(*args))


# Attention


def problem(mask, lead):
    form = make_form(Additive, lead, hidden=FEW_HIDDEN)
    return form, normal(6, *lead, KEYS, VALUE_DIM), *make_mask(mask, lead)


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


def test_issue_16_small_hidden_values_under_a_huge_readout():
    queries, keys, readout = (np.asarray(array)[0] for array in make_arrays(1, 300, 300, 64))
    form = Additive(*map(jnp.asarray, (1e-6 * queries, 1e-6 * keys, 1.25e5 * readout)))
    values = normal(6, 300, VALUE_DIM)
    scores = (np.float64(form.queries) @ np.float64(form.readout))[:, None] + (
        np.float64(form.keys) @ np.float64(form.readout)
    )
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))  # tanh x is x up to x³
    expected = weights / weights.sum(axis=1, keepdims=True) @ np.float64(values)
    names = "dense", None, "additive", "streaming"
    contexts = jit(lambda *args: [attend(*args, implementation=name) for name in names])
    plain, *errors = (np.abs(c - expected).max() for c in contexts(form, values))
    assert max(errors) < 10 * plain
