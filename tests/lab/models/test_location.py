import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attention.lab.models import location
from attention.lab.models.location import GRADIENT_SHARE_OF_PREVIOUS_STEP as FLOW
from attention.lab.models.location import MAX_SHIFT as REACH
from attention.lab.models.location import PREVIOUS_WEIGHTS_GAIN as GAIN
from attention.lab.models.location import SOFTMAX_GRADIENT_SHARE as LEAK
from attention.lab.models.location import Location, LocationDecoder, leaky
from attention.normalizers import softmax, sparsemax
from attention.scores import Bilinear, Uniform

BATCH, TIME, STEPS, DIM, VOCABULARY, HEADS = 2, 5, 7, 6, 11, 3
LENGTH = np.array([3, 5])


@pytest.fixture(scope="module")
def decoder():
    rng = np.random.default_rng(0)
    decoder = LocationDecoder(
        Bilinear, VOCABULARY, STEPS, DIM, heads=HEADS, normalizer="sparsemax", rngs=nnx.Rngs(0)
    )
    decoder.content[...] = jnp.array(1.3)
    for kernel in (decoder.location.previous, decoder.location.total, decoder.again.kernel):
        kernel[...] = jnp.asarray(rng.standard_normal(kernel.shape), jnp.float32)
    return decoder


def make_memory():
    return np.random.default_rng(1).standard_normal((BATCH, TIME, DIM)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=3)
def greedy(decoder, memory, length, time):
    return decoder.greedy(memory, length, time)


def test_the_weights_are_those_of_a_loop(decoder):
    memory = make_memory()
    attention, queries = decoder.attention, decoder.queries[...]
    scores = np.asarray(jax.jit(attention.scores)(queries, jnp.asarray(memory)))
    again = memory @ np.asarray(decoder.again.kernel[...])
    kernels = [np.asarray(decoder.location.previous[...]), np.asarray(decoder.location.total[...])]
    weights = np.asarray(greedy(decoder, memory, LENGTH, STEPS)[1])
    normalized = jax.jit(sparsemax)
    for n in range(BATCH):
        for head in range(HEADS):
            before = {-1: 1.0}  # where it looked, by place
            total = {}
            for step in range(STEPS):
                located = np.zeros(LENGTH[n])
                often = {place: np.log2(1 + weight) for place, weight in total.items()}
                for place in range(LENGTH[n]):
                    begin, every = scores[n, head, :, place]
                    located[place] = before[-1] * begin + 1.3 * every
                    gains = (GAIN, 1.0)
                    for seen, kernel, gain in zip((before, often), kernels, gains, strict=True):
                        for shift in range(-REACH, REACH + 1):
                            drawn = seen.get(place - shift, 0.0)
                            located[place] += gain * kernel[head, REACH + shift] * drawn
                expected = np.asarray(normalized(located.astype(np.float32)))
                np.testing.assert_allclose(weights[n, head, step, : LENGTH[n]], expected, atol=1e-4)
                assert np.all(weights[n, head, step, LENGTH[n] :] == 0)
                before = dict(enumerate(expected))
                total = {i: total.get(i, 0.0) + expected[i] for i in before}
                before[-1] = expected @ again[n, : LENGTH[n], head]


def test_one_place_ahead_is_a_copy_of_any_length():
    """With a score of zero: where it looks is the location's alone."""
    decoder = LocationDecoder(
        Uniform, VOCABULARY, STEPS, DIM, normalizer="sparsemax", rngs=nnx.Rngs(0)
    )
    decoder.location.previous[...] = jnp.zeros((1, 2 * REACH + 1)).at[0, REACH + 1].set(1.5 / GAIN)
    length = 997
    memory = jnp.asarray(np.random.default_rng(0).standard_normal((1, length, DIM)), jnp.float32)
    logits = jax.jit(decoder.logits)
    _, weights = greedy(decoder, memory, jnp.array([length]), length)
    np.testing.assert_array_equal(weights[0, 0], np.eye(length))
    found = logits(memory, jnp.array([length]), jnp.zeros((1, length), int))
    np.testing.assert_allclose(found, decoder.output(memory), atol=1e-4)


