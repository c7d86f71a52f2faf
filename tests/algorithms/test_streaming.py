import functools
import itertools
from dataclasses import dataclass
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from oracles import (
    BATCH,
    FORMS,
    HEADS,
    KEYS,
    MASKS,
    QUERIES,
    VALUE_DIM,
    arrays_in,
    assert_close,
    jit,
    loop_attend,
    make_form,
    make_mask,
    normal,
    overlap,
    plain_attend,
    randomized,
    refused,
)

from attention import (
    Additive,
    InnerProduct,
    KeyOnly,
    Pairwise,
    attend,
    form_of,
    masks,
)
from attention.algorithms import streaming, tiles
from attention.biases import Alibi, RelativePosition
from attention.pytrees import register_dataclass
from attention.scores import MLP

pytestmark = pytest.mark.usefixtures("strict")

FORWARD, GRADIENT = 1e-5, 1e-4  # of the greatest entry, or of one
LEAD = (BATCH, HEADS)
NORMALIZERS = ["softmax", "sigmoid"]
EVERY_MASK = "dense & batch lengths & causal"
every_form = pytest.mark.parametrize("kind", FORMS)
every_normalizer = pytest.mark.parametrize("normalizer", NORMALIZERS)


def small_tiles(pairs):
    """Tiles of so many pairs at most, all leading axes together."""
    return mock.patch.multiple(tiles, TILE_SIZE=pairs, PAIRWISE_TILE_SIZE=pairs)


def streamed(form, values, mask=None, bias=None, normalizer="softmax", side=3):
    """The context by tiles of `side` queries and as many keys, the last ones ragged."""
    with small_tiles(values[..., 0, 0].size * side**2):
        return attend(
            form, values, mask=mask, bias=bias, normalizer=normalizer, implementation="streaming"
        )


def dense(form, values, mask=None, bias=None, normalizer="softmax"):
    return attend(form, values, mask=mask, bias=bias, normalizer=normalizer, implementation="dense")


def equation(form, values, allowed, normalizer, bias=0.0):
    """The context, of all pairs at once: nothing of the library but `form.scores`."""
    scores_of = type(form).scores
    for _ in values.shape[:-2]:
        scores_of = jax.vmap(scores_of)
    scores = scores_of(form)
    scores = scores + jnp.broadcast_to(jnp.asarray(bias, scores.dtype), scores.shape)
    if normalizer == "softmax":
        return plain_attend(scores, values, allowed)
    number = jnp.sum(allowed, axis=-1, keepdims=True).astype(scores.dtype)
    return jnp.where(allowed, 1 / (1 + number * jnp.exp(-scores)), 0.0) @ values


def float64(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), tree)


def random_like(seed, tree):
    leaves, structure = jax.tree.flatten(tree)
    draws = [normal([seed, i], *leaf.shape).astype(leaf.dtype) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, draws)


def problem(kind, mask, lead=LEAD):
    form, values = make_form(kind, lead), normal(6, *lead, KEYS, VALUE_DIM)
    return (form, values), *make_mask(mask, lead)


def gradient_of(attend):
    """The context, and the gradient of a random functional of it, by a form and values."""

    def pulled(args, *rest):
        context, pullback = jax.vjp(lambda args: attend(*args, *rest), args)
        return context, *pullback(normal(7, *context.shape).astype(context.dtype))

    return pulled


def derivatives_of(attend):
    """The context and that gradient, and how both move: the JVP, and the Hessian's product."""

    def derived(args, tangents, *rest):
        return jax.jvp(lambda args: gradient_of(attend)(args, *rest), (args,), (tangents,))

    return derived


@functools.partial(jit, static_argnames="side")
def both_contexts(form, values, mask, side=3):
    return [streamed(form, values, mask, None, name, side) for name in NORMALIZERS]


@jit
def both_contexts_by_equation(form, values, allowed):
    return [equation(form, values, allowed, name) for name in NORMALIZERS]


@functools.partial(jit, static_argnames=("normalizer", "side"))
def pulled(args, mask, normalizer="softmax", side=3):
    return gradient_of(lambda *args: streamed(*args, None, normalizer, side))(args, mask)


@functools.partial(jit, static_argnames="normalizer")
def pulled_by_equation(args, allowed, normalizer):
    return gradient_of(lambda *args: equation(*args, normalizer))(args, allowed)


