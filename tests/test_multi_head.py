import functools
import inspect
import math
import operator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from oracles import (
    EQUATIONS,
    arrays_in,
    assert_close,
    double_vmap,
    jit,
    normal,
    overlap,
    pairs,
    plain_attend,
    randomized,
    refused,
)

from attention import MLP, SCORES, Dot, MultiHeadAttention, attention_fn, masks
from attention.biases import Alibi

BATCH, HEADS, QUERIES, KEYS, HEAD_DIM = 2, 3, 5, 7, 13
FEATURES, KV_FEATURES, OUT_FEATURES = 11, 17, 19
WIDTH = HEADS * HEAD_DIM


def make(cls, **settings):
    """A layer, every parameter random."""
    settings = {"num_heads": HEADS, "qkv_features": WIDTH} | settings
    return randomized(lambda: cls(in_features=FEATURES, rngs=nnx.Rngs(0), **settings))


make_ours = functools.partial(make, MultiHeadAttention)
in_flax = functools.partial(make, nnx.MultiHeadAttention, decode=False)


def like(flax_layer, **settings):
    """Our layer with the parameters of Flax's."""
    layer = make_ours(**settings)
    nnx.update(layer, nnx.state(flax_layer, nnx.Param))
    return layer


def parameters(layer):
    return jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), nnx.to_pure_dict(nnx.state(layer))
    )


# What is no array, and so part of the program; masks and positions share one.
STATIC = ("is_causal", "score_mod", "deterministic", "dropout_rate", "broadcast_dropout")
STATIC += ("dtype", "precision")


@functools.partial(jit, static_argnames=STATIC)
def run(layer, *arrays, **settings):
    return layer(*arrays, **settings)


def decode(layer, *parts, **settings):
    """The outputs for parts of a sequence, one after another; room for them must be there."""
    step = nnx.jit(lambda layer, x: layer(x, decode=True, **settings))
    return jnp.concatenate([step(layer, part) for part in parts], axis=-2)


def positions_of(x):
    return [x[..., t : t + 1, :] for t in range(x.shape[-2])]


def inputs(batch=(BATCH,), features=(FEATURES, KV_FEATURES)):
    query, key = features
    return (
        normal(1, *batch, QUERIES, query),
        normal(2, *batch, KEYS, key),
        normal(4, *batch, KEYS, key),
    )


@functools.partial(jit, static_argnames=STATIC)
def pulled(cotangent, layer, *arrays, **settings):
    """The output, and the gradients of parameters and inputs."""
    graph, state = nnx.split(layer)

    def call(state, *arrays):
        return nnx.merge(graph, state)(*arrays, **settings)

    output, pull = jax.vjp(call, state, *arrays)
    return output, *pull(cotangent)


def assert_equals_flax(layer, flax_layer, *arrays, tolerance=1e-6, flax_mask=None, **settings):
    """Output and gradients are Flax's, up to a fraction of the largest entry of either.

    Not of each array: the gradient of the bias of the keys is zero, but for rounding.
    """
    cotangent = normal(7, *arrays[0].shape[:-1], flax_layer.out_features)
    output, *gradients = arrays_in(pulled(cotangent, layer, *arrays, **settings))
    settings |= {} if flax_mask is None else {"mask": flax_mask}
    expected, *expected_gradients = arrays_in(pulled(cotangent, flax_layer, *arrays, **settings))
    largest = max(np.max(np.abs(gradient)) for gradient in expected_gradients)
    np.testing.assert_allclose(output, expected, rtol=0, atol=tolerance * np.max(np.abs(expected)))
    for a, b in zip(gradients, expected_gradients, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * largest)


# The arguments


def test_the_arguments_are_flaxs_in_its_order_with_its_defaults():
    def of(cls, method):
        return list(inspect.signature(getattr(cls, method)).parameters.values())

    for method in ("__init__", "__call__", "init_cache", "set_view"):
        theirs = of(nnx.MultiHeadAttention, method)
        for ours, flax in zip(of(MultiHeadAttention, method), theirs, strict=False):
            assert (ours.name, ours.kind) == (flax.name, flax.kind)
            same = dict if "metadata" in flax.name else lambda default: default
            assert same(ours.default) == same(flax.default), flax.name
        assert len(of(MultiHeadAttention, method)) >= len(theirs)


