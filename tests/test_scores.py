import functools

import jax
import jax.numpy as jnp
import numpy as np
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
    arrays_in,
    assert_close,
    dims,
    double_vmap,
    jit,
    make_score,
    nearby,
    normal,
    overlap,
    pairs,
    parameters,
    randomized,
    refused,
)

from attention import (
    MLP,
    RBF,
    SCORES,
    Bilinear,
    Cosine,
    Dot,
    GATv2,
    Linear,
    MLPPooling,
    ScaledDot,
    Score,
    Trilinear,
    Uniform,
    form_of,
)
from attention.scores import find_score

pytestmark = pytest.mark.usefixtures("strict")


def problem(name):
    """Score, queries and keys."""
    query_dim, key_dim = dims(name)
    if name == "pytree":
        _, queries, keys = problem("function")
        queries = {"x": queries, "position": jnp.linspace(0.0, 1.0, QUERIES)}
        return nearby, queries, {"x": keys, "position": jnp.linspace(-1.0, 2.0, KEYS)}
    return make_score(name), normal(1, QUERIES, query_dim), normal(2, KEYS, key_dim)


@functools.cache
def by_form_and_by_vmap(name):
    """All scores, and the gradient of a random functional of them, made in two ways."""
    score, queries, keys = problem(name)
    is_module = isinstance(score, nnx.Module)
    graph, state = nnx.split(score) if is_module else (None, nnx.State({}))
    merged = (lambda state: nnx.merge(graph, state)) if is_module else (lambda state: score)

    @jit
    def both(*args):
        by_form = jax.vjp(lambda s, q, k: form_of(merged(s), q, k).scores(), *args)
        by_vmap = jax.vjp(lambda s, q, k: double_vmap(merged(s))(q, k), *args)
        cotangent = normal(3, QUERIES, KEYS)
        return [(scores, pullback(cotangent)) for scores, pullback in (by_form, by_vmap)]

    return both(state, queries, keys)


# The equations


@pytest.mark.parametrize("name", SCORES)
def test_score_is_its_equation(name):
    score, queries, keys = problem(name)
    own = parameters(score)
    expected = pairs(lambda query, key: EQUATIONS[name](own, query, key), queries, keys)
    _, (scores, _) = by_form_and_by_vmap(name)
    assert_close(scores, expected, tolerance=2e-6)


@pytest.mark.parametrize(
    ("score", "values", "query", "key", "expected"),
    [
        (Uniform, {}, [7], [3, 4], 0.0),
        # 1·3 + 2·4
        (Linear, {"weight": [1, 2]}, [7], [3, 4], 11.0),
        # units 2·0.5 − 1 = 0 and 2·0.25 + 0.5 = 1; 2·tanh 0 + 3·tanh 1
        (
            lambda *sizes, rngs: MLPPooling(*sizes, hidden=2, rngs=rngs),
            {"key_weight": [[0.5, 0.25]], "bias": [-1, 0.5], "readout": [2, 3]},
            [7],
            [2],
            2.2847825,
        ),
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
        # units 0.5·1 − 2·2 + 1 = −2.5 and 1·1 + 0.5·2 = 2; 2·(−0.5) + 3·2
        (
            lambda *sizes, rngs: GATv2(*sizes, hidden=2, rngs=rngs),
            {
                "query_weight": [[0.5, 1]],
                "key_weight": [[-2, 0.5]],
                "bias": [1, 0],
                "readout": [2, 3],
            },
            [1],
            [2],
            5.0,
        ),
        # [1, 2] W = [9, 12, 15]; 9·1 + 12·0 − 15·1
        (Bilinear, {"weight": [[1, 2, 3], [4, 5, 6]]}, [1, 2], [1, 0, -1], -6.0),
        # 1·3 + 2·4
        (Dot, {}, [1, 2], [3, 4], 11.0),
        # (1 + 2 + 3 + 4) / √4
        (ScaledDot, {}, [1, 2, 3, 4], [1, 1, 1, 1], 5.0),
        # 10 · (3·4 + 4·3) / (5·5)
        (Cosine, {"sharpness": 10}, [3, 4], [4, 3], 9.6),
        # −2 · (2² + 1²)
        (RBF, {"log_gamma": 0.6931472}, [3, 4], [1, 3], -10.0),
        # (1·2 + 2·3) + (3·1 + 4·1) + (1·3·5 + 2·4·7)
        (
            Trilinear,
            {"query_weight": [2, 3], "key_weight": [1, 1], "weight": [5, 7]},
            [1, 2],
            [3, 4],
            86.0,
        ),
    ],
    ids=SCORES,
)
def test_score_computed_by_hand(score, values, query, key, expected):
    made = randomized(lambda: score(len(query), len(key), rngs=nnx.Rngs(0)))
    for name, value in values.items():
        getattr(made, name)[...] = jnp.asarray(value, jnp.float32)
    actual = jit(made)(jnp.asarray(query, jnp.float32), jnp.asarray(key, jnp.float32))
    assert actual.shape == ()
    assert float(actual) == pytest.approx(expected, rel=1e-6)


