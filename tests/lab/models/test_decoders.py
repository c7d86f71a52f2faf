import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import random_like

from attention import masks
from attention.lab.models.cells import CELLS
from attention.lab.models.decoder import Decoder
from attention.lab.models.decoders import DECODERS
from attention.scores import MLP, Dot, Linear

BATCH, TIME, STEPS, DIM, VOCABULARY, HEADS = 2, 5, 7, 6, 11, 3
SEED = 2  # with which every decoder says more than one thing
LENGTH = jnp.array([3, 5])

every_decoder = pytest.mark.parametrize("name", DECODERS)


@functools.cache
def make(name, score=MLP, heads=HEADS, **options):
    def init():
        return DECODERS[name](
            score, VOCABULARY, STEPS, DIM, heads=heads, rngs=nnx.Rngs(0), **options
        )

    graph, state = nnx.split(nnx.eval_shape(init))
    return nnx.merge(graph, random_like(state, seed=SEED))


@functools.cache
def run(name):
    """`logits` and `greedy` of a decoder, compiled."""
    decoder = make(name)
    return jax.jit(decoder.logits), jax.jit(partial(decoder.greedy, time=STEPS))


@partial(jax.jit, static_argnums=1)
def greedy(decoder, time, memory, length, *question):
    return decoder.greedy(memory, length, time, *question)


def make_memory(seed=0):
    values = np.random.default_rng(seed).standard_normal((BATCH, TIME, DIM))
    return jax.device_put(values.astype(np.float32))


def make_target(seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, VOCABULARY, (BATCH, STEPS)))


@every_decoder
def test_a_decoder_is_what_a_reconstructor_asks_for(name):
    assert isinstance(make(name), Decoder)


@every_decoder
def test_greedy_is_the_likeliest_token_given_its_own_output(name):
    logits, greedy = run(name)
    tokens, _ = greedy(make_memory(), LENGTH)
    np.testing.assert_array_equal(logits(make_memory(), LENGTH, tokens).argmax(axis=-1), tokens)
    assert len(np.unique(tokens)) > 1


@pytest.mark.parametrize("step", range(STEPS))
@pytest.mark.parametrize("name", CELLS)
def test_the_logits_of_a_cell_depend_on_the_target_before_them_and_no_other(name, step):
    logits, _ = run(name)
    target = make_target()
    changed = np.array(target)
    changed[:, step] = (changed[:, step] + 1) % VOCABULARY
    before, after = (np.asarray(logits(make_memory(), LENGTH, t)) for t in (target, changed))
    changes = np.any(before != after, axis=(0, 2))
    np.testing.assert_array_equal(changes, np.arange(STEPS) > step)


@pytest.mark.parametrize("name", ["parallel", "location", "pooled"])
def test_the_logits_of_the_others_do_not_depend_on_the_target(name):
    logits, _ = run(name)
    np.testing.assert_array_equal(
        *(logits(make_memory(), LENGTH, make_target(seed)) for seed in (0, 1))
    )