def assert_context_and_gradient(actual, expected):
    assert_close(actual[0], expected[0], FORWARD)
    assert_close(actual[1:], expected[1:], GRADIENT)


# Contexts and gradients


@every_form
def test_context_is_the_equation_in_loops(kind):
    args, mask, allowed = problem(kind, EVERY_MASK)
    expected, _ = loop_attend(*args, allowed)
    assert_close(pulled(args, mask)[0], expected, FORWARD)


# A tile evaluates its scores apart from its mask, so that not every form must meet every mask.
@pytest.mark.parametrize(
    ("kind", "mask"),
    [*zip(FORMS * 3, MASKS, strict=False), *((kind, "none") for kind in FORMS[1:])],
)
def test_context_is_that_in_float64(kind, mask):
    args, mask, allowed = problem(kind, mask)
    with jax.enable_x64(True):
        expected = both_contexts_by_equation(*float64(args), allowed)
    assert_close(both_contexts(*args, mask), expected, FORWARD)


@pytest.mark.parametrize(
    ("kind", "mask"),
    [*((kind, EVERY_MASK) for kind in FORMS), (Pairwise, "none"), (InnerProduct, "window")],
)
@every_normalizer
def test_gradient_is_that_in_float64(kind, normalizer, mask):
    args, mask, allowed = problem(kind, mask)
    with jax.enable_x64(True):
        expected = pulled_by_equation(float64(args), allowed, normalizer)
    assert_context_and_gradient(pulled(args, mask, normalizer), expected)


def part(form, queries, keys):
    """The same problem without its last queries and keys."""

    def cut(array, size, axis):
        return jax.device_put(np.take(array, range(size), axis))

    if isinstance(form, KeyOnly):
        return KeyOnly(cut(form.logits, keys, -1), queries)
    return Pairwise(form.score, cut(form.queries, queries, -2), cut(form.keys, keys, -2))


@pytest.mark.parametrize(
    ("kind", "queries", "keys", "side"),
    [
        (KeyOnly, QUERIES, KEYS, 1),
        (Pairwise, QUERIES, KEYS, 1),
        (Pairwise, QUERIES, KEYS, 2),
        (Pairwise, QUERIES, KEYS, 7),
        (Pairwise, 1, 1, 3),
        (KeyOnly, 1, KEYS, 3),
        (Pairwise, QUERIES, 1, 2),
        (Pairwise, QUERIES, 3, 2),
    ],
)
def test_tiles_of_any_size(kind, queries, keys, side):
    (form, values), mask, allowed = problem(kind, "batch lengths & causal")
    args = part(form, queries, keys), np.asarray(values)[..., :keys, :]
    # What is left out might as well not be allowed.
    allowed = allowed & (np.arange(KEYS) < keys)
    with jax.enable_x64(True):
        expected = both_contexts_by_equation(*float64((form, values)), allowed)
    expected = [np.asarray(context)[..., :queries, :] for context in expected]
    assert_close(both_contexts(*args, mask, side=side), expected, FORWARD)


@every_normalizer
def test_blocks_are_no_larger_than_the_largest(normalizer):
    args, mask, allowed = problem(InnerProduct, "dense", ())
    with jax.enable_x64(True):
        expected = pulled_by_equation(float64(args), allowed, normalizer)
    with mock.patch.object(tiles, "LARGEST_BLOCK", 2):
        actual = jit(gradient_of(functools.partial(streamed, normalizer=normalizer, side=9)))(
            args, mask
        )
    assert_context_and_gradient(actual, expected)


@pytest.mark.parametrize("scale", [1e3, 1e30])
def test_scores_of_any_magnitude(scale):
    logits = normal(1, KEYS)
    values = normal(6, KEYS, VALUE_DIM)
    context, (_, gradient) = pulled((KeyOnly(scale * logits, QUERIES), values), None)
    best = values[jnp.argmax(logits)]
    assert_close(context, np.broadcast_to(best, context.shape))
    assert np.all(np.isfinite(gradient))


# Masks


@every_normalizer
@every_form
def test_a_query_with_no_key_has_context_and_gradient_zero(kind, normalizer):
    args, mask, allowed = problem(kind, EVERY_MASK)
    some = allowed.any(axis=-1)
    assert not some.all()
    context, (gradient, _) = pulled(args, mask, normalizer)
    np.testing.assert_array_equal(np.any(context, axis=-1), some)
    if kind is not KeyOnly:
        assert not np.any(gradient.queries[~some])


