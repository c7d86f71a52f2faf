import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from oracles import (
    BATCH,
    HEADS,
    KEY_DIM,
    KEYS,
    OWN,
    QUERIES,
    QUERY_DIM,
    VALUE_DIM,
    arrays_in,
    assert_close,
    dims,
    double_vmap,
    influence,
    jit,
    nearby,
    normal,
    overlap,
    plain_attend,
    randomized,
    refused,
)

from attention import MLP, SCORES, Attention, masks

pytestmark = pytest.mark.usefixtures("strict")

ALL = SCORES | OWN
every_score = pytest.mark.parametrize("name", ALL)
every_score_of_keys = pytest.mark.parametrize("name", [name for name in ALL if name != "uniform"])


@functools.cache
def make_layer(name, **settings):
    """A layer of `HEADS` heads, every parameter random."""
    settings = {"heads": HEADS} | settings
    return randomized(lambda: Attention(ALL[name], *dims(name), rngs=nnx.Rngs(0), **settings))


def make_arrays(name, batch=()):
    """Queries, keys and values."""
    query_dim, key_dim = dims(name)
    return (
        normal(1, *batch, QUERIES, query_dim),
        normal(2, *batch, KEYS, key_dim),
        normal(4, *batch, KEYS, HEADS * VALUE_DIM),
    )


def call(layer, *args, **kwargs):
    return layer(*args, **kwargs)


# The equation


@functools.partial(jit, static_argnums=0)
def pulled(attend, cotangent, *args):
    context, pullback = jax.vjp(attend, *args)
    return context, pullback(cotangent)


def one_head(score, queries, keys, values):
    return plain_attend(double_vmap(score)(queries, keys), values)


@every_score
def test_heads_are_independent_and_concatenated_in_value_and_gradient(name):
    layer, (queries, keys, values) = make_layer(name), make_arrays(name)
    cotangent = normal(7, QUERIES, HEADS * VALUE_DIM)
    context, (by_layer, *by_array) = pulled(call, cotangent, layer, queries, keys, values)

    contexts, gradients = [], []
    for head in range(HEADS):
        score = jax.tree.map(operator.itemgetter(head), layer.score)
        own = slice(head * VALUE_DIM, (head + 1) * VALUE_DIM)
        arrays = queries, keys, values[:, own]
        of_head, gradient = pulled(one_head, cotangent[:, own], score, *arrays)
        contexts.append(of_head)
        gradients.append([arrays_in(part) for part in gradient])
    by_score, by_query, by_key, by_value = zip(*gradients, strict=True)
    assert_close(context, np.concatenate(contexts, -1))
    assert_close(arrays_in(by_layer), [np.stack(leaves) for leaves in zip(*by_score, strict=True)])
    summed = [np.sum(part, axis=(0, 1)) for part in (by_query, by_key)]
    assert_close(by_array, [*summed, np.concatenate([part[0] for part in by_value], -1)])


@pytest.mark.parametrize("name", ["linear", "mlp", "bilinear", "function"])
def test_batches_of_any_rank_are_vmap(name):
    layer, arrays = make_layer(name), make_arrays(name, batch=(BATCH, 2))
    assert_close(jit(call)(layer, *arrays), jit(jax.vmap(jax.vmap(layer)))(*arrays))


def test_state_split_once_goes_through_jit_and_grad():
    layer, arrays = make_layer("mlp"), make_arrays("mlp")
    graph, state = nnx.split(layer)
    gradient = jit(jax.grad(lambda state: jnp.sum(nnx.merge(graph, state)(*arrays) ** 2)))(state)
    expected = jit(jax.grad(lambda layer: jnp.sum(layer(*arrays) ** 2)))(layer)
    assert_close(gradient, nnx.state(expected))


# What every score must do


@functools.cache
def attended(name):
    """A function of a length: the context, it and its weights once more, and what moves it.

    Query i may attend to the keys j ≤ i that are among the first `length`.
    """
    layer = make_layer(name)

    @jit
    def program(length, queries, keys, values):
        mask = masks.causal() & masks.lengths(length)
        context, moved_by = influence(
            lambda keys, values: layer(queries, keys, values, mask=mask), keys, values
        )
        mixed, weights = layer.with_weights(queries, keys, values, mask=mask)
        return context, mixed, weights, moved_by

    return lambda length: program(jnp.asarray(length), *make_arrays(name))


PAST = np.tri(QUERIES, KEYS, dtype=bool)


