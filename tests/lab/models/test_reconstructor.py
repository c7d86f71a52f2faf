import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import random_like

from attention.lab.models.decoder import Decoder
from attention.lab.models.decoders import DECODERS
from attention.lab.models.encoder import Encoder
from attention.lab.models.reconstructor import Reconstructor
from attention.lab.tasks.batch import END, PAD, reconstruction
from attention.scores import Dot

TIME, DIM, VOCABULARY = 5, 6, 11


class Recites(Decoder):
    """A decoder that says what it was told to."""

    def __init__(self, tokens):
        self.tokens = nnx.Variable(jnp.array(tokens))

    def logits(self, memory, length, target):
        return jax.nn.one_hot(target, VOCABULARY)

    def greedy(self, memory, length, time):
        assert time == self.tokens.shape[1]
        return self.tokens[...], None


def make_encoder(dropout=0.0):
    return Encoder(VOCABULARY, TIME, DIM, dropout=dropout, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def batch():
    symbols = np.random.default_rng(0).integers(2, VOCABULARY, (3, TIME - 1))
    return reconstruction(jnp.asarray(symbols), jnp.array([1, 3, 4]))


@pytest.fixture(scope="module")
def model():
    def init():
        decoder = DECODERS["gru"](Dot, VOCABULARY, TIME, DIM, heads=2, rngs=nnx.Rngs(0))
        return Reconstructor(make_encoder(dropout=0.5), decoder)

    graph, state = nnx.split(nnx.eval_shape(init))
    return nnx.merge(graph, random_like(state))


@jax.jit
def reconstruct(model, source, length):
    return model.reconstruct(source, length, TIME)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ([5, 6, END, 7, 8], [5, 6, END, PAD, PAD]),
        ([5, END, END, 7, END], [5, END, PAD, PAD, PAD]),
        ([END, 5, 6, 7, 8], [END, PAD, PAD, PAD, PAD]),
        ([5, 6, 7, 8, END], [5, 6, 7, 8, END]),
        ([5, 6, 7, 8, 9], [5, 6, 7, 8, 9]),
        ([5, PAD, 6, END, 7], [5, PAD, 6, END, PAD]),
    ],
)
def test_the_output_is_padded_after_its_first_end(said, kept):
    model = Reconstructor(make_encoder(), Recites([said]))
    output = reconstruct(model, jnp.array([[2, 3, 4, END, PAD]]), jnp.array([4]))
    np.testing.assert_array_equal(output.tokens, [kept])


def test_the_output_is_the_decoders_own_choice(model, batch):
    output = reconstruct(model, batch.source, batch.source_length)

    @jax.jit
    def chosen(model, batch):
        memory = model.encoder(batch.source, batch.target_mask)
        return model.decoder.greedy(memory, batch.source_length, TIME)

    tokens, weights = map(np.asarray, chosen(model, batch))
    before_end = np.cumsum(np.asarray(tokens) == END, axis=1) == 0
    np.testing.assert_array_equal(np.asarray(output.tokens)[before_end], tokens[before_end])
    np.testing.assert_array_equal(output.weights, weights)


class Repeats(Decoder):
    """A decoder that gives back the questions."""

    def logits(self, memory, length, target, question):
        return question

    def greedy(self, memory, length, time, question):
        return jnp.full(question.shape[:2], 3), question[:, None]


def test_the_decoder_is_asked_with_the_embedding_of_the_question(batch):
    model = Reconstructor(make_encoder(), Repeats())
    question = jnp.array([[7, 2, 3, 9, 1], [3, 3, 5, 2, 8], [10, 0, 4, 4, 6]])
    expected = np.asarray(model.encoder.embedding[...])[np.asarray(question)]
    asking = dataclasses.replace(batch, question=question)
    np.testing.assert_array_equal(model.logits(asking), expected)
    output = model.reconstruct(batch.source, batch.source_length, TIME, question)
    np.testing.assert_array_equal(output.weights[:, 0], expected)


def test_padding_of_the_source_does_not_change_the_output(model, batch):
    padded = jnp.where(batch.target_mask, batch.source, 7)
    np.testing.assert_array_equal(
        reconstruct(model, padded, batch.source_length).weights,
        reconstruct(model, batch.source, batch.source_length).weights,
    )


def test_only_a_key_makes_dropout(model, batch):
    logits = jax.jit(lambda model, *arguments: model.logits(*arguments))
    whole, again = logits(model, batch), logits(model, batch)
    dropped = logits(model, batch, jax.random.key(0))
    np.testing.assert_array_equal(whole, again)
    assert not np.allclose(whole, dropped)
