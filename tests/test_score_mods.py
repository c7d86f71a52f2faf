import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from oracles import BATCH, HEADS, KEYS, QUERIES, assert_close, jit, normal, refused

from attention.score_mods import LogLength, SoftCap, Temperature, as_score_mod, at

pytestmark = pytest.mark.usefixtures("strict")

SHAPE = (BATCH, HEADS, QUERIES, KEYS)
INDEX = jnp.arange(QUERIES), jnp.arange(KEYS)
QUERY_AT = np.array([[3, 0, 9, 4, 1], [2, 7, 1, 1, 5]])
KEY_AT = np.array([[5, 1, 0, 8, 3, 2, 6], [0, 4, 1, 9, 9, 3, 7]])
OF_HEADS = np.array([0.5, 2.0, 3.0])


class Damped(nnx.Module):
    """A score mod of one's own."""

    def __init__(self):
        self.rate = nnx.Param(jnp.asarray(0.3, jnp.float32))

    def __call__(self, score, i, j):
        return score * jnp.exp(-self.rate[...] * jnp.abs(i - j).astype(jnp.float32))


def with_heads(make):
    return make(jnp.asarray(OF_HEADS, jnp.float32))


def scaled(score, i, j):
    return jnp.where(j > i, 0.5 * score, score - 1.0)


# A score mod, and the same as a function of head h, score s, query i, key j.
CASES = {
    "soft cap": (SoftCap(1.5), lambda h, s, i, j: 1.5 * np.tanh(s / 1.5)),
    "temperature": (Temperature(2.5), lambda h, s, i, j: s / 2.5),
    "temperature of 1": (Temperature(), lambda h, s, i, j: s),
    "temperatures": (with_heads(Temperature), lambda h, s, i, j: s / OF_HEADS[h]),
    "log length": (LogLength(0.4), lambda h, s, i, j: 0.4 * s * np.log(i + 1)),
    "log length, scale 1": (LogLength(), lambda h, s, i, j: s * np.log(i + 1)),
    "log lengths": (with_heads(LogLength), lambda h, s, i, j: OF_HEADS[h] * s * np.log(i + 1)),
    "function": (scaled, lambda h, s, i, j: 0.5 * s if j > i else s - 1),
    "identity": (lambda score, i, j: score, lambda h, s, i, j: s),
    "index": (lambda score, i, j: i - 2 * j, lambda h, s, i, j: i - 2 * j),
    "constant": (lambda score, i, j: 0.25, lambda h, s, i, j: 0.25),
    "masking": (
        lambda score, i, j: jnp.where(j > i, -jnp.inf, score),
        lambda h, s, i, j: -np.inf if j > i else s,
    ),
    "module": (Damped(), lambda h, s, i, j: s * np.exp(-0.3 * abs(i - j))),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def loops(modify, scores, query_at=None, key_at=None):
    scores, expected = np.asarray(scores), np.zeros(scores.shape)
    for b, h, i, j in np.ndindex(scores.shape):
        x = i if query_at is None else query_at[b, i]
        y = j if key_at is None else key_at[b, j]
        expected[b, h, i, j] = modify(h, float(scores[b, h, i, j]), int(x), int(y))
    return expected


def assert_same(actual, expected):
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-6)


ROWS, COLUMNS = np.array([3, 1]), np.array([2, 5, 4])
BLOCK = slice(None), slice(None), ROWS[:, None], COLUMNS[None, :]
# Of both sides, of queries, of keys, and of the whole batch.
PLACES = [(QUERY_AT, KEY_AT), (QUERY_AT[0], None), (None, KEY_AT), (QUERY_AT[:1], KEY_AT[0])]


@jit
def modified(score_mod, scores):
    """All scores, a block of them, and all at each of `PLACES`: one program for all tests."""
    block = score_mod(scores[BLOCK], jnp.asarray(ROWS), jnp.asarray(COLUMNS))
    places = [jax.tree.map(jnp.asarray, place) for place in PLACES]
    placed = [at(score_mod, *place, 2)(scores, *INDEX) for place in places]
    return score_mod(scores, *INDEX), block, placed


@jit
def called(score_mod, scores, query_index, key_index):
    return score_mod(scores, query_index, key_index)


