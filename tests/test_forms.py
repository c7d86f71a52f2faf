import dataclasses
import functools
import operator
import re

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx
from oracles import (
    FORMS,
    KEY_DIM,
    KEYS,
    QUERIES,
    QUERY_DIM,
    assert_close,
    jit,
    loop_scores,
    make_form,
    make_score,
    normal,
    overlap,
    pairs,
    refused,
)

from attention import Additive, InnerProduct, KeyOnly, Pairwise, Score, attend, form_of, masks
from attention.forms import SquaredDistance, accumulator, product
from attention.scores import Dot

pytestmark = pytest.mark.usefixtures("strict")

HALVES = [jnp.float16, jnp.bfloat16]
HALF = jnp.float32(0.5)
ALL_FORMS = [*FORMS, SquaredDistance]


def make(kind, lead=()):
    """A form of one kind, as `make_form` makes it."""
    if kind is not SquaredDistance:
        return make_form(kind, lead)
    queries, keys = normal(1, *lead, QUERIES, QUERY_DIM), normal(2, *lead, KEYS, QUERY_DIM)
    return SquaredDistance(queries, keys, jnp.abs(normal(3, *lead)))


def loop(form, at=()):
    """The scores of a form, as `loop_scores` computes them."""
    if not isinstance(form, SquaredDistance):
        return loop_scores(form, at)
    queries, keys, gamma = (np.asarray(leaf, np.float64)[at] for leaf in jax.tree.leaves(form))
    return pairs(lambda q, k: -gamma * sum((q - k) ** 2), queries, keys)


def softmax(scores):
    weights = np.exp(scores - np.max(scores, axis=-1, keepdims=True))
    return weights / np.sum(weights, axis=-1, keepdims=True)