@every_score
def test_weights_sum_to_one_and_mix_the_context(name):
    context, mixed, weights, _ = attended(name)(KEYS)
    assert weights.shape == (HEADS, QUERIES, KEYS)
    assert_close(np.sum(weights, -1), np.ones((HEADS, QUERIES)), tolerance=1e-6)
    _, _, values = make_arrays(name)
    by_head = np.reshape(values, (KEYS, HEADS, VALUE_DIM))
    expected = np.einsum("hqk,khv->qhv", weights, by_head).reshape(QUERIES, -1)
    assert_close((context, mixed), (expected, expected))


@every_score_of_keys
def test_no_query_sees_past_a_causal_mask(name):
    *_, weights, moved_by = attended(name)(KEYS)
    for by_key in [*np.asarray(weights), *arrays_in(moved_by)]:
        assert not np.any(by_key[~PAST])
        assert np.all(by_key[1:][PAST[1:]] > 0)  # query 0 has no choice


@every_score_of_keys
def test_a_masked_key_has_weight_and_gradient_zero(name):
    *_, weights, moved_by = attended(name)(3)
    for by_key in [*np.asarray(weights), *arrays_in(moved_by)]:
        assert not np.any(by_key[:, 3:])
        assert np.all(by_key[2:, :3] > 0)


@every_score
def test_a_query_with_no_key_has_context_weights_and_gradient_zero(name):
    for leaf in arrays_in(attended(name)(0)):
        assert not np.any(leaf)  # which NaN would be


def test_a_query_with_no_key_moves_no_parameter():
    layer, arrays = make_layer("mlp"), make_arrays("mlp", batch=(BATCH,))

    def total(layer, row):
        return jnp.sum(layer(*arrays, mask=masks.lengths(jnp.asarray([4, 0])))[row])

    gradient = jit(jax.grad(total))
    leaves = arrays_in(gradient(layer, 0)), arrays_in(gradient(layer, 1))
    for with_keys, without in zip(*leaves, strict=True):
        assert np.any(with_keys)
        assert not np.any(without)


@every_score_of_keys
def test_permuted_keys_leave_and_permuted_queries_permute_the_context(name):
    queries, keys, values = make_arrays(name)
    attend = jit(make_layer(name))
    context = np.asarray(attend(queries, keys, values))
    order = np.random.default_rng(0).permutation(KEYS)
    assert_close(attend(queries, keys[order], values[order]), context)
    assert np.max(np.abs(attend(queries, keys, values[order]) - context)) > 0.01
    order = np.random.default_rng(1).permutation(QUERIES)
    assert_close(attend(queries[order], keys, values), context[order])


@every_score
def test_only_a_score_of_the_key_alone_gives_every_query_the_same_weights(name):
    _, weights = jit(make_layer(name).with_weights)(*make_arrays(name))
    same = np.all(np.asarray(weights) == np.asarray(weights)[:, :1])
    assert same == (name in ("uniform", "linear", "mlp_pooling"))


# Parameters


@functools.cache
def initial(name, seed=0, **options):
    """The layer's own initial parameters, by head."""
    make = functools.partial(Attention, ALL[name], *dims(name), heads=HEADS, **options)
    return arrays_in(jit(lambda: make(rngs=nnx.Rngs(seed)))())


@pytest.mark.parametrize("name", ["mlp", "bilinear", "module"])
def test_heads_begin_with_parameters_of_their_own(name):
    drawn = [leaf for leaf in initial(name) if np.std(leaf) > 0]
    assert drawn
    for leaf in drawn:
        assert leaf.shape[0] == HEADS
        for head in range(HEADS):
            assert not np.any(leaf[head] == leaf[head - 1])


def test_rngs_decide_the_parameters():
    (first,), (other,) = (initial("bilinear", seed) for seed in (0, 1))
    assert not np.any(first == other)


def test_options_reach_the_score_of_every_head():
    assert_close(initial("cosine", sharpness=3.0), [np.full(HEADS, 3.0)], tolerance=0)


def test_a_plain_function_has_no_parameters():
    assert not arrays_in(make_layer("function"))


# Inputs


@pytest.mark.parametrize(
    ("name", "batch"), [("linear", (BATCH,)), ("mlp", (BATCH, 2)), ("function", (BATCH,))]
)
def test_queries_without_a_batch_are_shared_by_it(name, batch):
    _, keys, values = make_arrays(name, batch)
    queries, _, _ = make_arrays(name)
    everyone = np.broadcast_to(queries, (*batch, *queries.shape))
    attend = jit(make_layer(name))
    assert_close(attend(queries, keys, values), attend(jnp.asarray(everyone), keys, values))


