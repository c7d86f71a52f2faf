import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import BATCH, HEADS, KEYS, VALUE_DIM, assert_close, jit, normal

from attention import recurrence

pytestmark = pytest.mark.usefixtures("strict")


def problem(*lead):
    return normal(1, *lead, KEYS, scale=2.0), normal(2, *lead, KEYS, VALUE_DIM)


def softmax_mean(logits, values):
    """The context of these keys, in float64."""
    weights = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    return weights / np.sum(weights) @ np.asarray(values, np.float64)


def softmax_means(logits, values):
    """The context of every prefix, in loops."""
    contexts = np.zeros(values.shape)
    for *at, i in np.ndindex(logits.shape):
        at = tuple(at)
        contexts[(*at, i)] = softmax_mean(logits[at][: i + 1], values[at][: i + 1])
    return contexts


def keys_as_states(logits, values):
    return recurrence.State(logits, jnp.ones_like(logits), values)


@pytest.mark.parametrize("lead", [(), (BATCH, HEADS)])
def test_steps_are_the_rows(lead):
    logits, values = problem(*lead)

    @jit
    def scan(logits, values):
        by_time = jnp.moveaxis(logits, -1, 0), jnp.moveaxis(values, -2, 0)
        state = recurrence.start(lead, VALUE_DIM, values.dtype)
        _, contexts = jax.lax.scan(lambda state, key: recurrence.step(state, *key), state, by_time)
        return jnp.moveaxis(contexts, 0, -2)

    assert_close(scan(logits, values), softmax_means(logits, values))


def test_a_step_holds_float32_and_returns_the_dtype_of_values():
    state = recurrence.start((), VALUE_DIM, jnp.bfloat16)
    value = normal(2, VALUE_DIM).astype(jnp.bfloat16)
    state, context = recurrence.step(state, jnp.asarray(5.0, jnp.bfloat16), value)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32)}
    assert context.dtype == jnp.bfloat16
    assert_close(context, value)


def test_no_key_at_all_has_context_zero():
    state = recurrence.start((BATCH,), VALUE_DIM, jnp.float32)
    assert not np.any(state.context)
    assert not np.any(state.normalizer)


def test_pooled_states_are_all_their_keys():
    logits, values = problem()
    visible = np.random.default_rng(3).random((5, KEYS)) < 0.6
    visible[2] = False  # a row that sees what lies before and nothing more
    first = recurrence.State(logits[0], jnp.ones(()), values[0])
    pooled = jit(lambda *args: recurrence.pool(*args, visible))(
        first, keys_as_states(logits, values)
    )
    for row, seen in enumerate(visible):
        chosen = [0, *np.flatnonzero(seen)]
        expected = softmax_mean(np.asarray(logits)[chosen], np.asarray(values)[chosen])
        assert_close(pooled.context[row], expected)
        total = np.sum(np.exp(np.asarray(logits, np.float64)[chosen]))
        actual = pooled.normalizer[row] * jnp.exp(pooled.max[row])
        assert_close(actual, total)


def test_nothing_pooled_with_nothing_is_nothing_with_gradient_zero():
    logits, values = problem()
    nothing = np.zeros((3, KEYS), bool)

    def context(logits, values):
        start = recurrence.start((), VALUE_DIM, jnp.float32)
        return recurrence.pool(start, keys_as_states(logits, values), nothing).context

    def pulled(logits, values):
        result, pullback = jax.vjp(context, logits, values)
        return result, pullback(normal(4, *result.shape))

    for leaf in jax.tree.leaves(jit(pulled)(logits, values)):
        assert not np.any(leaf)  # which NaN would be


@pytest.mark.parametrize("rows", [1, 3])
def test_mix_is_a_product_of_matrices(rows):
    weights, values = normal(1, rows, KEYS), normal(2, KEYS, VALUE_DIM)
    expected = np.asarray(weights, np.float64) @ np.asarray(values, np.float64)
    assert_close(jit(recurrence.mix)(weights, values), expected)
