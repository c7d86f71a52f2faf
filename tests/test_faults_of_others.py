"""What was wrong here or is in other libraries: small inputs, and the right values."""

import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx
from jax import export

from attention import RBF, SCORES, Attention, InnerProduct, KeyOnly, attend, masks

every_way = pytest.mark.parametrize("implementation", ["dense", "streaming", "inner_product"])


@every_way
def test_a_masked_key_does_not_move_the_center_of_the_others(implementation):
    keys = jnp.array([[0.0, 0.0], [1.0, 1.0], [-1e4, -1e4], [-1e4, -1e4]])
    form = RBF(2, 2, rngs=nnx.Rngs(0)).form(jnp.zeros((1, 2)), keys)
    mask = masks.lengths(jnp.asarray(2))
    context = attend(form, jnp.eye(4, 2), mask=mask, implementation=implementation)
    np.testing.assert_allclose(context, [[0.731, 0.269]], atol=5e-4)


@every_way
@pytest.mark.parametrize(
    ("lowest", "first", "moved"),
    [(-1e30, 10, 1), (float(np.finfo(np.float32).min), 10, 1), (-np.inf, 0, 0)],
)
def test_a_bias_however_low_loses_to_no_mask(implementation, lowest, first, moved):
    ones, values = jnp.ones((2, 1)), jnp.array([[10.0], [20.0]])
    bias = jnp.array([[lowest, 0.0], [lowest, 0.0]])

    def contexts(values):
        form = InnerProduct(ones, ones)
        options = {"mask": "causal", "bias": bias, "implementation": implementation}
        return attend(form, values, **options)[:, 0]

    np.testing.assert_array_equal(contexts(values), [first, 20])
    np.testing.assert_array_equal(jax.jacobian(contexts)(values)[0], [[moved], [0]])


def test_an_offset_that_is_traced_leaves_nothing_behind():
    ones, values = jnp.ones((2, 1)), jnp.array([[10.0], [20.0]])

    @jax.jit
    def contexts(offset):
        mask = masks.causal(offset=offset)
        return attend(InnerProduct(ones, ones), values, mask=mask)[:, 0]

    np.testing.assert_array_equal(contexts(0), [10, 15])
    np.testing.assert_array_equal(contexts(-1), [0, 10])
    causal = jax.jit(lambda values: attend(InnerProduct(ones, ones), values, mask="causal"))
    np.testing.assert_array_equal(causal(values)[:, 0], [10, 15])


@every_way
@pytest.mark.parametrize("offset", [1e4, 1e6])
def test_a_large_common_offset_costs_no_digits_of_a_gradient(implementation, offset):
    rng = np.random.default_rng(0)
    queries, keys = (rng.integers(-4, 5, (61, 7)) / 4 for _ in range(2))
    key_bias, values = offset + rng.integers(0, 3, 61), rng.normal(size=(61, 3))
    scores = queries @ keys.T + key_bias
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    totals = values.sum(axis=1)
    expected = np.sum(weights * (totals[None, :] - (weights @ totals)[:, None]), axis=0)
    queries, keys, key_bias, values = (jnp.float32(a) for a in (queries, keys, key_bias, values))

    def total(key_bias):
        form = InnerProduct(queries, keys, None, key_bias)
        return jnp.sum(attend(form, values, implementation=implementation))

    error = np.max(np.abs(jax.grad(total)(key_bias) - expected))
    assert error < 2e-6 * np.max(np.abs(expected))


@every_way
def test_many_keys_of_equal_score_share_a_weight_of_one_in_half_precision(implementation):
    keys = jnp.zeros((900_000, 1), jnp.float16)
    form = InnerProduct(keys[:1], keys)
    assert attend(form, keys + 1, implementation=implementation)[0, 0] == 1


@pytest.mark.parametrize("implementation", ["dense", "streaming"])
def test_a_bias_beyond_half_precision_is_no_mask(implementation):
    zeros, lowest = jnp.zeros(2, jnp.float16), float(np.finfo(np.float32).min)
    context = attend(
        KeyOnly(zeros, 1),
        jnp.array([[1.0], [10.0]], jnp.float16),
        bias=jnp.array([[lowest, 0.0]]),
        score_mod=lambda score, i, j: 7 * jnp.tanh(score / 7),
        normalizer="sigmoid",  # of the score less the logarithm of the number of keys
        implementation=implementation,
    )
    np.testing.assert_allclose(context, [[3.3338]], rtol=1e-3)  # 1/(1 + 2e⁷) + 10/3


@pytest.mark.parametrize("score", SCORES)
def test_a_batch_may_be_a_symbol_in_a_program_for_export(score):
    layer = Attention(score, 3, 3, rngs=nnx.Rngs(0))
    (batch,) = export.symbolic_shape("batch")
    shape = jax.ShapeDtypeStruct((batch, 5, 3), jnp.float32)
    # As users run, without checks of types: a symbol is no int.
    with mock.patch.object(jaxtyping.config, "jaxtyping_disable", True):
        exported = export.export(jax.jit(lambda x: layer(x)))(shape)
    x = jax.random.normal(jax.random.key(0), (2, 5, 3))
    np.testing.assert_allclose(exported.call(x), layer(x), atol=1e-5)


@pytest.mark.parametrize(
    ("implementation", "normalizer"),
    list(itertools.product([None, "dense", "streaming"], ["softmax", "sigmoid"])),
)
def test_64_bits_are_served_in_silence_and_to_their_precision(implementation, normalizer):
    rng = np.random.default_rng(0)
    queries, keys, values = (rng.normal(size=(n, 3)) for n in (5, 7, 7))
    allowed = np.tri(5, 7)
    powers = np.exp(queries @ keys.T) * allowed
    count = allowed.sum(axis=1, keepdims=True)  # whose logarithm sigmoid takes from the scores
    divisor = powers + count if normalizer == "sigmoid" else powers.sum(axis=1, keepdims=True)
    weights = powers / divisor
    expected = weights @ values, np.repeat(weights.sum(axis=0)[:, None], 3, axis=1)

    def total(values):
        options = {"normalizer": normalizer, "implementation": implementation}
        context = attend(InnerProduct(queries, keys), values, mask="causal", **options)
        return jnp.sum(context), context

    with jax.enable_x64(True):
        queries, keys, values = jax.device_put((queries, keys, values))
        gradient, context = jax.grad(total, has_aux=True)(values)
    for actual, right in zip((context, gradient), expected, strict=True):
        np.testing.assert_allclose(actual, right, rtol=1e-13)


def test_a_kernel_that_rounds_to_32_bits_serves_no_64():
    with jax.enable_x64(True):
        ones = jnp.ones((5, 3))
        with pytest.raises(ValueError, match="the digits of float32"):
            attend(InnerProduct(ones, ones), ones, implementation="inner_product")
