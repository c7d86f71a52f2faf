import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import BATCH, HEADS, KEYS, VALUE_DIM, arrays_in, assert_close, jit, normal

from attention import KeyOnly
from attention.algorithms import prefix

pytestmark = pytest.mark.usefixtures("strict")

LONG = 53  # with blocks of 3: four levels, a ragged end on each
every_block_size = pytest.mark.parametrize("block_size", [3, 16, 64])
attend = jit(prefix.attend_prefixes, static_argnames="block_size")
attend_causal = jit(prefix.attend_causal, static_argnums=3)


def problem(*lead, keys=LONG, scale=2.0):
    return normal(1, *lead, keys, scale=scale), normal(2, *lead, keys, VALUE_DIM)


def loop_prefixes(logits, values, allowed=None):
    """The equation, in loops, and the greatest exponent zero so that none overflows."""
    logits, values = np.asarray(logits, np.float64), np.asarray(values, np.float64)
    allowed = np.ones(logits.shape, bool) if allowed is None else allowed
    contexts = np.zeros(values.shape)
    for *at, i in np.ndindex(logits.shape):
        some = [j for j in range(i + 1) if allowed[(*at, j)]]
        greatest = max((logits[(*at, j)] for j in some), default=0.0)
        total = sum(math.exp(logits[(*at, j)] - greatest) for j in some)
        for j in some:
            weight = math.exp(logits[(*at, j)] - greatest) / total
            contexts[(*at, i)] += weight * values[(*at, j)]
    return contexts


def plain_prefixes(logits, values):
    """The equation, differentiable, with an array of pairs."""
    exponentials = jnp.tri(len(logits), dtype=logits.dtype) * jnp.exp(logits)[None, :]
    return exponentials / jnp.sum(exponentials, axis=-1, keepdims=True) @ values


def functional(attend):
    """A random functional of the contexts, of a problem in any dtype."""
    return lambda logits, values: jnp.sum(
        normal(3, LONG, VALUE_DIM).astype(values.dtype) * attend(logits, values)
    )


def gradient(function):
    return jax.grad(function, argnums=(0, 1))


def direction():
    return normal(4, LONG), normal(5, LONG, VALUE_DIM)


def derivatives(attend):
    """The functional and its gradient, and how both move in this direction."""

    def derived(logits, values):
        tangents = jax.tree.map(lambda leaf: leaf.astype(logits.dtype), direction())
        both = jax.value_and_grad(functional(attend), argnums=(0, 1))
        return jax.jvp(both, (logits, values), tangents)

    return derived


@functools.cache
def derivatives_in_float32():
    return jit(derivatives(functools.partial(prefix.attend_prefixes, block_size=3)))(*problem())


@functools.cache
def derivatives_in_float64():
    with jax.enable_x64(True):
        args = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), problem())
        return jit(derivatives(plain_prefixes))(*args)


# Contexts


def test_context_of_two_keys_by_hand():
    logits, values = jnp.asarray([0.0, math.log(3.0)]), jnp.asarray([[4.0], [8.0]])
    assert_close(attend(logits, values), np.array([[4.0], [7.0]]))


@every_block_size
@pytest.mark.parametrize("keys", [1, 7, 53])
def test_context_is_the_equation(keys, block_size):
    logits, values = problem(keys=keys)
    actual = attend(logits, values, block_size=block_size)
    assert_close(actual, loop_prefixes(logits, values))


def test_context_under_leading_axes_and_a_mask_that_broadcasts():
    logits, values = problem(BATCH, HEADS, keys=KEYS)
    where = np.random.default_rng(6).random((BATCH, 1, KEYS)) < 0.6
    where[:, :, 0] = False
    expected = loop_prefixes(logits, values, np.broadcast_to(where, logits.shape))
    assert_close(attend(logits, values, jnp.asarray(where), block_size=3), expected)


def test_vmap_is_a_leading_axis():
    logits, values = problem(BATCH, keys=KEYS)
    over_batch = jit(jax.vmap(functools.partial(prefix.attend_prefixes, block_size=3)))
    assert_close(over_batch(logits, values), loop_prefixes(logits, values))