def as_numbers(tree):
    """A tree in float64: to compare what differs in dtype."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


@pytest.mark.parametrize("kind", ALL_FORMS)
def test_scores_are_the_equation(kind):
    form = make(kind)
    scores = jit(kind.scores)(form)
    assert scores.shape == (QUERIES, KEYS)
    assert_close(scores, loop(form), tolerance=2e-6)


@pytest.mark.parametrize("absent", [["query_bias"], ["key_bias"], ["query_bias", "key_bias"]])
def test_biases_of_an_inner_product_are_optional(absent):
    form = dataclasses.replace(make_form(InnerProduct), **dict.fromkeys(absent))
    assert_close(jit(InnerProduct.scores)(form), loop_scores(form), tolerance=2e-6)


def test_additive_takes_another_activation():
    form = dataclasses.replace(make_form(Additive), activation=jnp.cos)
    readout = np.asarray(form.readout, np.float64)
    expected = pairs(lambda q, k: np.sum(np.cos(q + k) * readout), form.queries, form.keys)
    assert_close(jit(Additive.scores)(form), expected)


@pytest.mark.parametrize("kind", ALL_FORMS)
def test_vmap_adds_an_axis_in_front_of_every_leaf(kind):
    form = make(kind, lead=(3,))
    scores = jit(jax.vmap(kind.scores))(form)
    assert_close(scores, np.stack([loop(form, at) for at in range(3)]))


@pytest.mark.parametrize("kind", ALL_FORMS)
def test_forms_are_frozen(kind):
    form = make(kind)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(form, dataclasses.fields(form)[0].name, None)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("linear", KeyOnly),
        ("mlp", Additive),
        ("bilinear", InnerProduct),
        ("dot", InnerProduct),
        ("scaled_dot", InnerProduct),
        ("cosine", InnerProduct),
        ("module", Pairwise),
        ("subclass", Pairwise),
        ("function", Pairwise),
    ],
)
def test_form_of_keeps_what_the_score_promises(name, kind):
    queries = normal(1, QUERIES, QUERY_DIM)
    keys = normal(2, KEYS, QUERY_DIM if kind is InnerProduct and name != "bilinear" else KEY_DIM)
    assert type(jit(functools.partial(form_of, make_score(name)))(queries, keys)) is kind


class Scaled:
    """To be mixed with a score."""

    def __call__(self, query, key):
        return 3.0 * super().__call__(query, key)


class Turned(Scaled, Dot):
    """Of a class that promises structure, with another equation."""


class Again(Turned):
    """Of a class that promises none."""


class Structured(Turned):
    """That promises it anew."""

    def form(self, queries, keys):
        return InnerProduct(3.0 * queries, keys)


class Renamed(Structured):
    """The equation is the same."""


@pytest.mark.parametrize(
    ("score", "kind"),
    [
        (Turned, Pairwise),
        (Again, Pairwise),
        (Structured, InnerProduct),
        (Renamed, InnerProduct),
    ],
)
def test_another_equation_does_not_inherit_structure(score, kind):
    queries, keys = normal(1, QUERIES, QUERY_DIM), normal(2, KEYS, QUERY_DIM)
    form = form_of(score(QUERY_DIM, QUERY_DIM, rngs=nnx.Rngs(0)), queries, keys)
    assert type(form) is kind
    expected = 3.0 * np.asarray(queries, np.float64) @ np.asarray(keys, np.float64).T
    assert_close(jit(lambda form: form.scores())(form), expected)


def test_the_form_of_a_plain_function_enters_jit_as_an_argument():
    queries, keys = normal(1, QUERIES, QUERY_DIM), normal(2, KEYS, KEY_DIM)
    scores = jit(lambda form: form.scores())(form_of(overlap, queries, keys))

    def expected(query, key):
        return np.sin(query[0] + query[3]) * key[1] - query[2] * key[4] ** 2

    assert_close(scores, pairs(expected, queries, keys))


def test_a_function_may_close_over_what_is_differentiated():
    queries, keys = normal(1, QUERIES, QUERY_DIM), normal(2, KEYS, QUERY_DIM)

    def total(scale):
        return jnp.sum(form_of(lambda q, k: scale * (q @ k), queries, keys).scores())

    expected = np.sum(np.asarray(queries, np.float64) @ np.asarray(keys, np.float64).T)
    assert_close(jit(jax.grad(total))(2.0), expected)


def test_a_score_may_be_a_constant():
    queries, keys = normal(1, QUERIES, QUERY_DIM), normal(2, KEYS, KEY_DIM)
    scores = jit(lambda *both: form_of(lambda query, key: 2.5, *both).scores())(queries, keys)
    assert_close(scores, np.full((QUERIES, KEYS), 2.5))


def test_a_score_that_returns_a_vector_is_named_with_its_shape():
    def vectorial(query, key):
        return query * key[:QUERY_DIM]

    queries, keys = normal(1, QUERIES, QUERY_DIM), normal(2, KEYS, KEY_DIM)
    with refused(r"must return a scalar.*vectorial returned shape \(11,\)"):
        form_of(vectorial, queries, keys).scores()


# Squared distances


@jit
def centered_scores(form, reachable):
    """Of problems on any leading axes."""
    scores = operator.methodcaller("scores")
    for _ in range(form.gamma.ndim):
        scores = jax.vmap(scores)
    return scores(form.centered(reachable))


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
@pytest.mark.parametrize("reachable", ["all", "some", "some, for each"])
def test_centered_distances_are_the_same_scores(lead, reachable):
    form = make(SquaredDistance, lead)
    allowed = np.ones((*lead, KEYS), bool)
    if reachable != "all":
        allowed[..., [0, 3]] = False
    if reachable == "some, for each":
        allowed = np.random.default_rng(4).random((*lead, KEYS)) < 0.5
    told = {"all": None, "some": allowed[(*(slice(1) for _ in lead),)]}
    scores = np.asarray(centered_scores(form, told.get(reachable, allowed)))
    for at in np.ndindex(lead):
        kept = np.where(allowed[at], scores[at], 0.0)
        assert_close(kept, np.where(allowed[at], loop(form, at), 0.0), tolerance=5e-6)


def test_masked_keys_reach_neither_scores_nor_gradients():
    # The squared distances are 0 and 2: e⁰ / (e⁰ + e⁻¹).
    mask, reachable = masks.lengths(jnp.asarray(2)), jnp.arange(4) < 2
    values = jnp.eye(4, 2)

    @jit
    @functools.partial(jax.grad, has_aux=True)
    def program(keys):
        form = SquaredDistance(jnp.zeros((1, 2)), keys, HALF).centered(reachable)
        context = attend(form, values, mask=mask)[0]
        return context[0], context

    for content in (-1e4, np.inf, np.nan):
        keys = np.float32([[0, 0], [1, 1], [content, content], [content, content]])
        gradient, context = program(keys)
        assert_close(context, np.array([0.7310586, 0.2689414]), tolerance=1e-6)
        # A weight of .731 · .269 on half the gradient of the distance.
        expected = np.array([[0, 0], [0.1966119, 0.1966119], [0, 0], [0, 0]])
        assert_close(gradient, expected, tolerance=1e-6)


def moved(keys, far, content):
    keys = np.array(keys)
    keys[far] = content
    return jax.device_put(keys)


@pytest.mark.parametrize("content", [50.0, 1e4, 1e12])
@pytest.mark.parametrize("far", [slice(2, None), slice(0, 1), slice(3, 4)], ids=str)
def test_keys_that_are_far_away_cost_the_others_no_digits(content, far):
    form, near = make(SquaredDistance), np.ones(KEYS, bool)
    near[far] = False
    form = dataclasses.replace(form, keys=moved(form.keys, far, content))
    scores = centered_scores(form, None)
    assert_close(scores[:, near], loop(form)[:, near], tolerance=2e-6)
    assert np.all(scores[:, far] < -100)


@pytest.mark.parametrize("far", [slice(1, None), slice(2, None), slice(0, 1)], ids=str)
def test_keys_whose_squares_overflow_are_left_out_of_the_center(far):
    form, near = make(SquaredDistance), np.ones(KEYS, bool)
    near[far] = False
    form = dataclasses.replace(form, keys=moved(form.keys, far, 1e30))
    scores = centered_scores(form, None)
    assert_close(scores[:, near], loop(form)[:, near], tolerance=2e-6)
    assert np.all(scores[:, ~near] == -np.inf)


def test_equal_distances_of_keys_of_few_digits_stay_equal():
    keys = 32.0 * np.random.default_rng(1).choice([-1, 1], (101, 64)) + 7
    form = SquaredDistance(jnp.full((1, 64), 7, jnp.float16), jnp.asarray(keys, jnp.float16), HALF)
    scores = centered_scores(form, None)
    np.testing.assert_array_equal(scores, np.full((1, 101), -0.5 * 64 * 32**2))


@pytest.mark.parametrize("road", ["scores", "centered", "centered, some"])
def test_gradients_of_distances(road):
    form, cotangent = make(SquaredDistance), np.asarray(normal(5, QUERIES, KEYS))
    allowed = np.ones(KEYS, bool) if road != "centered, some" else np.arange(KEYS) > 2
    cotangent = np.where(allowed[None, :], cotangent, np.float32(0))

    def scores(form):
        if road == "scores":
            return form.scores()
        return form.centered(None if allowed.all() else jnp.asarray(allowed)).scores()

    (actual,) = jit(lambda form: jax.vjp(scores, form)[1](cotangent))(form)
    queries, keys, gamma, c = as_numbers([*jax.tree.leaves(form), cotangent])
    by_query, by_key, by_gamma = np.zeros_like(queries), np.zeros_like(keys), np.zeros(())
    for i, j in np.ndindex(c.shape):
        difference = queries[i] - keys[j]
        by_query[i] -= 2 * gamma * c[i, j] * difference
        by_key[j] += 2 * gamma * c[i, j] * difference
        by_gamma -= c[i, j] * np.sum(difference**2)
    assert_close(jax.tree.leaves(actual), [by_query, by_key, by_gamma], tolerance=5e-6)


@pytest.mark.parametrize("implementation", ["dense", "streaming"])
def test_a_sigmoid_of_distances_reads_the_terms_of_the_query(implementation):
    form, values = make(SquaredDistance), normal(6, KEYS, 3)
    options = {"normalizer": "sigmoid", "implementation": implementation}
    contexts = jit(lambda form: [attend(f, values, **options) for f in (form, form.centered(None))])
    expected = 1 / (1 + np.exp(-(loop(form) - np.log(KEYS)))) @ np.asarray(values, np.float64)
    assert_close(contexts(form), [expected, expected])


def test_distances_take_no_memory_of_pairs_and_features():
    form = make(SquaredDistance)
    program = str(jax.make_jaxpr(jax.grad(lambda form: jnp.sum(form.scores())))(form))
    assert f"[{QUERIES},{KEYS}]" in program
    sizes = [set(found.split(",")) for found in re.findall(r"\w+\[([\d,]+)\]", program)]
    assert not any({str(QUERIES), str(KEYS), str(QUERY_DIM)} <= size for size in sizes)


@pytest.mark.parametrize(("queries", "keys"), [(QUERIES, 0), (0, KEYS)])
@pytest.mark.parametrize("told", [True, False])
def test_there_may_be_no_keys_and_no_queries(queries, keys, told):
    form = SquaredDistance(normal(1, queries, 3), normal(2, keys, 3), jnp.float32(1))
    centered = centered_scores(form, np.zeros(keys, bool) if told else None)
    assert centered.shape == jit(SquaredDistance.scores)(form).shape == (queries, keys)


def test_where_no_key_can_be_reached_nothing_is_nan():
    form = make(SquaredDistance)
    form = dataclasses.replace(form, keys=moved(form.keys, slice(None), np.nan))
    assert np.all(np.isfinite(centered_scores(form, np.zeros(KEYS, bool))))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("entries", ["±32", "to 32"])
@pytest.mark.parametrize("gamma", [0.5, 1e-3])
def test_weights_of_distances_whose_squares_overflow_float16(dtype, entries, gamma):
    rng = np.random.default_rng(3)
    draw = {
        "±32": lambda n: rng.choice([-32, 32], (n, 64)),
        "to 32": lambda n: rng.uniform(-32, 32, (n, 64)),
    }
    queries, keys = (jax.device_put(draw[entries](n).astype(dtype)) for n in (17, 101))
    form = SquaredDistance(queries, keys, jnp.float32(gamma))
    expected = softmax(loop(form))
    for scores in (jit(SquaredDistance.scores)(form), centered_scores(form, None)):
        assert scores.dtype == jnp.float32
        np.testing.assert_allclose(softmax(np.asarray(scores)), expected, rtol=0, atol=2e-3)


# Dtypes


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ([jnp.float16], jnp.float32),
        ([jnp.bfloat16, jnp.float16], jnp.float32),
        ([jnp.float64, jnp.float16], jnp.float64),
        ([jnp.int32], jnp.float32),
        ([jnp.int64, jnp.bool_, jnp.bfloat16], jnp.float32),
        ([], jnp.float32),
    ],
)
def test_sums_are_float32_at_the_least(dtypes, expected):
    assert accumulator(*dtypes) == expected


@pytest.mark.parametrize(
    ("left", "right"),
    [(jnp.float16, jnp.float16), (jnp.bfloat16, jnp.float32), (jnp.int32, jnp.int32)],
)
def test_a_product_is_float32_at_the_least(left, right):
    # Four times 300²: more than float16 can hold.
    actual = jit(product)(np.full((2, 4), 300, left), np.full(4, 300, right))
    assert actual.dtype == jnp.float32
    assert_close(actual, np.full(2, 360_000.0), tolerance=4e-3 if right == jnp.bfloat16 else 1e-6)


@pytest.mark.parametrize("dtype", HALVES)
def test_hidden_units_of_half_precision_are_added_in_float32(dtype):
    large = 0.8 * float(jnp.finfo(jnp.float16).max)
    form = Additive(
        *(jax.device_put(np.full((n, 2), large, dtype)) for n in (QUERIES, KEYS)),
        jax.device_put(np.ones(2, dtype)),
        activation=jax.nn.relu,
    )
    expected = 4 * float(dtype(large))
    assert_close(jit(Additive.scores)(form), np.full((QUERIES, KEYS), expected), tolerance=1e-6)


@pytest.mark.parametrize("dtype", HALVES)
def test_an_inner_product_may_mix_dtypes(dtype):
    form = make_form(InnerProduct)
    form = dataclasses.replace(form, keys=jax.device_put(np.asarray(form.keys).astype(dtype)))
    assert_close(jit(InnerProduct.scores)(form), loop_scores(form), tolerance=2e-6)


def as_int(query, key):
    return jnp.int32(4 * jnp.sin(query[0] * key[0]))


class Whole(nnx.Module):
    def __call__(self, query, key):
        return as_int(query, key)


class WholeScore(Score):
    def __call__(self, query, key):
        return as_int(query, key)


class WholeLogits(Score):
    def __call__(self, query, key):
        return jnp.int32(4 * key[0])

    def form(self, queries, keys):
        return KeyOnly(jnp.int32(4 * keys[:, 0]), num_queries=len(queries))


def of_both(query, key):
    return np.trunc(4 * np.sin(query[0] * key[0]))


@pytest.mark.parametrize(
    ("score", "equation"),
    [
        (as_int, of_both),
        (Whole(), of_both),
        (WholeScore(), of_both),
        (WholeLogits(), lambda q, k: np.trunc(4 * k[0])),
        (lambda q, k: q[0] > k[0], lambda q, k: float(q[0] > k[0])),
        (lambda q, k: 3, lambda q, k: 3.0),
    ],
    ids=["function", "module", "score", "form", "booleans", "constant"],
)
def test_scores_that_are_integers_are_served_as_float32(score, equation, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    queries, keys, values = (normal(n, size, 3) for n, size in ((1, QUERIES), (2, KEYS), (3, KEYS)))

    @jit
    def program(form):
        ways = (None, "dense", "streaming")
        return form.scores(), [attend(form, values, implementation=way) for way in ways]

    scores, contexts = program(form_of(score, queries, keys))
    assert scores.dtype == jnp.float32
    expected = softmax(pairs(equation, queries, keys)) @ np.asarray(values, np.float64)
    assert_close(contexts, [expected] * 3)


# What a score may not do


class Sowing(Score):
    def __call__(self, query, key):
        score = query[0] * key[0]
        self.sow(nnx.Intermediate, "score", score)
        return score


class Counting(Score):
    def __init__(self):
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, query, key):
        self.calls[...] += 1
        return query[0] * key[0]


DROPOUT = nnx.Dropout(0.5, rngs=nnx.Rngs(0))


def dropping(query, key):
    return DROPOUT(query)[0] * key[0]


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (Sowing(), r"Sowing changes something as it is called \(Cannot mutate 'Sowing'\)"),
        (Counting(), r"Counting changes something as it is called \(Cannot mutate Variable\)"),
        (dropping, r"dropping changes something as it is called \(Cannot mutate RngCount\)"),
    ],
    ids=["sows", "counts", "drops"],
)
@pytest.mark.parametrize("implementation", ["dense", "streaming"])
def test_a_score_that_changes_something_is_refused_in_words(score, message, implementation):
    queries, keys = normal(1, QUERIES, 3), normal(2, KEYS, 3)
    with refused(rf"^the score {message}, but .* dropout of the weights is dropout_rate= of "):
        attend(form_of(score, queries, keys), keys, implementation=implementation)