def test_the_page_of_names_has_every_argument_of_flaxs():
    page = Path(__file__).parents[1].joinpath("docs", "names.md").read_text(encoding="utf-8")
    for method in (nnx.MultiHeadAttention.__init__, nnx.MultiHeadAttention.__call__):
        missing = [name for name in inspect.signature(method).parameters if f"`{name}`" not in page]
        assert missing == ["self"]


def test_parameters_start_as_in_flax_whatever_the_score():
    settings = {"qkv_features": WIDTH, "normalize_qk": True}

    @functools.partial(jit, static_argnums=0)
    def made(cls):
        return cls(HEADS, FEATURES, rngs=nnx.Rngs(5), **settings)

    expected = parameters(made(nnx.MultiHeadAttention))
    for score in ("scaled_dot", "mlp"):
        layer = made(functools.partial(MultiHeadAttention, score=score))
        actual = parameters(layer)
        assert ("attention_fn" in actual) == (score == "mlp")
        actual.pop("attention_fn", None)
        assert_close(actual, expected, tolerance=0)
    assert isinstance(layer, nnx.MultiHeadAttention)


# The equation


def test_one_head_by_hand():
    layer = MultiHeadAttention(1, 1, kernel_init=nnx.initializers.ones, rngs=nnx.Rngs(0))
    # Scores 0·0 and 0·1 for the first; 1·0 and 1·1 for the second, to which the second value
    # weighs e / (1 + e).
    output = run(layer, jnp.asarray([[0.0], [1.0]]))
    np.testing.assert_allclose(output, [[0.5], [0.7310586]], atol=1e-6)


def test_every_head_has_its_own_score_on_its_own_vectors():
    layer = make_ours(out_features=OUT_FEATURES, score=MLP, hidden=23)
    query, key, _ = inputs((), (FEATURES, FEATURES))
    p = parameters(layer)
    q, k, v = (
        np.einsum("td,dhf->htf", x, p[name]["kernel"]) + p[name]["bias"][:, None]
        for name, x in (("query", query), ("key", key), ("value", key))
    )
    expected = p["out"]["bias"] + np.zeros((QUERIES, OUT_FEATURES))
    for head in range(HEADS):
        score = jax.tree.map(operator.itemgetter(head), p["attention_fn"]["score"])
        exponentials = np.exp(pairs(functools.partial(EQUATIONS["mlp"], score), q[head], k[head]))
        weights = exponentials / exponentials.sum(-1, keepdims=True)
        expected += weights @ v[head] @ p["out"]["kernel"][head]
    assert_close(run(layer, query, key), expected)


# Equal to Flax

SHAPES_OF_MASKS = [
    (BATCH, HEADS, QUERIES, KEYS),
    (BATCH, 1, QUERIES, KEYS),
    (1, HEADS, QUERIES, KEYS),
    (BATCH, 1, 1, KEYS),
    (1, 1, QUERIES, 1),
    (HEADS, QUERIES, KEYS),
    (QUERIES, KEYS),
]


@pytest.mark.parametrize("shape", SHAPES_OF_MASKS, ids=str)
def test_masks_of_every_broadcast(shape):
    mask = np.random.default_rng(8).random(shape) < 0.6
    mask[..., 0] = True  # no row without a key
    flax_layer = in_flax(in_kv_features=KV_FEATURES)
    layer = like(flax_layer, in_kv_features=KV_FEATURES)
    whole = np.broadcast_to(mask, (BATCH, HEADS, QUERIES, KEYS))  # Flax wants four axes
    assert_equals_flax(layer, flax_layer, *inputs(), mask=mask, flax_mask=whole)


SETTINGS = {
    "plain": {},
    "no biases": {"use_bias": False},
    "output": {"out_features": OUT_FEATURES},
    "normalized": {"normalize_qk": True},
    "shared keys": {"num_heads": 6, "num_kv_heads": 3, "qkv_features": 6 * HEAD_DIM},
    "one key": {"num_kv_heads": 1, "normalize_qk": True},
    "precise": {"precision": "highest"},
}


# Settings shape the projections, and causality the mask: each has both, not every pair.
@pytest.mark.parametrize(
    ("name", "is_causal"),
    [
        ("plain", True),
        ("no biases", False),
        ("output", True),
        ("normalized", False),
        ("shared keys", True),
        ("one key", True),
        ("precise", False),
    ],
)
def test_settings(name, is_causal):
    settings = {"in_kv_features": KV_FEATURES} | SETTINGS[name]
    flax_layer = in_flax(**settings)
    layer = like(flax_layer, **settings)
    assert_equals_flax(layer, flax_layer, *inputs(), is_causal=is_causal)


