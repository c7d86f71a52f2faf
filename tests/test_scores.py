import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from oracles import (
    EQUATIONS,
    KEY_DIM,
    KEYS,
    OWN,
    QUERIES,
    QUERY_DIM,
    Distance,
    Gated,
    assert_close,
    dims,
    double_vmap,
    make_score,
    nearby,
    normal,
    overlap,
    pairs,
    parameters,
)

from attention import MLP, SCORES, Bilinear, Cosine, Dot, Linear, ScaledDot, Score, form_of
from attention.scores import find_score, score_options

pytestmark = pytest.mark.usefixtures("strict")


def problem(name):
    """Score, queries and keys."""
    query_dim, key_dim = dims(name)
    if name == "pytree":
        _, queries, keys = problem("function")
        queries = {"x": queries, "position": jnp.linspace(0.0, 1.0, QUERIES)}
        return nearby, queries, {"x": keys, "position": jnp.linspace(-1.0, 2.0, KEYS)}
    return make_score(name), normal(1, QUERIES, query_dim), normal(2, KEYS, key_dim)


# The equations


@pytest.mark.parametrize("name", SCORES)
def test_score_is_its_equation(name):
    score, queries, keys = problem(name)
    own = parameters(score)
    expected = pairs(lambda query, key: EQUATIONS[name](own, query, key), queries, keys)
    assert_close(jax.jit(double_vmap(score))(queries, keys), expected, tolerance=2e-6)


def of(score, **values):
    """The score with these parameters."""
    for name, value in values.items():
        getattr(score, name)[...] = jnp.asarray(value, jnp.float32)
    return score


@pytest.mark.parametrize(
    ("score", "values", "query", "key", "expected"),
    [
        # 1·3 + 2·4
        (Linear, {"weight": [1, 2]}, [7], [3, 4], 11.0),
        # units 0.5·1 + 0.25·2 − 1 = 0 and −1·1 + 0.5·2 + 1 = 1; 2·tanh 0 + 3·tanh 1
        (
            lambda *sizes, rngs: MLP(*sizes, hidden=2, rngs=rngs),
            {
                "query_weight": [[0.5, -1]],
                "key_weight": [[0.25, 0.5]],
                "bias": [-1, 1],
                "readout": [2, 3],
            },
            [1],
            [2],
            2.2847825,
        ),
        # [1, 2] W = [9, 12, 15]; 9·1 + 12·0 − 15·1
        (Bilinear, {"weight": [[1, 2, 3], [4, 5, 6]]}, [1, 2], [1, 0, -1], -6.0),
        # 1·3 + 2·4
        (Dot, {}, [1, 2], [3, 4], 11.0),
        # (1 + 2 + 3 + 4) / √4
        (ScaledDot, {}, [1, 2, 3, 4], [1, 1, 1, 1], 5.0),
        # 10 · (3·4 + 4·3) / (5·5)
        (Cosine, {"sharpness": 10}, [3, 4], [4, 3], 9.6),
    ],
    ids=SCORES,
)
def test_score_computed_by_hand(score, values, query, key, expected):
    made = of(score(len(query), len(key), rngs=nnx.Rngs(0)), **values)
    actual = made(jnp.asarray(query, jnp.float32), jnp.asarray(key, jnp.float32))
    assert actual.shape == ()
    assert float(actual) == pytest.approx(expected, rel=1e-6)


# The one law


@pytest.mark.parametrize("name", [*SCORES, *OWN, "pytree"])
def test_form_is_the_double_vmap_in_value_and_gradient(name):
    score, queries, keys = problem(name)
    is_module = isinstance(score, nnx.Module)
    graph, state = nnx.split(score) if is_module else (None, nnx.State({}))
    merged = (lambda state: nnx.merge(graph, state)) if is_module else (lambda state: score)

    @jax.jit
    def both(*args):
        by_form = jax.vjp(lambda s, q, k: form_of(merged(s), q, k).scores(), *args)
        by_vmap = jax.vjp(lambda s, q, k: double_vmap(merged(s))(q, k), *args)
        cotangent = normal(3, QUERIES, KEYS)
        return [(scores, pullback(cotangent)) for scores, pullback in (by_form, by_vmap)]

    (scores, gradients), expected = both(state, queries, keys)
    assert scores.shape == (QUERIES, KEYS)
    assert any(jnp.any(leaf != 0) for leaf in jax.tree.leaves(gradients))
    assert_close((scores, gradients), expected)