@pytest.mark.parametrize("slope", [1e4, -1e4, 1e37, -1e37])
def test_no_magnitude_is_too_great(slope):
    logits = slope * (jnp.arange(LONG, dtype=jnp.float32) - LONG // 2)
    _, values = problem()
    context, pullback = jit_vjp(logits, values)
    # One key has all the weight: the last, if logits increase, or else the first.
    assert_close(context, values if slope > 0 else np.broadcast_to(values[0], values.shape))
    for leaf in arrays_in(pullback):
        assert np.all(np.isfinite(leaf))


def test_great_and_equal_logits_share_the_gradient():
    _, values = problem()
    _, (_, d_values) = jit_vjp(jax.device_put(np.full(LONG, 1e9, np.float32)), values)
    shares = np.tri(LONG) / np.arange(1, LONG + 1)[:, None]
    assert_close(d_values, shares.T @ np.asarray(normal(3, *values.shape), np.float64))


@pytest.mark.parametrize("slope", [3.0, -3.0])
def test_far_from_the_greatest_logit_the_context_is_still_exact(slope):
    logits, values = problem()
    logits = logits + slope * jnp.arange(LONG, dtype=jnp.float32)
    assert_close(attend(logits, values, block_size=3), loop_prefixes(logits, values))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_that_of_its_arguments_alone(dtype):
    logits, values = (leaf.astype(dtype) for leaf in problem())
    actual = attend(logits, values, block_size=3)
    assert actual.dtype == dtype
    expected = loop_prefixes(logits, values)
    assert_close(actual, expected, tolerance=float(jnp.finfo(dtype).eps))


# Derivatives


@pytest.mark.parametrize("block_size", [16, 64])
def test_gradient_in_float32_is_that_in_float64(block_size):
    function = functional(functools.partial(prefix.attend_prefixes, block_size=block_size))
    (_, expected), _ = derivatives_in_float64()
    assert_close(jit(gradient(function))(*problem()), expected, tolerance=5e-6)


def test_gradient_and_hessian_product_in_float32_are_those_in_float64():
    (_, gradient), (_, product) = derivatives_in_float32()
    (_, expected), (_, expected_product) = derivatives_in_float64()
    assert_close(gradient, expected, tolerance=5e-6)
    assert_close(product, expected_product, tolerance=5e-6)


@jit
def jit_vjp(logits, values, where=None):
    context, pullback = jax.vjp(
        lambda *args: prefix.attend_prefixes(*args, where, block_size=3), logits, values
    )
    return context, pullback(normal(3, *context.shape))


def test_gradient_under_leading_axes_is_that_of_each():
    arrays = problem(BATCH, 1, keys=KEYS)
    _, together = jit_vjp(*arrays)

    @jit
    def of_each(logits, values, cotangent):
        return jax.vjp(plain_prefixes, logits, values)[1](cotangent)

    arrays = arrays_in([*arrays, normal(3, *arrays[1].shape)])
    for at in range(BATCH):
        expected = of_each(*(array[at, 0] for array in arrays))
        assert_close([array[at, 0] for array in arrays_in(together)], list(expected))


def test_jvp_is_the_transpose_of_vjp():
    (_, gradient), (moved, _) = derivatives_in_float32()
    by_vjp = sum(np.sum(a * b) for a, b in zip(arrays_in(gradient), direction(), strict=True))
    assert_close(moved, by_vjp)


def test_a_prefix_without_keys_has_context_zero_and_masked_keys_gradient_zero():
    where = jnp.arange(LONG) % 5 == 4  # with blocks of three, some have none
    context, gradients = jit_vjp(*problem(), where)
    assert not np.any(context[:4])
    for leaf in arrays_in(gradients):
        by_key = np.abs(leaf.reshape(LONG, -1)).max(axis=1)
        assert not np.any(by_key[~where])
        assert np.all(by_key[where] > 0)


def test_without_any_key_all_is_zero():
    for leaf in arrays_in(jit_vjp(*problem(), jnp.zeros(LONG, bool))):
        assert not np.any(leaf)  # which NaN would be


def test_no_prefix_sees_past_its_end():
    logits, values = problem(scale=0.4)

    def by_row(logits, values):
        context, pullback = jax.vjp(
            functools.partial(prefix.attend_prefixes, block_size=3), logits, values
        )
        rows = jnp.eye(LONG)[:, :, None] * normal(3, *context.shape)[None]
        return jax.vmap(pullback)(rows)

    past = np.tri(LONG, dtype=bool)
    for leaf in arrays_in(jit(by_row)(logits, values)):
        seen = np.abs(leaf.reshape(LONG, LONG, -1)).max(axis=-1)
        assert not np.any(seen[~past])
        assert np.all(seen[1:][past[1:]] > 0)  # row 0 has no choice


def test_gradient_needs_memory_linear_in_keys():
    keys, block_size = 1009, 16
    loss = functional(lambda *args: prefix.attend_prefixes(*args, block_size=block_size)[:LONG])
    program = jax.jit(gradient(loss)).lower(*problem(keys=keys)).compile()
    floats = program.memory_analysis().temp_size_in_bytes / 4
    assert floats < 6 * keys * (VALUE_DIM + block_size)  # far from keys · keys


# Queries


@pytest.mark.parametrize(
    ("queries", "offset"),
    [(1, 0), (5, 0), (7, 0), (11, 0), (5, 2), (11, 2), (11, -2), (5, 13), (11, 6), (11, -13)],
)
def test_causal_is_the_equation_under_the_mask(queries, offset):
    logits, values = problem(BATCH, keys=KEYS)
    where = np.arange(KEYS) < np.array([[5], [0]])
    allowed = where[:, None] & (np.arange(KEYS) <= np.arange(queries)[:, None] + offset)
    exponentials = np.where(allowed, np.exp(np.float64(logits))[:, None], 0.0)
    total = exponentials.sum(axis=-1, keepdims=True)
    expected = exponentials / np.where(total == 0, 1.0, total) @ np.float64(values)
    form = KeyOnly(logits, queries)
    assert_close(attend_causal(form, values, jnp.asarray(where), offset), expected)