@pytest.mark.parametrize("batch", [(), (2, 3)])  # a single one have all other tests
def test_batch_axes_of_any_number(batch):
    flax_layer = in_flax(in_kv_features=KV_FEATURES)
    layer = like(flax_layer, in_kv_features=KV_FEATURES)
    assert_equals_flax(layer, flax_layer, *inputs(batch))


def test_self_attention_and_values_that_are_the_keys():
    flax_layer = in_flax()
    layer = like(flax_layer)
    query, key, _ = inputs(features=(FEATURES, FEATURES))
    for arrays in ((query,), (query, key)):
        assert_equals_flax(layer, flax_layer, *arrays)


def test_half_precision():
    settings = {"in_kv_features": KV_FEATURES, "dtype": jnp.bfloat16}
    flax_layer = in_flax(**settings)
    output = run(like(flax_layer, **settings), *inputs())
    assert output.dtype == jnp.bfloat16
    exact = np.asarray(run(in_flax(in_kv_features=KV_FEATURES), *inputs()))
    error, of_flax = (
        np.max(np.abs(np.asarray(each, np.float32) - exact))
        for each in (output, run(flax_layer, *inputs()))
    )
    assert error <= 1.5 * of_flax


def test_weights_are_sown_as_in_flax():
    settings = {"in_kv_features": KV_FEATURES, "num_kv_heads": 1}
    flax_layer = in_flax(**settings)

    def sown(layer):
        forward = nnx.capture(lambda layer: layer(*inputs(), sow_weights=True), nnx.Intermediate)
        return jit(lambda layer: jax.tree.map(jnp.asarray, forward(layer)))(layer)

    (output, weights), (expected_output, expected) = (
        sown(like(flax_layer, **settings)),
        sown(flax_layer),
    )
    assert_close(nnx.to_pure_dict(weights), nnx.to_pure_dict(expected), 1e-6)
    assert_close(output, expected_output, 1e-6)


def test_rows_without_keys_differ_on_purpose():
    flax_layer = in_flax(in_kv_features=KV_FEATURES)
    layer = like(flax_layer, in_kv_features=KV_FEATURES)
    mask, cotangent = np.ones((BATCH, 1, QUERIES, KEYS), bool), np.zeros((BATCH, QUERIES, FEATURES))
    mask[0, :, 2], cotangent[0, 2] = False, normal(7, FEATURES)
    output, *gradients = pulled(jnp.asarray(cotangent, jnp.float32), layer, *inputs(), mask=mask)
    assert_close(output[0, 2], layer.out.bias[...], 1e-6)
    assert all(np.all(gradient == 0) for gradient in arrays_in(gradients[1:]))
    mean = jit(lambda layer: layer.out(jnp.mean(layer.value(inputs()[2][0]), axis=0)))
    assert_close(run(flax_layer, *inputs(), mask=mask)[0, 2], mean(flax_layer), 1e-6)


# Decoding


@pytest.mark.parametrize("name", ["plain", "normalized", "shared keys", "one key"])
def test_decoding_equals_flaxs_step_by_step(name):
    flax_layer = in_flax(**SETTINGS[name])
    layer = like(flax_layer, **SETTINGS[name])
    x = normal(1, BATCH, QUERIES, FEATURES)
    keep = jnp.asarray([[True] * QUERIES, [True, False, True, True, False]])[:, None, None]
    layer.init_cache(x.shape)
    flax_layer.init_cache(x.shape)
    expected = decode(flax_layer, *positions_of(x), mask=keep)
    assert_close(decode(layer, *positions_of(x), mask=keep), expected, 1e-6)


DECODED = {
    "mlp": {"score": "mlp", "hidden": 23},
    "shared keys with biases": {"score": "trilinear", "num_kv_heads": 1},
    "function": {"score": lambda q, k: jnp.sin(q[0]) * k[1] - q[2] * k[3]},
    "rotary": {"score": "rbf", "rotary": True, "qkv_features": HEADS * 12},
    "bias": {"bias": Alibi},
    "score_mod": {"score_mod": lambda score, i, j: score / (1 + i - j)},
    "sink": {"normalizer": "softmax_sink"},
    "asentmax": {"normalizer": "asentmax"},
}