@every_normalizer
def test_a_query_with_no_key_makes_no_nan_on_the_way(normalizer):
    args, mask, _ = problem(InnerProduct, "dense", ())
    with jax.debug_nans(True):
        pulled(args, mask, normalizer)


def test_what_no_key_weighs_has_a_logarithm_of_minus_infinity():
    total = streaming.Total(np.float32([-3.0, 5.0, 0.0]), np.float32([1.0, np.e, 0.0]))
    np.testing.assert_allclose(total.logarithm(), [-3.0, 6.0, -np.inf])


@every_normalizer
def test_without_any_key_all_is_zero(normalizer):
    args, *_ = problem(InnerProduct, "none", ())
    for mask in (masks.causal(offset=-KEYS), masks.lengths(jnp.asarray(0))):
        for leaf in arrays_in(pulled(args, mask, normalizer)):
            assert not np.any(leaf)  # which NaN would be


def count_tiles(mask, queries=40, keys=40, side=8):
    form = InnerProduct(jnp.zeros((queries, 1)), jnp.zeros((keys, 1)))
    with small_tiles(side**2):
        plan, *_ = tiles.cut_problem(form, None, (), mask=mask)
    return len(plan.pairs)


@pytest.mark.parametrize(
    ("mask", "count"),
    [
        (None, 25),
        (masks.causal(), 15),
        (masks.causal(offset=1), 19),
        (masks.causal(offset=-8), 10),
        (masks.causal(offset=-40), 0),
        (masks.window(0), 5),
        (masks.window(8), 13),
        (masks.window(9), 19),
        (masks.causal() & masks.window(8), 9),
        (masks.causal() & masks.lengths(jnp.asarray(3)), 15),
        (masks.lengths(jnp.asarray(3)), 25),
    ],
)
def test_tiles_that_a_mask_rules_out_are_skipped(mask, count):
    assert count_tiles(mask) == count


@pytest.mark.parametrize("name", [*MASKS[1:], "causal & window"])
@pytest.mark.parametrize("lead", [(), LEAD])
def test_no_block_with_an_allowed_pair_is_skipped(name, lead):
    mask, allowed = make_mask(name, lead)
    for (a, b), (c, d) in itertools.product(
        itertools.combinations(range(QUERIES + 1), 2), itertools.combinations(range(KEYS + 1), 2)
    ):
        if np.any(allowed[..., a:b, c:d]):
            assert mask.reaches(range(a, b), range(c, d))


# Derivatives


@pytest.mark.parametrize(
    ("kind", "normalizer"),
    [*((kind, "softmax") for kind in FORMS), (InnerProduct, "sigmoid")],
)
def test_jvp_and_hessian_product_are_those_in_float64(kind, normalizer):
    args, mask, allowed = problem(kind, "dense", (BATCH,))
    tangents = random_like(5, args)
    plain = derivatives_of(functools.partial(equation, normalizer=normalizer))
    with jax.enable_x64(True):
        expected = jit(plain)(float64(args), float64(tangents), allowed)
    actual = jit(derivatives_of(functools.partial(streamed, normalizer=normalizer)))(
        args, tangents, mask
    )
    assert_close(actual, expected, GRADIENT)


@pytest.mark.parametrize(
    ("kind", "normalizer"), [(Additive, "softmax"), (Pairwise, "softmax"), (KeyOnly, "sigmoid")]
)
def test_vmap_and_checkpoint_change_nothing(kind, normalizer):
    args, mask, allowed = problem(kind, "causal")
    with jax.enable_x64(True):
        expected = pulled_by_equation(float64(args), allowed, normalizer)

    def attend(args):
        over_heads = jax.vmap(functools.partial(streamed, mask=mask, normalizer=normalizer))
        return jax.checkpoint(jax.vmap(over_heads))(*args)

    assert_context_and_gradient(jit(gradient_of(lambda *args: attend(args)))(args), expected)


def test_an_array_that_a_score_has_closed_over_gets_its_gradient():
    queries, keys = normal(1, QUERIES, 11), normal(2, KEYS, 11)
    values = normal(6, KEYS, VALUE_DIM)

    def loss(weight, attend):
        context = attend(form_of(lambda q, k: (q * weight) @ jnp.sin(k), queries, keys), values)
        return jnp.sum(normal(7, QUERIES, VALUE_DIM) * context)

    @jit
    def derivatives(weight, direction):
        """The gradient, and the Hessian by a direction."""
        gradients = (jax.grad(functools.partial(loss, attend=a)) for a in (streamed, dense))
        return [jax.jvp(gradient, (weight,), (direction,)) for gradient in gradients]

    assert_close(*derivatives(normal(3, 11), normal(4, 11)), GRADIENT)