def test_a_score_mod_is_its_equation(case):
    scores = normal(1, *SHAPE, scale=3.0)
    expected = loops(case[1], scores)
    whole, block, _ = modified(as_score_mod(case[0]), scores)
    assert_same(whole, expected)
    assert_same(block, expected[BLOCK])


def test_positions(case):
    scores = normal(1, *SHAPE, scale=3.0)
    *_, placed = modified(as_score_mod(case[0]), scores)
    for (queries, keys), actual in zip(PLACES, placed, strict=True):
        every = [
            np.broadcast_to(np.arange(size) if a is None else a, (BATCH, size))
            for a, size in ((queries, QUERIES), (keys, KEYS))
        ]
        assert_same(actual, loops(case[1], scores, *every))


def test_positions_of_a_block():
    scores = normal(1, BATCH, HEADS, 2, 3)
    score_mod = at(as_score_mod(scaled), jnp.asarray(QUERY_AT), jnp.asarray(KEY_AT), 2)
    block = called(score_mod, scores, ROWS, COLUMNS)
    expected = loops(CASES["function"][1], scores, QUERY_AT[:, ROWS], KEY_AT[:, COLUMNS])
    assert_same(block, expected)


def test_without_positions_a_score_mod_stays_as_it_is():
    score_mod = as_score_mod(scaled)
    assert at(score_mod, None, None, 2) is score_mod
    assert at(None, *INDEX, 2) is None
    assert as_score_mod(None) is None
    assert as_score_mod(score_mod) is score_mod
    located = at(score_mod, *INDEX, 2)
    assert as_score_mod(located) is located


def test_a_masked_score_stays_masked(case):
    scores = np.array(normal(1, *SHAPE))
    scores[1, 2, 3, 4] = scores[:, :, 1, :] = -np.inf
    masked = scores == -np.inf

    @jit
    def program(score_mod, scores):
        def loss(score_mod, scores):
            modified = score_mod(scores, *INDEX)
            return jnp.sum(jnp.where(modified > -jnp.inf, modified, 0.0)), modified

        return jax.grad(loss, (0, 1), allow_int=True, has_aux=True)(score_mod, scores)

    gradients, modified = program(as_score_mod(case[0]), scores)
    assert (np.asarray(modified)[masked] == -np.inf).all()
    expected = np.where(masked, -np.inf, loops(case[1], np.where(masked, 1.0, scores)))
    assert_same(modified, expected)
    for gradient in jax.tree.leaves(gradients):
        if gradient.dtype != jax.dtypes.float0:
            assert np.isfinite(gradient).all()


def test_a_score_that_is_not_a_number_is_not_hidden():
    scores = np.array(normal(1, *SHAPE))
    scores[1, 2, 3, 4] = np.nan
    capped = np.asarray(called(as_score_mod(SoftCap(2.0)), scores, *INDEX))
    assert np.isnan(capped[1, 2, 3, 4])
    assert np.isnan(capped).sum() == 1


# Derivatives


def test_the_gradients_of_scores_and_parameters():
    scores, weights = normal(1, *SHAPE), normal(2, *SHAPE)

    def loss(score_mods, scores):
        for score_mod in score_mods:
            scores = as_score_mod(score_mod)(scores, *INDEX)
        return jnp.sum(weights * scores)

    made = with_heads(Temperature), LogLength(0.4)
    by_mods, by_scores = jit(jax.grad(loss, (0, 1)))(made, scores)
    s, w = np.asarray(scores, np.float64), np.asarray(weights, np.float64)
    factor = np.log(np.arange(QUERIES) + 1.0)[:, None] / OF_HEADS[:, None, None]
    assert_close(by_scores, 0.4 * w * factor)
    of_temperature = -(0.4 * w * factor * s).sum(axis=(0, 2, 3))
    assert_close(by_mods[0].log_temperature[...], of_temperature)
    assert_close(by_mods[1].scale[...], (w * factor * s).sum())