@pytest.mark.parametrize("method", [Attention.__call__, Attention.with_weights])
def test_the_values_are_the_keys_where_not_given(method):
    layer, (queries, keys, _) = make_layer("mlp", heads=KEY_DIM), make_arrays("mlp")
    method = jit(functools.partial(method, layer))
    assert_close(method(queries, keys), method(queries, keys, keys), tolerance=0)


@pytest.mark.parametrize("batch", [(), (BATCH,)])
def test_queries_and_keys_may_be_pytrees(batch):
    layer = Attention(nearby, QUERY_DIM, KEY_DIM, heads=HEADS, rngs=nnx.Rngs(0))
    queries, keys, values = make_arrays("function", batch)
    queries = {"x": queries, "position": normal(5, *batch, QUERIES)}
    keys = {"x": keys, "position": normal(6, *batch, KEYS)}

    def one(queries, keys, values):
        return plain_attend(double_vmap(nearby)(queries, keys), values)

    expected = jit(jax.vmap(one) if batch else one)(queries, keys, values)
    assert_close(jit(layer)(queries, keys, values), expected)


# What cannot be


def test_heads_that_do_not_divide_the_values_are_refused():
    queries, keys, values = make_arrays("mlp")
    with refused(r"value_dim a multiple of heads=3, got shape \(7, 56\)"):
        make_layer("mlp")(queries, keys, values[:, :-1])


@pytest.mark.parametrize("size", [0, -1, 2**31])
@pytest.mark.parametrize("name", ["query_dim", "key_dim", "heads", "hidden"])
def test_what_is_no_size_is_refused_by_its_name(name, size):
    sizes = {"query_dim": QUERY_DIM, "key_dim": KEY_DIM, name: size}
    with refused(rf"^{name}={size}: must be a whole number from 1 to 2147483647"):
        Attention(MLP, **sizes, rngs=nnx.Rngs(0))


def scaled(query, key, *, scale=2.0):
    return scale * overlap(query, key)


def test_a_plain_function_takes_its_options_which_are_no_parameters():
    queries, keys, values = make_arrays("function")

    def layer(**options):
        return Attention(scaled, QUERY_DIM, KEY_DIM, rngs=nnx.Rngs(0), **options)

    def explicit(query, key):
        return 3.0 * overlap(query, key)

    expected = Attention(explicit, QUERY_DIM, KEY_DIM, rngs=nnx.Rngs(0))(queries, keys, values)
    assert_close(layer(scale=3.0)(queries, keys, values), expected)
    assert jax.tree.leaves(nnx.state(layer(scale=3.0))) == []
    structures = [nnx.split(layer(scale=scale))[0] for scale in (3.0, 3.0, 5.0)]
    assert structures[0] == structures[1] != structures[2]
    assert hash(structures[0]) == hash(structures[1])


def test_an_option_that_a_plain_function_does_not_take_is_refused():
    with refused("score function overlap cannot be called: got an unexpected .* 'slope'"):
        Attention(overlap, QUERY_DIM, KEY_DIM, rngs=nnx.Rngs(0), slope=1)


def test_keys_that_are_a_pytree_cannot_be_the_values():
    layer = Attention(nearby, QUERY_DIM, KEY_DIM, rngs=nnx.Rngs(0))
    queries, keys, _ = make_arrays("function")
    with refused("keys that are not one array cannot be the values too: pass values"):
        layer({"x": queries, "position": queries[:, 0]}, {"x": keys, "position": keys[:, 0]})


def test_a_score_that_returns_a_vector_is_named_with_its_shape():
    def vectorial(query, key):
        return query * key[:QUERY_DIM]

    layer = Attention(vectorial, QUERY_DIM, KEY_DIM, heads=HEADS, rngs=nnx.Rngs(0))
    with refused(r"must return a scalar.*vectorial returned shape \(11,\)"):
        layer(*make_arrays("function"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normalizer": "sofmax"}, "normalizer='sofmax' is unknown; choose softmax"),
        (
            {"implementation": "fastest"},
            "implementation='fastest' .* possible here: additive, streaming, dense",
        ),
        (
            {"implementation": "key_only"},
            "'key_only' cannot serve Additive .* here: additive, streaming, dense",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with refused(message):
        make_layer("mlp", **settings)(*make_arrays("mlp"))


@every_score
def test_integer_values_are_refused(name):
    queries, keys, values = make_arrays(name)
    with refused("values must be a floating array .* got int32"):
        make_layer(name)(queries, keys, values.astype(int))


@every_score
def test_values_that_do_not_fit_the_keys_are_refused(name):
    queries, keys, values = make_arrays(name)
    with refused("do not fit"):
        make_layer(name)(queries, keys, values[:-1])