@pytest.mark.parametrize("name", DECODED)
def test_decoding_equals_the_causal_run(name):
    layer = make_ours(**DECODED[name])
    x = normal(1, *([] if name == "mlp" else [BATCH]), KEYS, FEATURES)
    layer.init_cache(x.shape)
    prompt, *rest = x[..., :3, :], *positions_of(x)[3:]  # several positions at once, then each
    assert_close(decode(layer, prompt, *rest), run(layer, x, is_causal=True), 1e-5)


def test_a_cache_keeps_what_the_form_keeps_of_a_key():
    layer = make_ours(num_kv_heads=1)
    layer.init_cache((BATCH, KEYS, FEATURES), jnp.bfloat16)
    kept = layer.cached_key.get_value()["keys"]
    assert (kept.shape, kept.dtype) == ((BATCH, 1, KEYS, HEAD_DIM), jnp.bfloat16)
    layer = make_ours(score="mlp", hidden=23)
    layer.init_cache((BATCH, KEYS, FEATURES))
    assert layer.cached_key.get_value()["keys"].shape == (BATCH, HEADS, KEYS, 23)


def test_a_view_decodes():
    layer = make_ours()
    view = nnx.view(layer, decode=True, batch_size=BATCH, max_length=QUERIES)
    x = normal(1, BATCH, QUERIES, FEATURES)
    assert_close(decode(view, *positions_of(x)), run(layer, x, is_causal=True))


# Dropout


def test_dropout():
    settings = {"dropout_rate": 0.5, "qkv_features": WIDTH, "rngs": nnx.Rngs(0)}
    layer = MultiHeadAttention(HEADS, FEATURES, deterministic=False, **settings)
    x = normal(1, BATCH, QUERIES, FEATURES)
    call = nnx.jit(lambda layer: layer(x))
    assert not np.array_equal(call(layer), call(layer))
    expected = run(like(layer), x)
    assert_close(run(layer, x, deterministic=True), expected)
    layer.eval()
    assert_close(run(layer, x), expected)


@pytest.mark.parametrize("broadcast", [False, True])
def test_dropped_weights_are_zero_and_the_others_grow(broadcast):
    zeros = jnp.zeros((BATCH, QUERIES, HEADS, HEAD_DIM)), jnp.zeros((BATCH, KEYS, HEADS, HEAD_DIM))
    each_key = jnp.broadcast_to(jnp.eye(KEYS)[:, None], (BATCH, KEYS, HEADS, KEYS))
    fn = attention_fn(lambda query, key: query @ key)
    settings = {"dropout_rng": jax.random.key(3), "dropout_rate": 0.25}
    weights = run(fn, *zeros, each_key, broadcast_dropout=broadcast, **settings)
    kept = np.asarray(weights) != 0
    assert_close(weights, kept / KEYS / 0.75)
    assert 0.5 < np.mean(kept) < 0.95
    assert np.all(kept == kept[:1, :, :1]) == broadcast
    assert np.all(run(fn, *zeros, each_key, deterministic=True, **settings) != 0)


def test_every_algorithm_drops_the_same_weights():
    settings = {"dropout_rate": 0.3, "deterministic": False, "qkv_features": WIDTH}
    outputs = [
        run(
            MultiHeadAttention(HEADS, FEATURES, implementation=name, rngs=nnx.Rngs(0), **settings),
            normal(1, BATCH, QUERIES, FEATURES),
        )
        for name in ("dense", "streaming")
    ]
    assert_close(*outputs)


# What Flax's layer has not


def test_masks_biases_and_score_mods_as_attend_takes_them():
    layer = make_ours()
    x = normal(1, BATCH, QUERIES, FEATURES)
    i, j = np.mgrid[:QUERIES, :QUERIES]
    expected = run(layer, x, mask=jnp.asarray(i >= j))
    for mask in ("causal", lambda i, j: i >= j):
        assert_close(jit(functools.partial(layer, mask=mask))(x), expected)
    lengths = np.array([QUERIES, 2])
    both = jnp.asarray((i >= j) & (j < lengths[:, None, None, None]))
    mask = masks.lengths(jnp.asarray(lengths))
    assert_close(run(layer, x, mask=mask, is_causal=True), run(layer, x, mask=both))

    distance = jnp.asarray(-abs(i - j), jnp.float32)
    expected = run(layer, x, bias=2 * distance)
    further = {"score_mod": lambda score, i, j: score - jnp.abs(i - j)}
    assert_close(run(layer, x, bias=distance, **further), expected)
    settings = {"bias": distance, "rngs": nnx.Rngs(0)} | further
    other = MultiHeadAttention(HEADS, FEATURES, WIDTH, **settings)
    nnx.update(other, nnx.state(layer, nnx.Param))
    assert_close(run(other, x), expected)


