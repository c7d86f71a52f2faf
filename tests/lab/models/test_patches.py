import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attention.lab.models.encoder import Encoder
from attention.lab.models.patches import PatchEncoder

FEATURES, TIME, DIM = 5, 7, 6
MASK = jnp.ones((3, TIME), bool)


def make(kind, **arguments):
    return kind(FEATURES, TIME, DIM, **arguments, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("mixer", ["none", "feedforward", "gru"])
def test_one_hot_patches_are_encoded_as_tokens(mixer):
    tokens = jax.random.randint(jax.random.key(1), (3, TIME), 0, FEATURES)
    found = make(PatchEncoder, mixer=mixer)(jax.nn.one_hot(tokens, FEATURES), MASK)
    np.testing.assert_allclose(found, make(Encoder, mixer=mixer)(tokens, MASK), atol=1e-5)


def test_a_patch_is_mapped_linearly_and_has_a_position():
    encoder = make(PatchEncoder)
    patches = np.random.default_rng(0).standard_normal((3, TIME, FEATURES)).astype(np.float32)
    expected = np.empty((3, TIME, DIM))
    for n in range(3):
        for t in range(TIME):
            expected[n, t] = patches[n, t] @ encoder.embedding[...] + encoder.positions[...][t]
    np.testing.assert_allclose(encoder(jnp.asarray(patches), MASK), expected, atol=1e-5)
