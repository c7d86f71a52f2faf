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
from oracles import jit, normal

from attention import RBF, SCORES, Attention, InnerProduct, KeyOnly, attend, masks

every_way = pytest.mark.parametrize("implementation", ["dense", "streaming", "inner_product"])


@every_way
def test_a_masked_key_does_not_move_the_center_of_the_others(implementation):
    keys = jnp.array([[0.0, 0.0], [1.0, 1.0], [-1e4, -1e4], [-1e4, -1e4]])

    @jit
    def context(keys, values, length):
        form = RBF(2, 2, rngs=nnx.Rngs(0)).form(jnp.zeros((1, 2)), keys)
        return attend(form, values, mask=masks.lengths(length), implementation=implementation)

    np.testing.assert_allclose(context(keys, np.eye(4, 2), 2), [[0.731, 0.269]], atol=5e-4)


@every_way
def test_a_bias_however_low_loses_to_no_mask(implementation):
    ones, values = jnp.ones((2, 1)), jnp.array([[10.0], [20.0]])

    @jit
    def contexts_and_jacobian(values, bias):
        def contexts(values):
            form = InnerProduct(ones, ones)
            options = {"mask": "causal", "bias": bias, "implementation": implementation}
            context = attend(form, values, **options)[:, 0]
            return context, context

        jacobian, context = jax.jacobian(contexts, has_aux=True)(values)
        return context, jacobian

    lowest = float(np.finfo(np.float32).min)
    for low, first, moved in [(-1e30, 10, 1), (lowest, 10, 1), (-np.inf, 0, 0)]:
        bias = np.array([[low, 0.0], [low, 0.0]], np.float32)
        context, jacobian = contexts_and_jacobian(values, bias)
        np.testing.assert_array_equal(context, [first, 20])
        np.testing.assert_array_equal(jacobian[0], [[moved], [0]])


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
def test_a_large_common_offset_costs_no_digits_of_a_gradient(implementation):
    rng = np.random.default_rng(0)
    queries, keys = (rng.integers(-4, 5, (61, 7)) / 4 for _ in range(2))
    small, values = rng.integers(0, 3, 61), rng.normal(size=(61, 3))
    scores = queries @ keys.T + small
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    totals = values.sum(axis=1)
    expected = np.sum(weights * (totals[None, :] - (weights @ totals)[:, None]), axis=0)

    @jit
    @jax.grad
    def gradient(key_bias, queries, keys, values):
        form = InnerProduct(queries, keys, None, key_bias)
        return jnp.sum(attend(form, values, implementation=implementation))

    for offset in (1e4, 1e6):
        arrays = [np.float32(a) for a in (offset + small, queries, keys, values)]
        error = np.max(np.abs(gradient(*arrays) - expected))
        assert error < 2e-6 * np.max(np.abs(expected))


@every_way
def test_many_keys_of_equal_score_share_a_weight_of_one_in_half_precision(implementation):
    keys = np.zeros((900_000, 1), np.float16)

    @jit
    def context(queries, keys, values):
        return attend(InnerProduct(queries, keys), values, implementation=implementation)

    assert context(keys[:1], keys, keys + 1)[0, 0] == 1


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
    layer = jit(lambda: Attention(score, 3, 3, rngs=nnx.Rngs(0)))()
    (batch,) = export.symbolic_shape("batch")
    shape = jax.ShapeDtypeStruct((batch, 5, 3), jnp.float32)
    # As users run, without checks of types: a symbol is no int.
    with mock.patch.object(jaxtyping.config, "jaxtyping_disable", True):
        exported = export.export(jax.jit(lambda x: layer(x)))(shape)
    x = normal(0, 2, 5, 3)
    np.testing.assert_allclose(exported.call(x), jit(layer)(x), atol=1e-5)


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

    def total(values, queries, keys):
        options = {"normalizer": normalizer, "implementation": implementation}
        context = attend(InnerProduct(queries, keys), values, mask="causal", **options)
        return jnp.sum(context), context

    with jax.enable_x64(True):
        gradient, context = jit(jax.grad(total, has_aux=True))(values, queries, keys)
    for actual, right in zip((context, gradient), expected, strict=True):
        np.testing.assert_allclose(actual, right, rtol=1e-13)


def test_a_kernel_that_rounds_to_32_bits_serves_no_64():
    with jax.enable_x64(True):
        ones = jnp.ones((5, 3))
        with pytest.raises(ValueError, match="the digits of float32"):
            attend(InnerProduct(ones, ones), ones, implementation="inner_product")