def test_padding_reaches_neither_output_nor_gradient():
    layer = make_ours(in_kv_features=KV_FEATURES)
    query, key, value = inputs()
    mask, cotangent = masks.lengths(jnp.asarray([4, KEYS])), normal(7, BATCH, QUERIES, FEATURES)
    expected = pulled(cotangent, layer, query, key, value, mask=mask)
    padded = [array.at[0, 4:].set(jnp.nan) for array in (key, value)]
    actual = pulled(cotangent, layer, query, *padded, mask=mask)
    assert_close(arrays_in(actual), arrays_in(expected))


def test_rotary_positions():
    layer = make_ours(rotary=True, qkv_features=HEADS * 12)
    x = normal(1, BATCH, QUERIES, FEATURES)
    plain = run(layer, x)
    # Distances alone count.
    later = jnp.broadcast_to(jnp.arange(QUERIES) + 29, (BATCH, QUERIES))
    assert_close(run(layer, x, input_positions=later), plain)
    apart = jnp.asarray([[0, 1, 2, 3, 4], [0, 2, 4, 6, 8]])
    moved = run(layer, x, input_positions=apart)
    assert_close(moved[0], plain[0])
    assert np.max(np.abs(moved[1] - plain[1])) > 1e-3
    assert_close(run(layer, x, input_positions=apart, key_positions=apart), moved)
    assert np.max(np.abs(run(layer, x, key_positions=apart)[1] - moved[1])) > 1e-3


@pytest.mark.skipif(not hasattr(nnx, "RoPE"), reason="needs flax>=0.12.12, which has nnx.RoPE")
def test_rotary_positions_are_flaxs():
    settings = {"qkv_features": HEADS * 12}
    rotating = functools.partial(nnx.dot_product_attention_with_rope, rope=nnx.RoPE())
    flax_layer = in_flax(attention_fn=rotating, **settings)
    layer = like(flax_layer, rotary=True, **settings)
    x = normal(1, BATCH, QUERIES, FEATURES)
    assert_equals_flax(layer, flax_layer, x, is_causal=True)


@pytest.mark.parametrize("name", SCORES)
def test_every_score_trains_in_the_layer(name):
    layer = make_ours(score=name)
    x = normal(1, BATCH, QUERIES, FEATURES)
    _, by_layer, _ = pulled(x, layer, x, is_causal=True)
    gradients = nnx.to_pure_dict(by_layer)
    assert all(np.any(leaf != 0) for leaf in arrays_in(gradients["value"]))
    for leaf in arrays_in(gradients.get("attention_fn", {})):
        assert leaf.shape[0] == HEADS
        assert np.all(np.isfinite(leaf))


# Any score in Flax's layer


def test_the_default_is_flaxs_function():
    settings = {"in_kv_features": KV_FEATURES}
    flax_layer = in_flax(**settings)
    fn = attention_fn(num_heads=HEADS, head_dim=HEAD_DIM, rngs=nnx.Rngs(0))
    mask = jnp.asarray(np.tri(QUERIES, KEYS, 2))[None, None]  # of numbers, as Flax makes masks
    layer = in_flax(attention_fn=fn, **settings)
    assert_equals_flax(layer, flax_layer, *inputs(), mask=mask, is_causal=True)


def test_a_score_with_parameters_is_part_of_flaxs_layer():
    score = {"score": "mlp", "normalizer": "sigmoid", "hidden": 23}
    heads = {"num_heads": HEADS, "head_dim": HEAD_DIM}
    fn = randomized(lambda: attention_fn(**score, **heads, rngs=nnx.Rngs(3)))
    flax_layer = in_flax(attention_fn=fn)
    assert set(parameters(flax_layer)["attention_fn"]) == {"score"}
    layer = like(flax_layer, **score)
    x = normal(1, BATCH, QUERIES, FEATURES)
    assert_equals_flax(layer, flax_layer, x, is_causal=True)
    flax_layer.init_cache(x.shape)
    assert_close(decode(flax_layer, *positions_of(x)), run(layer, x, is_causal=True))