def test_the_gradient_of_what_a_function_has_closed_over():
    scores, weights = normal(1, *SHAPE), normal(2, *SHAPE)
    ids = jnp.asarray([2, 0, 1, 1, 0, 2, 2])

    @jax.jit
    def loss(table, ids):
        def factor(score, i, j):
            return score * table[ids[j]]

        return jnp.sum(weights * in_blocks(as_score_mod(factor), scores))

    def in_blocks(score_mod, scores):
        # Traced once more, in a loop and for the backward pass.
        @jax.checkpoint
        def turn(i):
            return score_mod(scores[:, :, i][:, :, None], i[None], INDEX[1])[:, :, 0]

        return jnp.moveaxis(jax.lax.map(turn, INDEX[0]), 0, 2)

    gradient = jax.grad(loss)(normal(5, 3), ids)
    expected = np.zeros(3)
    for b, h, i, j in np.ndindex(SHAPE):
        expected[int(ids[j])] += float(weights[b, h, i, j]) * float(scores[b, h, i, j])
    assert_close(gradient, expected)


def test_scores_in_64_bits_keep_them():
    with jax.enable_x64(True):
        scores = np.random.default_rng(0).standard_normal(SHAPE)
        for score_mod in (lambda s, i, j: s / 3.0, SoftCap(2.0), Temperature(3.0), LogLength(3.0)):
            assert called(as_score_mod(score_mod), scores, *INDEX).dtype == jnp.float64
        third = as_score_mod(lambda s, i, j: s / 3.0)
        np.testing.assert_allclose(called(third, scores, *INDEX), scores / 3, rtol=1e-15)
        assert called(third, scores.astype(np.float32), *INDEX).dtype == jnp.float32


def test_scores_of_other_axes():
    scores = np.asarray(normal(1, *SHAPE))
    expected = loops(CASES["function"][1], scores)
    assert_same(called(as_score_mod(scaled), scores[1, 2], *INDEX), expected[1, 2])
    assert_same(called(as_score_mod(scaled), scores[1], *INDEX), expected[1])
    assert_same(
        called(as_score_mod(with_heads(Temperature)), scores[1], *INDEX),
        loops(CASES["temperatures"][1], scores)[1],
    )


def test_no_query_and_no_key():
    for name in ("function", "soft cap", "temperatures"):
        score_mod = as_score_mod(CASES[name][0])
        queries, keys = np.arange(QUERIES), np.arange(KEYS)
        scores = np.zeros(SHAPE, np.float32)
        assert called(score_mod, scores[:, :, :0], queries[:0], keys).size == 0
        assert called(score_mod, scores[..., :0], queries, keys[:0]).size == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("soft_cap", r"^score_mod='soft_cap' is no score mod: choose a function"),
        (lambda s, i: s, r"^score_mod=<lambda> must take \(score, i, j\), and takes \(s, i\)$"),
        (lambda s, b, h, i, j: s, r"must take \(score, i, j\), and takes \(s, b, h, i, j\)$"),
        (lambda s, i, j: s > 0, r"^score_mod=<lambda> must return real numbers, got bool$"),
        (lambda s, i, j: jnp.asarray(1j), r"must return real numbers, got complex64$"),
        (lambda s, i, j: jnp.stack([s, s]), r"^score_mod=<lambda> must return one score"),
        (lambda s, i, j: s * i[None, None, :, None].astype(s.dtype), r"must return one score, sh"),
        (lambda s, i, j: s if s > 0 else 0.0, r"^score_mod=<lambda> is traced: .* jnp.where"),
        (
            jax.tree_util.Partial(lambda w, s, i, j: jnp.stack([s, s]), jnp.asarray(1.0)),
            r"^score_mod=Partial must return one score, .* it returned shape \(2, 1, 1, 2, 3\)$",
        ),
    ],
)  # fmt: skip
def test_what_is_no_score_mod_is_refused(given, message):
    with refused(message):
        as_score_mod(given)


@pytest.mark.parametrize("cap", [0.0, -1.0, np.inf, np.nan])
def test_a_cap_that_is_none_is_refused(cap):
    with refused(r"SoftCap\(cap=.*\): must be above 0 and finite"):
        SoftCap(cap)


def test_numbers_of_other_heads_are_refused():
    score_mod = as_score_mod(with_heads(Temperature))
    with refused(
        r"^score_mod=Temperature returned scores of shape \(2, 3, 5, 7\) for .* \(2, 1, 5, 7"
    ):
        score_mod(jnp.ones((BATCH, 1, QUERIES, KEYS)), *INDEX)
