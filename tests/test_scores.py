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
from attention.scores import check_score, find_score

pytestmark = pytest.mark.usefixtures("strict")


def problem(name):
    """Score, queries and keys."""
    query_dim, key_dim = dims(name)
    if name == "pytree":
        _, queries, keys = problem("function")
        queries = {"x": queries, "position": jnp.linspace(0.0, 1.0, QUERIES)}
        return nearby, queries, {"x": keys, "position": jnp.linspace(-1.0, 2.0, KEYS)}
    return make_score(name), normal(1, QUERIES, query_dim), normal(2, KEYS, key_dim)


def call(score, query, key):
    return score(query, key)


def as_numpy(tree):
    return jax.tree.map(np.asarray, tree)


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
        getattr(made, name)[...] = jax.device_put(np.float32(value))
    actual = jit(call)(made, np.float32(query), np.float32(key))
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


@jit
def value_and_gradients(score, query, key):
    return jax.value_and_grad(score, argnums=(0, 1))(query, key)


@pytest.mark.parametrize("zero", ["query", "key"])
def test_cosine_with_a_zero_vector_is_zero_in_value_and_gradient(zero):
    score = make_score("cosine")
    vectors = {"query": normal(1, QUERY_DIM), "key": normal(2, QUERY_DIM)}
    vectors[zero] = np.zeros(QUERY_DIM, np.float32)
    value, gradients = value_and_gradients(score, *vectors.values())
    assert value == 0
    assert_close(gradients, (np.zeros(QUERY_DIM), np.zeros(QUERY_DIM)), tolerance=0)


def test_cosine_ignores_lengths():
    score, queries, keys = problem("cosine")
    stretched = jit(double_vmap(score))(7 * np.asarray(queries), np.asarray(keys) / 3)
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


@pytest.mark.parametrize("score", [MLP, GATv2, MLPPooling])
def test_there_are_64_hidden_units_unless_told(score):
    made = jax.eval_shape(lambda: score(QUERY_DIM, KEY_DIM, rngs=nnx.Rngs(0)))
    assert made.readout.shape == (64,)


@pytest.mark.parametrize("hidden", [0, -5, 2**31, 2.5, True, "many"])
@pytest.mark.parametrize("score", [MLP, MLPPooling, GATv2])
def test_a_number_of_hidden_units_is_a_whole_number_from_one(score, hidden):
    with refused(rf"^hidden={hidden!r}: must be a whole number from 1 to 2147483647$"):
        score(QUERY_DIM, KEY_DIM, hidden=hidden, rngs=nnx.Rngs(0))