def test_a_bias_in_flaxs_layer_is_told_where_a_single_query_stands():
    fn = attention_fn(overlap, bias="alibi", num_heads=HEADS, head_dim=HEAD_DIM, rngs=nnx.Rngs(0))
    query, key, value = (normal(i, BATCH, QUERIES, HEADS, HEAD_DIM) for i in range(3))
    expected = run(fn, query, key, value)[:, 3:4]
    where = {"input_positions": jnp.asarray([3])}
    assert_close(run(fn, query[:, 3:4], key, value, **where), expected)
    with refused("bias: where the single query of a step stands"):
        fn(query[:, 3:4], key, value)


def test_functions_and_scores_that_are_made_are_shared_by_the_heads():
    made = randomized(lambda: MLP(HEAD_DIM, HEAD_DIM, hidden=23, rngs=nnx.Rngs(3)))
    query, key, value = (normal(i, QUERIES, HEADS, HEAD_DIM) for i in range(3))

    def expected(score):
        scores = jax.vmap(double_vmap(score), (1, 1))(query, key)
        return jnp.moveaxis(jax.vmap(plain_attend, (0, 1))(scores, value), 0, 1)

    for score in (made, overlap):
        assert_close(
            run(attention_fn(score), query, key, value), jit(expected, static_argnums=0)(score)
        )
    steep = attention_fn(functools.partial(lambda q, k, slope: slope * overlap(q, k), slope=2.0))
    optional = attention_fn(lambda q, k, slope: slope * overlap(q, k), slope=2.0)
    assert_close(run(steep, query, key, value), run(optional, query, key, value))


def test_arguments_of_flaxs_function():
    query, key, value = (normal(i, BATCH, QUERIES, HEADS, HEAD_DIM) for i in range(3))
    fn = attention_fn(lambda q, k: q @ k / math.sqrt(HEAD_DIM))
    bias = normal(5, 1, HEADS, QUERIES, QUERIES)
    mask = jnp.asarray(np.tri(QUERIES) > 0)[None, None]
    expected = jit(nnx.dot_product_attention)(query, key, value, bias, mask)
    assert_close(run(fn, query, key, value, bias=bias, mask=mask), expected, 1e-6)
    half = {"dtype": jnp.bfloat16, "precision": jax.lax.Precision.HIGHEST}
    assert run(fn, query, key, value, **half).dtype == jnp.bfloat16


@pytest.mark.parametrize("score", ["mlp", overlap])
@pytest.mark.parametrize(("queries", "keys"), [(0, KEYS), (QUERIES, 0)])
def test_no_queries_or_no_keys(score, queries, keys):
    layer = make_ours(score=score)
    arrays = normal(1, BATCH, queries, FEATURES), normal(2, BATCH, keys, FEATURES)
    expected = jnp.broadcast_to(layer.out.bias[...], (BATCH, queries, FEATURES))
    assert_close(run(layer, *arrays), expected)


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 4}, "num_heads=4: must divide qkv_features=39"),
        ({"num_heads": 0}, "num_heads"),
        ({"num_kv_heads": 2}, "num_kv_heads=2: must divide num_heads=3"),
        ({"rngs": 0}, r"rngs=0: say rngs=nnx.Rngs\(0\)"),
        (
            {"attention_fn": nnx.make_causal_mask},
            "attention_fn=<function make_causal_mask>: say score=",
        ),
        ({"precision": ("high", "highest")}, "precision="),
        ({"precision": "exact"}, "precision='exact'"),
        ({"score": "mpl"}, "'mpl' is unknown"),
        ({"normalizer": "softmaxx"}, "'softmaxx' is unknown"),
        ({"implementation": "fast"}, "'fast' is unknown"),
        ({"dropout_rate": 1.5}, "dropout_rate=1.5"),
        ({"bias": True}, "bias=True: say use_bias="),
        ({"rotary": True}, "rotary=True: the 13 features"),
        ({"embed_dim": 8}, "embed_dim=8: say in_features="),
        ({"is_causal": True}, "is_causal=True: is an argument of the call of the layer"),
        ({"hiden": 8, "score": "mlp"}, "hiden=8: is no argument; there are num_heads, in_features"),
    ],
)
def test_refused_at_construction(settings, message):
    settings = {"num_heads": HEADS, "qkv_features": WIDTH, "rngs": nnx.Rngs(0)} | settings
    with refused(message):
        MultiHeadAttention(in_features=FEATURES, **settings)


