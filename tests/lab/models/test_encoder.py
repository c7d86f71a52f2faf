import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import random_like

from attention.lab.models.cells import CELLS
from attention.lab.models.encoder import Encoder

BATCH, TIME, DIM, VOCABULARY = 2, 7, 6, 11
LENGTHS = [4, 7]
HALF = DIM // 2
MIXERS = ["none", "feedforward", "convolution", *CELLS]


@functools.cache
def make(mixer="none", **options):
    def init():
        return Encoder(VOCABULARY, TIME, DIM, mixer=mixer, rngs=nnx.Rngs(0), **options)

    graph, state = nnx.split(nnx.eval_shape(init))
    return nnx.merge(graph, random_like(state))


def make_tokens():
    return np.random.default_rng(0).integers(2, VOCABULARY, (BATCH, TIME))


@jax.jit
def called(encoder, *arguments):
    return encoder(*arguments)


def encode(encoder, tokens, lengths=LENGTHS, key=None):
    mask = np.arange(tokens.shape[1]) < np.array(lengths)[:, None]
    return np.asarray(called(encoder, jnp.asarray(tokens), jnp.asarray(mask), key))


@pytest.mark.parametrize("mixer", MIXERS)
def test_padding_does_not_reach_the_tokens_that_count(mixer):
    tokens, padded = make_tokens(), make_tokens()
    padded[0, 4:] = (padded[0, 4:] + 1) % VOCABULARY
    before, after = (encode(make(mixer), t) for t in (tokens, padded))
    np.testing.assert_array_equal(after[0, :4], before[0, :4])
    np.testing.assert_array_equal(after[1], before[1])


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_padded_sequence_is_encoded_as_the_bare_one(mixer):
    tokens = make_tokens()
    # The positions of a shorter encoder are the first of the longer one.
    encoder = make(mixer, positions="none")
    bare = encode(encoder, tokens[:1, :4], [4])
    np.testing.assert_allclose(encode(encoder, tokens)[0, :4], bare[0], atol=1e-5)


@pytest.mark.parametrize("mixer", ["none", "feedforward"])
def test_without_neighbours_a_token_is_seen_at_its_own_position_only(mixer):
    tokens, changed = make_tokens(), make_tokens()
    changed[1, 2] = (changed[1, 2] + 1) % VOCABULARY
    difference = encode(make(mixer), changed) != encode(make(mixer), tokens)
    assert np.argwhere(difference.any(axis=-1)).tolist() == [[1, 2]]


@pytest.mark.parametrize("position", [0, 2, 6])
@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_carries_each_token_forward_in_one_half_and_backward_in_the_other(cell, position):
    tokens, changed = make_tokens(), make_tokens()
    changed[1, position] = (changed[1, position] + 1) % VOCABULARY
    difference = encode(make(cell), changed)[1] != encode(make(cell), tokens)[1]
    steps = np.arange(TIME)
    np.testing.assert_array_equal(difference[:, :HALF].any(axis=-1), steps >= position)
    np.testing.assert_array_equal(difference[:, HALF:].any(axis=-1), steps <= position)


def test_the_memory_without_a_mixer_is_embedding_plus_position():
    encoder, tokens = make(), make_tokens()
    expected = np.asarray(encoder.embedding[...])[tokens] + np.asarray(encoder.positions[...])
    np.testing.assert_allclose(encode(encoder, tokens), expected, atol=1e-6)


def test_feedforward_is_residual():
    encoder, tokens = make("feedforward"), make_tokens()
    inputs = np.asarray(encoder.embedding[...])[tokens] + np.asarray(encoder.positions[...])
    expand, contract = encoder.mixer.expand, encoder.mixer.contract
    weights = [np.asarray(w[...]) for w in (expand.kernel, expand.bias)]
    hidden = np.asarray(jax.nn.gelu(inputs @ weights[0] + weights[1]))
    expected = inputs + hidden @ np.asarray(contract.kernel[...]) + np.asarray(contract.bias[...])
    np.testing.assert_allclose(encode(encoder, tokens), expected, atol=1e-4)


def test_a_convolution_sees_a_token_and_its_neighbours():
    encoder, tokens = make("convolution", positions="none"), make_tokens()
    embedded = np.asarray(encoder.embedding[...])[tokens]
    window = encoder.mixer.window
    kernel, bias = np.asarray(window.kernel[...]), np.asarray(window.bias[...])
    memory = encode(encoder, tokens)
    for n, length in enumerate(LENGTHS):
        for t in range(length):
            around = [
                embedded[n, i] if 0 <= i < length else np.zeros(DIM) for i in (t - 1, t, t + 1)
            ]
            expected = embedded[n, t] + np.concatenate(around) @ kernel + bias
            np.testing.assert_allclose(memory[n, t], expected, atol=1e-4)


def test_sinusoids_are_added_at_any_length():
    encoder = make(positions="sinusoidal")
    tokens = np.full((BATCH, 3 * TIME), 3)
    added = encode(encoder, tokens) - np.asarray(encoder.embedding[...])[3]
    for step in (0, 1, 20):
        for pair in range(HALF):
            angle = step / 10_000 ** (2 * pair / DIM)
            np.testing.assert_allclose(added[0, step, pair], np.sin(angle), atol=1e-5)
            np.testing.assert_allclose(added[0, step, HALF + pair], np.cos(angle), atol=1e-5)


def test_without_positions_equal_tokens_are_encoded_equally():
    memory = encode(make(positions="none"), np.full((BATCH, TIME), 3))
    np.testing.assert_array_equal(memory, np.broadcast_to(memory[:1, :1], memory.shape))


def test_a_gru_without_positions_knows_where_a_token_is():
    memory = encode(make("gru", positions="none"), np.full((BATCH, TIME), 3))
    assert len(np.unique(memory[1].round(5), axis=0)) == TIME


def test_an_odd_dim_has_no_halves():
    with pytest.raises(ValueError, match=r"^dim=7: must be even"):
        Encoder(VOCABULARY, TIME, 7, mixer="gru", rngs=nnx.Rngs(0))


@pytest.mark.parametrize("mixer", MIXERS)
def test_dropout_needs_a_key(mixer):
    encoder, tokens = make(mixer, dropout=0.5), make_tokens()
    np.testing.assert_array_equal(encode(encoder, tokens), encode(make(mixer), tokens))


def test_dropout_drops_and_scales():
    encoder, tokens = make(dropout=0.25), make_tokens()
    whole = encode(encoder, tokens)
    dropped = encode(encoder, tokens, key=jax.random.key(0))
    kept = dropped != 0
    assert 0.6 < kept.mean() < 0.9
    np.testing.assert_allclose(dropped[kept], whole[kept] / 0.75, rtol=1e-5)


def test_dropout_is_decided_by_its_key():
    encoder, tokens = make(dropout=0.5), make_tokens()
    first, again, other = (encode(encoder, tokens, key=jax.random.key(n)) for n in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