# The one law


@pytest.mark.parametrize("name", [*SCORES, *OWN, "pytree"])
def test_form_is_the_double_vmap_in_value_and_gradient(name):
    (scores, gradients), expected = by_form_and_by_vmap(name)
    assert any(np.any(leaf) for leaf in arrays_in(gradients)) == (name != "uniform")
    assert_close((scores, gradients), expected)


def test_a_score_without_equation_says_so():
    with pytest.raises(NotImplementedError, match="Score must define __call__"):
        Score()(jnp.ones(2), jnp.ones(2))


# Particular scores


def test_linear_ignores_the_query():
    _, (_, (_, by_query, by_key)) = by_form_and_by_vmap("linear")
    assert not np.any(by_query)
    assert np.all(by_key)


@pytest.mark.parametrize("zero", ["query", "key"])
def test_cosine_with_a_zero_vector_is_zero_in_value_and_gradient(zero):
    score = make_score("cosine")
    query, key = normal(1, QUERY_DIM), normal(2, QUERY_DIM)
    query, key = (jnp.zeros_like(query), key) if zero == "query" else (query, jnp.zeros_like(key))
    value, gradients = jit(jax.value_and_grad(score, argnums=(0, 1)))(query, key)
    assert value == 0
    assert_close(gradients, (jnp.zeros(QUERY_DIM), jnp.zeros(QUERY_DIM)), tolerance=0)


def test_cosine_ignores_lengths():
    score, queries, keys = problem("cosine")
    stretched = jit(double_vmap(score))(7.0 * queries, keys / 3.0)
    _, (scores, _) = by_form_and_by_vmap("cosine")
    assert_close(stretched, scores)


@pytest.mark.parametrize("name", ["dot", "scaled_dot", "cosine", "rbf", "trilinear"])
def test_sizes_that_must_agree(name):
    with pytest.raises(ValueError, match=r"needs query_dim == key_dim, got 11 and 13"):
        SCORES[name](QUERY_DIM, KEY_DIM, rngs=nnx.Rngs(0))


def test_options_reach_the_parameters():
    mlp = jax.eval_shape(lambda: MLP(QUERY_DIM, KEY_DIM, hidden=3, rngs=nnx.Rngs(0)))
    assert mlp.readout.shape == (3,)
    assert Cosine(QUERY_DIM, QUERY_DIM, sharpness=5.0, rngs=nnx.Rngs(0)).sharpness[...] == 5


@pytest.mark.parametrize("hidden", [0, -5, 2**31, 2.5, True, "many"])
@pytest.mark.parametrize("score", [MLP, MLPPooling, GATv2])
def test_a_number_of_hidden_units_is_a_whole_number_from_one(score, hidden):
    with refused(rf"^hidden={hidden!r}: must be a whole number from 1 to 2147483647$"):
        score(QUERY_DIM, KEY_DIM, hidden=hidden, rngs=nnx.Rngs(0))


def test_the_width_of_a_kernel_must_be_positive():
    with refused("gamma=0.0: must be positive"):
        RBF(QUERY_DIM, QUERY_DIM, gamma=0.0, rngs=nnx.Rngs(0))


def test_distances_far_from_the_origin_keep_their_digits():
    score = RBF(QUERY_DIM, QUERY_DIM, rngs=nnx.Rngs(0))
    queries, keys = normal(1, QUERIES, QUERY_DIM), normal(2, KEYS, QUERY_DIM)
    near, far = (score.form(queries + c, keys + c).scores() for c in (0.0, 1000.0))
    assert_close(far, near, tolerance=1e-3)


@functools.cache
def initial(name, seed):
    """A score with its own initial parameters."""
    return jit(lambda: SCORES[name](*dims(name), rngs=nnx.Rngs(seed)))()


@pytest.mark.parametrize("name", ["linear", "mlp_pooling", "mlp", "bilinear", "trilinear"])
def test_rngs_decide_the_parameters(name):
    first, other = arrays_in(initial(name, 0)), arrays_in(initial(name, 1))
    assert any(np.any(a != b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("name", ["linear", "mlp", "bilinear"])
def test_scores_of_random_vectors_begin_neither_flat_nor_saturated(name):
    queries, keys = normal(1, 64, QUERY_DIM), normal(2, 64, KEY_DIM)
    assert 0.3 < np.std(jit(double_vmap(initial(name, 0)))(queries, keys)) < 6


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
        ("cosin", r"'cosin'.* choose uniform, .*trilinear or a path module:Name"),
        ("nowhere.scores:Mine", r"'nowhere.scores:Mine' cannot be imported: .*nowhere"),
        ("oracles:Nothing", r"'oracles:Nothing' cannot be imported: .*Nothing"),
        (":Mine", r"':Mine' cannot be imported"),
        (".scores:Mine", r"'.scores:Mine' cannot be imported"),
        ("oracles:KEYS", r"'oracles:KEYS' is a int, not a "),
    ],
)
def test_find_score_explains_what_it_cannot_find(name, message):
    with pytest.raises(ValueError, match=message):
        find_score(name)