@pytest.mark.parametrize(
    ("arrays", "settings", "message"),
    [
        ((normal(0, BATCH, QUERIES, 12),), {}, "inputs_q must be .* with 11 features"),
        ((normal(0, 11),), {}, "inputs_q must be"),
        (([[0.0] * 12] * QUERIES,), {}, "inputs_q must be .* with 11 features"),
        ((normal(0, 5, 11), normal(0, 7, 13)), {}, "inputs_k must be"),
        ((normal(0, 5, 11), normal(0, 7, 11), normal(0, 3, 11)), {}, "inputs_v .* the 7 keys"),
        ((normal(0, 2, 5, 11), normal(0, 3, 7, 11)), {}, "the batch axes do not fit"),
        ((normal(0, 5, 11), None, normal(0, 7, 11)), {}, "inputs_k=None"),
        ((normal(0, 5, 11), jnp.ones((5, 5), bool)), {}, "inputs_k=.* looks like a mask"),
        ((normal(0, 5, 11),), {"mask": jnp.ones((5, 5))}, "mask"),
        ((normal(0, 5, 11),), {"decode": True}, "call layer.init_cache"),
        ((normal(0, 5, 11),), {"key_padding_mask": None}, "key_padding_mask=None: say mask="),
        ((normal(0, 5, 11),), {"score": "mlp"}, "is an argument of MultiHeadAttention"),
        ((normal(0, 5, 11),), {"masc": None}, "masc=None: is no argument"),
    ],
)
def test_refused_at_the_call(arrays, settings, message):
    layer = MultiHeadAttention(HEADS, FEATURES, WIDTH, rngs=nnx.Rngs(0))
    with refused(message):
        layer(*arrays, **settings)


def test_refused_for_dropout():
    settings = {"dropout_rate": 0.5, "rngs": nnx.Rngs(0)}
    layer = MultiHeadAttention(HEADS, FEATURES, WIDTH, keep_rngs=False, **settings)
    x = normal(1, QUERIES, FEATURES)
    with refused("dropout_rate=0.5: say deterministic="):
        layer(x)
    with refused("rngs=None: a layer with keep_rngs=False"):
        layer(x, deterministic=False)
    jit(lambda x: layer(x, deterministic=False, rngs=nnx.Rngs(0)))(x)
    fn = attention_fn(overlap)
    with refused("dropout_rng is missing"):
        fn(*(normal(i, QUERIES, HEADS, HEAD_DIM) for i in range(3)), dropout_rate=0.5)


def test_refused_by_a_cache():
    layer = MultiHeadAttention(HEADS, FEATURES, WIDTH, rngs=nnx.Rngs(0), decode=True)
    layer.init_cache((BATCH, 2, FEATURES))
    x = normal(1, BATCH, 3, FEATURES)
    with refused("no room for 3"):
        layer(x)
    with refused("the cache is for"):
        layer(x[:1])
    with refused("the cache is for"):
        layer(x[:, :2], x[:, :1])
    with refused("input_positions cannot be given"):
        layer(x[:, :1], input_positions=jnp.zeros((BATCH, 1), jnp.int32))


@pytest.mark.parametrize(
    ("score", "settings", "message"),
    [
        ("mlp", {"num_heads": HEADS}, "score=MLP is made for heads: pass num_heads=, head_dim="),
        (overlap, {"bias": "alibi"}, "bias=Alibi is made for heads"),
        (overlap, {"normalizer": "asentmax"}, "normalizer=ASEntmax is made for heads"),
        (Dot(2, 2, rngs=nnx.Rngs(0)), {"hidden": 3}, "hidden: the Dot is made already"),
    ],
)
def test_refused_by_attention_fn(score, settings, message):
    with refused(message):
        attention_fn(score, **settings)


def test_heads_that_do_not_divide_are_refused():
    query, key = normal(0, QUERIES, 3, HEAD_DIM), normal(1, KEYS, 2, HEAD_DIM)
    with refused("3 heads of queries cannot share 2 heads of keys"):
        attention_fn(overlap)(query, key, key)