def test_after_a_key_that_says_so_it_begins_again():
    """One place ahead, and from the last key back to the place before the first. Twice round."""
    decoder = LocationDecoder(
        Uniform, VOCABULARY, STEPS, DIM, normalizer="sparsemax", rngs=nnx.Rngs(0)
    )
    decoder.location.previous[...] = jnp.zeros((1, 2 * REACH + 1)).at[0, REACH + 1].set(1.5 / GAIN)
    decoder.again.kernel[...] = jnp.zeros((DIM, 1)).at[1, 0].set(1.0)
    length = 97
    memory = np.random.default_rng(0).standard_normal((1, length, DIM)).astype(np.float32)
    memory[0, :, 1] = np.arange(length) == length - 1
    _, weights = greedy(decoder, memory, np.array([length]), 2 * length)
    np.testing.assert_array_equal(weights[0, 0], np.tile(np.eye(length), (2, 1)))


def test_a_gradient_goes_back_to_earlier_steps_in_part():
    location = Location(1)
    shift = np.zeros((1, 2 * REACH + 1), np.float32)
    shift[0, REACH - 1] = 3.0
    location.previous[...] = jnp.asarray(shift)
    seen = jnp.asarray(np.random.default_rng(2).random((1, 1, TIME + 1)), jnp.float32)

    @jax.jit
    def pulled(seen):
        drawn, pull = jax.vjp(lambda seen: location(seen, jnp.zeros_like(seen)), seen)
        return drawn, *pull(jnp.ones_like(drawn))

    drawn, slope = pulled(seen)
    np.testing.assert_allclose(drawn[0, 0, :-1], GAIN * 3.0 * seen[0, 0, 2:], rtol=1e-6)
    np.testing.assert_allclose(slope[0, 0, 2:], np.full(TIME - 1, FLOW * GAIN * 3.0))


def test_a_sparse_weight_leaks_a_gradient_to_keys_without_weight():
    scores = jnp.array([0.3, 2.0, -0.5, 1.9, -40.0])
    where = jnp.array([True, True, True, False, True])
    leaking = leaky(sparsemax)
    np.testing.assert_array_equal(leaking(scores, where), [0.0, 1.0, 0.0, 0.0, 0.0])
    found, hard, soft = (
        np.asarray(jax.jit(jax.jacobian(f))(scores, where)) for f in (leaking, sparsemax, softmax)
    )
    np.testing.assert_allclose(found, LEAK * soft + (1 - LEAK) * hard, atol=1e-7)
    assert np.all(hard == 0)
    assert found[1, 0] < -0.05
    assert np.all(found[:, 3] == 0)


def test_what_lies_beyond_the_source_has_no_weight_and_no_gradient(decoder):
    memory = jnp.asarray(make_memory())

    def loss(memory):
        return jnp.sum(decoder.logits(memory, jnp.asarray(LENGTH), jnp.zeros((BATCH, STEPS), int)))

    slope = np.asarray(jax.jit(jax.grad(loss))(memory))
    assert np.all(slope[0, 3:] == 0)
    assert np.any(slope[1] != 0)


@pytest.mark.parametrize(
    ("normalizer", "leaks"),
    [("softmax", False), ("sigmoid", False), ("sparsemax", True), ("entmax15", True)],
)
def test_a_decoder_with_weights_of_zero_takes_part_of_the_gradient_of_softmax(
    monkeypatch, normalizer, leaks
):
    decoder = LocationDecoder(Bilinear, 5, TIME, DIM, normalizer=normalizer, rngs=nnx.Rngs(0))
    graph, parameters = nnx.split(decoder)
    memory = jnp.asarray(np.random.default_rng(3).standard_normal((2, TIME, DIM)), jnp.float32)

    def slope(share):
        monkeypatch.setattr(location, "SOFTMAX_GRADIENT_SHARE", share)

        def total(parameters):
            logits = nnx.merge(graph, parameters).logits(
                memory, jnp.array([TIME, 2]), jnp.zeros((2, 3), int)
            )
            return jnp.sum(logits**2)

        return jax.tree.leaves(jax.jit(jax.grad(total))(parameters))

    pairs = zip(slope(0.5), slope(0.0), strict=True)
    assert any(not np.array_equal(some, none) for some, none in pairs) == leaks