@every_normalizer
def test_a_score_may_see_integers(normalizer):
    def score(query, key):
        distance = jnp.abs(query["position"] - key["position"]).astype(jnp.float32)
        return overlap(query["x"], key["x"]) - 0.3 * distance

    positions = jnp.arange(QUERIES) + 3, jnp.arange(KEYS)[::-1]

    def context(attend, queries, keys, values):
        sides = [
            {"x": queries, "position": positions[0]},
            {"x": keys, "position": positions[1]},
        ]
        return attend(form_of(score, *sides), values, normalizer=normalizer)

    @jit
    def by_both(args):
        return [gradient_of(functools.partial(context, a))(args) for a in (streamed, dense)]

    args = normal(1, QUERIES, 11), normal(2, KEYS, 11), normal(6, KEYS, VALUE_DIM)
    assert_context_and_gradient(*by_both(args))


# Biases

CLIP = 2


def relative():
    return randomized(lambda: RelativePosition(HEADS, clip=CLIP, rngs=nnx.Rngs(0)), seed=9)


def relative_by_numpy(bias):
    table = np.asarray(bias.table[...], np.float64)
    result = np.zeros((HEADS, QUERIES, KEYS))
    for h, i, j in np.ndindex(result.shape):
        result[h, i, j] = table[h, min(max(j - i, -CLIP), CLIP) + CLIP]
    return result


SLOPES = 2.0**-4, 2.0**-8, 2.0**-2  # of two heads, and the first of four


def alibi_by_numpy():
    result = np.zeros((HEADS, QUERIES, KEYS))
    for h, i, j in np.ndindex(result.shape):
        result[h, i, j] = -SLOPES[h] * abs(i - j)
    return result


equation_with_bias = jit(equation, static_argnames="normalizer")


def context_in_float64(args, allowed, normalizer, bias):
    with jax.enable_x64(True):
        return equation_with_bias(*float64(args), allowed, normalizer, bias)


def pulled_with_bias(attend, args, mask, bias, normalizer="softmax"):
    def context(form, values, bias):
        return attend(form, values, mask=mask, bias=bias, normalizer=normalizer)

    return gradient_of(context)((*args, bias))


pulled_with_bias = jit(pulled_with_bias, static_argnames=("attend", "normalizer"))


@pytest.mark.parametrize(
    ("kind", "normalizer"),
    [(InnerProduct, "sigmoid"), *((kind, "softmax") for kind in (KeyOnly, Additive, Pairwise))],
)
def test_a_learned_bias_of_relative_positions(kind, normalizer):
    args, mask, allowed = problem(kind, "causal")
    bias = relative()
    expected = context_in_float64(args, allowed, normalizer, relative_by_numpy(bias))
    actual, by_dense = (
        pulled_with_bias(function, args, mask, bias, normalizer) for function in (streamed, dense)
    )
    assert_close(actual[0], expected, FORWARD)
    assert np.all(np.asarray(actual[1][2].table[...]).any(axis=1))
    assert_context_and_gradient(actual, by_dense)


@pytest.mark.parametrize("kind", [KeyOnly, Additive])
def test_alibi(kind):
    args, _, allowed = problem(kind, "none")
    bias = Alibi(HEADS, rngs=nnx.Rngs(0))
    expected = context_in_float64(args, allowed, "softmax", alibi_by_numpy())
    contexts = jit(lambda *args: [attend(*args) for attend in (streamed, dense)])
    assert_close(contexts(*args, None, bias), [expected, expected], FORWARD)


@pytest.mark.parametrize("kind", [InnerProduct, Pairwise])
def test_a_bias_may_be_a_function_that_has_closed_over_an_array(kind):
    args, mask, allowed = problem(kind, "lengths")

    def context(attend, form, values, slopes):
        def bias(i, j):
            distance = (i[:, None] - 2 * j[None, :]).astype(jnp.float32)
            return jnp.sin(slopes[:, None, None] * distance[None])

        return attend(form, values, mask, bias)

    @jit
    def by_both(args):
        return [gradient_of(functools.partial(context, a))(args) for a in (streamed, dense)]

    slopes = normal(3, HEADS)
    distance = np.arange(QUERIES)[:, None] - 2 * np.arange(KEYS)
    biases = np.sin(np.asarray(slopes, np.float64)[:, None, None] * distance)
    expected = context_in_float64(args, allowed, "softmax", biases)
    actual, by_dense = by_both((*args, slopes))
    assert_close(actual[0], expected, FORWARD)
    assert_context_and_gradient(actual, by_dense)