@every_decoder
def test_what_is_beyond_the_source_is_not_seen(name):
    logits, greedy = run(name)
    memory = make_memory()
    other = memory.at[0, 3:].set(1e3)
    np.testing.assert_array_equal(
        logits(other, LENGTH, make_target()), logits(memory, LENGTH, make_target())
    )
    for a, b in zip(
        jax.tree.leaves(greedy(other, LENGTH)), jax.tree.leaves(greedy(memory, LENGTH)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@every_decoder
def test_every_position_of_the_source_is_seen(name):
    logits, _ = run(name)
    total = jax.jit(lambda memory: logits(memory, LENGTH, make_target()).sum(axis=(1, 2)))
    slope = jax.jit(jax.jacobian(total))(make_memory())
    seen = np.any(np.asarray(slope) != 0, axis=-1)  # [batch, batch, time]
    counts = np.arange(TIME) < LENGTH[:, None]
    np.testing.assert_array_equal(seen, np.eye(BATCH, dtype=bool)[:, :, None] & counts)


@pytest.mark.parametrize("name", ["parallel", "location", *CELLS])
def test_the_weights_of_each_step_and_head_are_a_distribution_over_the_source(name):
    _, greedy = run(name)
    weights = np.asarray(greedy(make_memory(), LENGTH)[1])
    assert weights.shape == (BATCH, HEADS, STEPS, TIME)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
    assert np.all(weights[0, ..., 3:] == 0)
    assert np.all(weights[1] > 0)


def test_questions_are_added_to_the_queries():
    decoder, memory, mask = make("parallel"), make_memory(), masks.lengths(LENGTH)
    question = jnp.asarray(np.random.default_rng(1).standard_normal((BATCH, STEPS, DIM)), "float32")
    queries = decoder.queries[...] + question
    context, expected = decoder.attention.with_weights(queries, memory, mask=mask)
    tokens, weights = greedy(decoder, STEPS, memory, LENGTH, question)
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    logits = jax.jit(decoder.logits)(memory, LENGTH, make_target(), question)
    np.testing.assert_allclose(logits, decoder.output(context), atol=1e-4)
    np.testing.assert_array_equal(tokens, logits.argmax(axis=-1))


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_first_asks_with_the_mean_and_the_ends_of_the_source(name):
    decoder, memory = make(name), make_memory()
    ends = [
        jnp.concatenate([memory[n, :length].mean(axis=0), memory[n, 0], memory[n, length - 1]])
        for n, length in enumerate([3, 5])
    ]
    query = jnp.tanh(decoder.start(jnp.stack(ends)))[:, None]
    _, expected = decoder.attention.with_weights(query, memory, mask=masks.lengths(LENGTH))
    _, weights = run(name)[1](memory, LENGTH)
    np.testing.assert_allclose(weights[:, :, :1], expected, atol=1e-5)
    assert not np.allclose(weights[:, :, 1:2], expected, atol=1e-3)  # then with another state


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_without_attention_sees_the_mean_and_the_ends_alone(name):
    decoder, memory = make(name, score=None), make_memory()
    logits = jax.jit(decoder.logits)
    # Two places in the middle change places: mean and ends stay.
    swapped = memory.at[1, 2].set(memory[1, 3]).at[1, 3].set(memory[1, 2])
    target = make_target()
    np.testing.assert_allclose(
        logits(swapped, LENGTH, target), logits(memory, LENGTH, target), atol=1e-4
    )
    assert not np.allclose(
        logits(memory.at[1, 2].add(1.0), LENGTH, target), logits(memory, LENGTH, target)
    )
    assert greedy(decoder, STEPS, memory, LENGTH)[1] is None


@pytest.mark.parametrize("positions", ["none", "sinusoidal", "rotary"])
def test_a_shared_query_goes_on_for_ever(positions):
    decoder, memory = make("parallel", positions=positions, queries="shared"), make_memory()
    short, long = (
        np.asarray(greedy(decoder, time, memory, LENGTH)[1]) for time in (STEPS, 2 * STEPS)
    )
    np.testing.assert_allclose(long[:, :, :STEPS], short, atol=1e-6)
    same = np.ptp(long, axis=2).max() < 1e-6
    assert same == (positions == "none")


def test_rotary_scores_of_an_inner_product_depend_on_the_distance_alone():
    decoder = make("parallel", score=Dot, heads=1, positions="rotary", queries="shared")
    memory = jnp.broadcast_to(make_memory()[:1, :1], (1, STEPS, DIM))
    scores = decoder.attention.scores(decoder._queries(STEPS, None), decoder._keys(memory))[0, 0]
    for distance in range(-STEPS + 1, STEPS):
        assert np.ptp(np.diagonal(scores, distance)) < 1e-4
    assert np.ptp(scores) > 0.1


def test_a_pooled_decoder_has_no_weights_a_step():
    assert run("pooled")[1](make_memory(), LENGTH)[1] is None


def test_a_pooled_decoder_with_a_head_a_feature_is_the_tutorial():
    """One softmax over positions for each feature, and a linear map from their context."""
    decoder, memory = make("pooled", Linear, heads=DIM), np.asarray(make_memory())
    weight = np.asarray(decoder.attention.score.weight[...])
    assert weight.shape == (DIM, DIM)
    expected = []
    for example, length in zip(memory, LENGTH.tolist(), strict=True):
        source = example[:length]
        context = []
        for feature in range(DIM):
            exponentials = np.exp(source @ weight[feature])
            context.append(exponentials @ source[:, feature] / exponentials.sum())
        output = context @ np.asarray(decoder.output.kernel[...])
        output += np.asarray(decoder.output.bias[...])
        expected.append(output.reshape(STEPS, VOCABULARY))
    found = jax.jit(decoder.logits)(memory, LENGTH, make_target())
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_one_context_for_one_step_comes_with_its_weights():
    """They are those that the context was mixed with, and it is what the logits are read from."""
    graph, state = nnx.split(
        nnx.eval_shape(
            lambda: DECODERS["pooled"](MLP, VOCABULARY, 1, DIM, heads=HEADS, rngs=nnx.Rngs(0))
        )
    )
    decoder, memory = nnx.merge(graph, random_like(state)), make_memory()
    tokens, weights = map(np.asarray, greedy(decoder, 1, memory, LENGTH))
    assert weights.shape == (BATCH, HEADS, 1, TIME)
    np.testing.assert_array_equal(weights[0, :, :, 3:], 0)
    values = np.asarray(memory).reshape(BATCH, TIME, HEADS, DIM // HEADS)
    context = np.einsum("bhqk,bkhd->bqhd", weights, values).reshape(BATCH, DIM)
    expected = np.asarray(decoder.output(jnp.asarray(context, jnp.float32)))
    np.testing.assert_allclose(
        jax.jit(decoder.logits)(memory, LENGTH, tokens)[:, 0], expected, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_array_equal(tokens[:, 0], expected.argmax(axis=-1))
