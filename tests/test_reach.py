import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attention import masks
from attention.biases import Alibi, as_bias
from attention.reach import reachable_keys, replaced

pytestmark = pytest.mark.usefixtures("strict")

SHAPE = (2, 3, 5, 7)


def test_a_key_is_reachable_if_a_query_may_attend_to_it_and_its_bias_is_finite():
    table = np.zeros((3, 5, 7), np.float32)
    table[1, :, 4] = -np.inf
    table[2, 1:, 6] = -np.inf  # the first query still reaches it, but for the mask
    bias = as_bias(jnp.asarray(table), SHAPE)
    mask = masks.as_mask("causal", SHAPE)
    expected = np.tile(np.arange(7) < 5, (2, 3, 1))
    expected[:, 1, 4] = False
    actual = np.broadcast_to(reachable_keys(mask, bias, SHAPE), (2, 3, 7))
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(
        np.broadcast_to(reachable_keys(None, bias, SHAPE), (2, 3, 7))[:, 2], np.ones((2, 7))
    )


def test_a_bias_of_heads_is_not_taken_for_one_of_the_batch():
    class Deaf(nnx.Module):
        """A head of its own for each key that it does not hear."""

        def __call__(self, query_index, key_index):
            heads = jnp.arange(3)[:, None, None]
            return jnp.where(key_index[None, None, :] == heads, -jnp.inf, 0.0)

    actual = reachable_keys(None, as_bias(Deaf(), SHAPE), SHAPE)
    expected = np.tile(~np.eye(3, 7, dtype=bool), (2, 1, 1))
    np.testing.assert_array_equal(np.broadcast_to(actual, (2, 3, 7)), expected)


def test_a_bias_that_is_never_infinite_is_not_asked():

    assert reachable_keys(None, Alibi(3, rngs=nnx.Rngs(0)), SHAPE) is None
    assert reachable_keys(None, None, SHAPE) is None


def test_what_is_out_of_reach_becomes_a_copy_of_the_first_in_reach_or_ones():
    keys = jnp.asarray([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]]])
    reachable = jnp.asarray([[False, True, False], [False, False, False]])
    np.testing.assert_array_equal(
        replaced(keys, reachable)[..., 0], [[2.0, 2.0, 2.0], [1.0, 1.0, 1.0]]
    )
    one_for_all = jnp.asarray([[True, False, True]])
    np.testing.assert_array_equal(
        replaced(keys, one_for_all)[..., 0], [[1.0, 1.0, 3.0], [4.0, 4.0, 6.0]]
    )
    assert replaced(keys, None) is keys