# Precision


@every_form
def test_bfloat16_is_that_of_arguments_and_context_alone(kind):
    args, mask, allowed = problem(kind, "causal")
    args = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), args)
    context, gradient = pulled(args, mask)
    with jax.enable_x64(True):
        expected = pulled_by_equation(float64(args), allowed, "softmax")
    assert {leaf.dtype for leaf in jax.tree.leaves([context, gradient])} == {
        jnp.dtype(jnp.bfloat16)
    }
    eps = float(jnp.finfo(jnp.bfloat16).eps)
    assert_close(context, expected[0], eps)
    assert_close(gradient, expected[1], 6 * eps)  # a sum of terms rounded one by one


@register_dataclass
@dataclass(frozen=True)
class Slope:
    """A bias whose only leaf is a number, and no array."""

    slope: float

    def __call__(self, query_index, key_index):
        return self.slope * (query_index[:, None] - key_index[None, :]).astype(jnp.float32)


def test_a_bias_may_hold_a_plain_number():
    (form, values), *_ = problem(InnerProduct, "none")
    steps = np.arange(QUERIES)[:, None] - np.arange(KEYS)[None, :]
    biases = Slope(0.5), 0.5 * steps.astype(np.float32)
    contexts = jit(lambda *args: [streamed(*args, bias=bias) for bias in biases])
    assert_close(*contexts(form, values), FORWARD)


# Memory


@functools.cache
def temporaries(size, implementation):
    """Bytes, of a gradient through an MLP of which nothing is known but its equation."""
    score = jax.eval_shape(lambda: MLP(16, 16, hidden=16, rngs=nnx.Rngs(0)))

    def loss(score, queries, keys, values):
        form = Pairwise(score, queries, keys)
        return jnp.sum(attend(form, values, implementation=implementation) ** 2)

    arrays = jax.ShapeDtypeStruct((size, 16), jnp.float32)
    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))
    program = gradient.lower(score, arrays, arrays, arrays).compile()
    return program.memory_analysis().temp_size_in_bytes


def test_a_gradient_needs_a_tenth_of_the_memory_of_dense():
    assert temporaries(1024, "streaming") <= temporaries(1024, "dense") / 10


def test_memory_grows_no_faster_than_queries_and_keys():
    assert temporaries(2048, "streaming") < 2.5 * temporaries(1024, "streaming")


# What cannot be


@pytest.mark.parametrize("normalizer", ["sparsemax", "entmax15"])
@pytest.mark.parametrize(
    ("kind", "possible"),
    [(KeyOnly, "key_only, dense"), (Additive, "additive, dense"), (Pairwise, "dense")],
)
def test_a_threshold_over_all_keys_is_refused(kind, possible, normalizer):
    with refused(f"'streaming' cannot serve {kind.__name__} .* possible here: {possible}$"):
        streamed(make_form(kind), normal(6, KEYS, VALUE_DIM), normalizer=normalizer)


# Other platforms


@pytest.mark.parametrize(
    ("kind", "implementation", "mask"),
    [
        *((kind, "streaming", "causal") for kind in FORMS),
        (Additive, "additive", "causal"),
        (KeyOnly, "key_only", "lengths"),
        (KeyOnly, "prefix", "batch lengths & causal"),
        (InnerProduct, "inner_product", "causal"),
        (InnerProduct, None, "causal"),
        (Pairwise, "dense", EVERY_MASK),
    ],
)
def test_every_algorithm_is_lowered_for_every_platform(kind, implementation, mask):
    args, mask, _ = problem(kind, mask)

    leaves, structure = jax.tree.flatten(args)

    def loss(leaves):
        args = jax.tree.unflatten(structure, leaves)
        return jnp.sum(attend(*args, mask=mask, implementation=implementation) ** 2)

    with small_tiles(54):
        program = jax.jit(jax.value_and_grad(loss))  # which is traced once for both
        for platform in ("tpu", "cuda"):
            exported = jax.export.export(program, platforms=[platform])(leaves)
            assert exported.platforms == (platform,)