def test_a_score_without_equation_says_so():
    with pytest.raises(NotImplementedError, match="Score must define __call__"):
        Score()(jnp.ones(2), jnp.ones(2))


# Particular scores


def test_linear_ignores_the_query():
    score, queries, keys = problem("linear")
    gradient = jax.grad(lambda queries: jnp.sum(double_vmap(score)(queries, keys)))(queries)
    assert not jnp.any(gradient)


@pytest.mark.parametrize("zero", ["query", "key"])
def test_cosine_with_a_zero_vector_is_zero_in_value_and_gradient(zero):
    score = Cosine(QUERY_DIM, QUERY_DIM, rngs=nnx.Rngs(0))
    query, key = normal(1, QUERY_DIM), normal(2, QUERY_DIM)
    query, key = (jnp.zeros_like(query), key) if zero == "query" else (query, jnp.zeros_like(key))
    value, gradients = jax.value_and_grad(lambda *args: score(*args), argnums=(0, 1))(query, key)
    assert value == 0
    assert_close(gradients, (jnp.zeros(QUERY_DIM), jnp.zeros(QUERY_DIM)), tolerance=0)


def test_cosine_ignores_lengths():
    score, queries, keys = problem("cosine")
    stretched = double_vmap(score)(7.0 * queries, keys / 3.0)
    assert_close(stretched, double_vmap(score)(queries, keys))


@pytest.mark.parametrize("name", ["dot", "scaled_dot", "cosine"])
def test_sizes_that_must_agree(name):
    with pytest.raises(ValueError, match=r"needs query_dim == key_dim, got 11 and 13"):
        SCORES[name](QUERY_DIM, KEY_DIM, rngs=nnx.Rngs(0))


def test_options_reach_the_parameters():
    assert MLP(QUERY_DIM, KEY_DIM, hidden=3, rngs=nnx.Rngs(0)).readout.shape == (3,)
    assert Cosine(QUERY_DIM, QUERY_DIM, sharpness=5.0, rngs=nnx.Rngs(0)).sharpness[...] == 5


@pytest.mark.parametrize("name", ["linear", "mlp", "bilinear"])
def test_rngs_decide_the_parameters(name):
    first, same, other = (
        jax.tree.leaves(SCORES[name](*dims(name), rngs=nnx.Rngs(seed))) for seed in (0, 0, 1)
    )
    assert_close(first, same, tolerance=0)
    assert any(jnp.any(a != b) for a, b in zip(first, other, strict=True))


# Names


@pytest.mark.parametrize("name", SCORES)
def test_find_score_knows_the_names(name):
    assert find_score(name) is SCORES[name]


@pytest.mark.parametrize(
    ("path", "expected"), [("oracles:Distance", Distance), ("oracles:overlap", overlap)]
)
def test_find_score_follows_a_path(path, expected):
    assert find_score(path) is expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cosin", r"'cosin' is not a score; choose linear, .*cosine or a path module:Name"),
        ("nowhere.scores:Mine", r"'nowhere.scores:Mine' cannot be imported: .*nowhere"),
        ("oracles:Nothing", r"'oracles:Nothing' cannot be imported: .*Nothing"),
        (":Mine", r"':Mine' cannot be imported"),
        (".scores:Mine", r"'.scores:Mine' cannot be imported"),
        ("oracles:KEYS", r"'oracles:KEYS' is a int, not a score class or function"),
    ],
)
def test_find_score_explains_what_it_cannot_find(name, message):
    with pytest.raises(ValueError, match=message):
        find_score(name)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (Linear, {}),
        (MLP, {"hidden": 64}),
        (Cosine, {"sharpness": 8.0}),
        (Distance, {"sharpness": 2.0, "power": 2}),
        (Gated, {}),
        (overlap, {}),
    ],
)
def test_score_options_are_the_keyword_arguments_with_a_default(score, expected):
    assert score_options(score) == expected