def test_the_width_of_a_kernel_must_be_positive():
    with refused("gamma=0.0: must be positive"):
        RBF(QUERY_DIM, QUERY_DIM, gamma=0.0, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("centered", [False, True])
def test_distances_far_from_the_origin_keep_their_digits(centered):
    score = RBF(QUERY_DIM, QUERY_DIM, rngs=nnx.Rngs(0))
    arrays = as_numpy((normal(1, QUERIES, QUERY_DIM), normal(2, KEYS, QUERY_DIM)))

    @jit
    def scores(queries, keys):
        form = score.form(queries, keys)
        return (form.centered(None) if centered else form).scores()

    near, far = (scores(*(array + c for array in arrays)) for c in np.float32([0, 1000]))
    assert_close(far, near, tolerance=1e-3)


@functools.cache
def initial(name):
    """A score with its own initial parameters, for two seeds."""
    program = jit(lambda key: SCORES[name](*dims(name), rngs=nnx.Rngs(key)))
    return [program(jax.random.key(seed)) for seed in (0, 1)]


@pytest.mark.parametrize("name", ["linear", "mlp_pooling", "mlp", "bilinear", "trilinear"])
def test_rngs_decide_the_parameters(name):
    first, other = map(arrays_in, initial(name))
    assert any(np.any(a != b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("name", ["linear", "mlp", "bilinear"])
def test_scores_of_random_vectors_begin_neither_flat_nor_saturated(name):
    queries, keys = normal(1, 64, QUERY_DIM), normal(2, 64, KEY_DIM)
    assert 0.3 < np.std(jit(double_vmap(initial(name)[0]))(queries, keys)) < 6


# Half precision

# Of the greatest score: sums are float32, and rounded are the features of inner products alone.
ROUNDED = {"bilinear", "scaled_dot", "cosine", "trilinear"}
TOLERANCES = {jnp.float16: 2e-3, jnp.bfloat16: 1.6e-2}


@jit
def scores_in_two_ways(score, queries, keys):
    return form_of(score, queries, keys).scores(), double_vmap(score)(queries, keys)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("parameter_dtype", ["half", "float32"])
def test_vectors_of_half_precision_get_scores_of_float32(name, dtype, parameter_dtype):
    """At 300 their squares overflow float16, and so do sums of their products."""
    score, queries, keys = as_numpy(problem(name))
    if parameter_dtype == "half":
        score = jax.tree.map(lambda leaf: leaf.astype(dtype), score)
    own = parameters(score)
    for scale in (1.0, 300.0):
        q, k = ((scale * vectors).astype(dtype) for vectors in (queries, keys))
        expected = pairs(lambda query, key: EQUATIONS[name](own, query, key), q, k)
        greatest = np.max(np.abs(expected))
        for scores in scores_in_two_ways(score, q, k):
            assert scores.dtype == jnp.float32
            tolerance = TOLERANCES[dtype] if name in ROUNDED else 1e-5
            atol = tolerance * max(1e-9, greatest)
            np.testing.assert_allclose(scores, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("name", sorted(ROUNDED | {"dot"}))
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_features_keep_a_dtype_that_kernels_of_a_platform_take(name, dtype):
    halves = jax.tree.map(lambda leaf: leaf.astype(dtype), as_numpy(problem(name)))

    def vectors(*halves):
        form = form_of(*halves)
        return form.queries, form.keys

    queries, keys = jax.eval_shape(vectors, *halves)
    assert queries.dtype == keys.dtype == dtype


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_gamma_is_not_rounded_to_half_precision(dtype):
    score = as_numpy(RBF(2, 2, gamma=0.3, rngs=nnx.Rngs(0)))
    score = jax.tree.map(lambda leaf: leaf.astype(dtype), score)
    expected = -5000 * np.exp(np.float64(score.log_gamma[...]))
    actual = jit(call)(score, np.zeros(2, dtype), np.full(2, 50, dtype))
    assert float(actual) == pytest.approx(expected)


# State


class Normed(Score):
    """A score with layers that change nothing."""

    def __init__(self, query_dim, key_dim, *, rngs):
        self.norm = nnx.LayerNorm(query_dim, rngs=rngs)
        self.linear = nnx.Linear(query_dim, key_dim, rngs=rngs)
        self.constant = nnx.Variable(jnp.ones(()))


class Dropping(Normed):
    def __init__(self, query_dim, key_dim, *, rngs):
        super().__init__(query_dim, key_dim, rngs=rngs)
        self.layers = nnx.List([nnx.Dropout(0.5, rngs=rngs)])


class Drawing(Normed):
    def __init__(self, query_dim, key_dim, *, rngs):
        super().__init__(query_dim, key_dim, rngs=rngs)
        self.rngs = rngs


class Counting(Normed):
    def __init__(self, query_dim, key_dim, *, rngs):
        super().__init__(query_dim, key_dim, rngs=rngs)
        self.norm = nnx.BatchNorm(query_dim, rngs=rngs)


def of_heads(score):
    """As a layer makes it: the scores of its heads are one module."""
    return jax.vmap(lambda key: score(QUERY_DIM, QUERY_DIM, rngs=nnx.Rngs(key)))(
        jax.random.split(jax.random.key(0), 3)
    )


@pytest.mark.parametrize("score", [*SCORES.values(), Normed])
def test_a_score_without_state_is_taken(score):
    check_score(jax.eval_shape(lambda: of_heads(score)))


def test_a_plain_function_has_no_state():
    check_score(overlap)


@pytest.mark.parametrize(
    ("score", "what"),
    [
        (Dropping, r"random state, layers\.0\.rngs\.count \(RngCount\), .* is dropout_rate= of"),
        (Drawing, r"random state, rngs\.\S+ \(RngCount\), .* is dropout_rate= of the layer"),
        (Counting, r"running statistics, norm\.mean \(BatchStat\), .*; nnx\.LayerNorm and"),
    ],
)
def test_a_score_with_state_is_refused_in_words(score, what):
    with refused(rf"^the score {score.__name__} holds {what}"):
        check_score(jax.eval_shape(lambda: of_heads(score)))


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
