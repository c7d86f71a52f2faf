import functools

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
    assert_close,
    dims,
    double_vmap,
    influence,
    nearby,
    normal,
    overlap,
    plain_attend,
    randomized,
    refused,
)

from attention import MLP, SCORES, Attention, Cosine, masks

pytestmark = pytest.mark.usefixtures("strict")

ALL = SCORES | OWN
every_score = pytest.mark.parametrize("name", ALL)


@functools.cache
def make_layer(name):
    """A layer of `HEADS` heads, every parameter random."""
    layer = Attention(ALL[name], *dims(name), heads=HEADS, rngs=nnx.Rngs(0))
    return randomized(layer, seed=3)


def make_arrays(name, batch=()):
    """Queries, keys and values."""
    query_dim, key_dim = dims(name)
    return (
        normal(1, *batch, QUERIES, query_dim),
        normal(2, *batch, KEYS, key_dim),
        normal(4, *batch, KEYS, HEADS * VALUE_DIM),
    )


def head_by_head(name, layer, queries, keys, values, allowed=True):
    """What the layer must compute for one problem: a score, a softmax and a slice a head."""
    contexts = []
    for head in range(HEADS):
        score = ALL[name]
        if isinstance(score, type):
            score = jax.tree.map(lambda leaf: leaf[head], layer.score)
        own = values[:, head * VALUE_DIM : (head + 1) * VALUE_DIM]
        contexts.append(plain_attend(double_vmap(score)(queries, keys), own, allowed))
    return jnp.concatenate(contexts, axis=-1)


# The equation


@every_score
def test_heads_are_independent_and_concatenated_in_value_and_gradient(name):
    layer, arrays = make_layer(name), make_arrays(name)

    @jax.jit
    def both(layer, *arrays):
        def pulled(attend):
            context, pullback = jax.vjp(attend, layer, *arrays)
            return context, pullback(normal(7, QUERIES, HEADS * VALUE_DIM))

        return pulled(lambda layer, *arrays: layer(*arrays)), pulled(
            functools.partial(head_by_head, name)
        )

    actual, expected = both(layer, *arrays)
    assert_close(actual, expected)


@every_score
def test_batches_of_any_rank_are_vmap(name):
    layer, arrays = make_layer(name), make_arrays(name, batch=(BATCH, 1))
    expected = jax.jit(jax.vmap(jax.vmap(functools.partial(head_by_head, name, layer))))(*arrays)
    assert_close(jax.jit(lambda *args: layer(*args))(*arrays), expected)


def test_vmap_of_the_layer_is_a_batch():
    layer, arrays = make_layer("mlp"), make_arrays("mlp", batch=(BATCH,))
    assert_close(jax.vmap(layer)(*arrays), layer(*arrays))


def test_state_split_once_goes_through_jit_and_grad():
    layer, arrays = make_layer("mlp"), make_arrays("mlp")
    graph, state = nnx.split(layer)

    def loss(state, attend):
        return jnp.mean(attend(nnx.merge(graph, state), *arrays) ** 2)

    gradient = jax.jit(jax.grad(lambda state: loss(state, lambda layer, *a: layer(*a))))(state)
    expected = jax.grad(lambda state: loss(state, functools.partial(head_by_head, "mlp")))(state)
    assert len(jax.tree.leaves(gradient)) == 4
    assert_close(gradient, expected)


@every_score
def test_weights_are_those_of_the_context(name):
    layer, (queries, keys, values) = make_layer(name), make_arrays(name, batch=(BATCH,))
    mask = masks.causal()
    context, weights = jax.jit(lambda *args: layer.with_weights(*args, mask=mask))(
        queries, keys, values
    )
    assert weights.shape == (BATCH, HEADS, QUERIES, KEYS)
    assert_close(jnp.sum(weights, -1), np.ones((BATCH, HEADS, QUERIES)), tolerance=1e-6)
    by_head = values.reshape(BATCH, KEYS, HEADS, VALUE_DIM)
    mixed = jnp.einsum("bhqk,bkhv->bqhv", weights, by_head).reshape(BATCH, QUERIES, -1)
    assert_close(context, mixed)
    assert_close(jax.jit(lambda *args: layer(*args, mask=mask))(queries, keys, values), mixed)


# What every score must do


@every_score
def test_a_masked_key_has_weight_and_gradient_zero(name):
    layer, (queries, keys, values) = make_layer(name), make_arrays(name)
    mask = masks.lengths(jnp.asarray(4))

    @jax.jit
    def seen(keys, values):
        by_key, by_value = influence(lambda k, v: layer(queries, k, v, mask=mask), keys, values)
        _, weights = layer.with_weights(queries, keys, values, mask=mask)
        return by_key, by_value, *weights

    for by_key in seen(keys, values):
        assert not jnp.any(by_key[:, 4:])
        assert jnp.all(by_key[:, :4] > 0)


@every_score
def test_no_query_sees_past_a_causal_mask(name):
    layer, (queries, keys, values) = make_layer(name), make_arrays(name)
    seen = jax.jit(
        lambda *args: influence(lambda k, v: layer(queries, k, v, mask=masks.causal()), *args)
    )
    past = np.tri(QUERIES, KEYS, dtype=bool)
    for by_key in seen(keys, values):
        assert not np.any(np.asarray(by_key)[~past])
        assert np.all(np.asarray(by_key)[1:][past[1:]] > 0)  # query 0 has no choice


@every_score
def test_permutations_of_keys_leave_and_of_queries_permute_the_context(name):
    layer, (queries, keys, values) = make_layer(name), make_arrays(name)
    attend = jax.jit(lambda *args: layer(*args))
    context = attend(queries, keys, values)
    order = np.random.default_rng(0).permutation(KEYS)
    assert_close(attend(queries, keys[order], values[order]), context)
    order = np.random.default_rng(1).permutation(QUERIES)
    assert_close(attend(queries[order], keys, values), context[order])
    assert not np.allclose(attend(queries, keys, values[::-1]), context, atol=1e-2)


@every_score
def test_a_query_with_no_key_has_context_and_gradient_zero(name):
    layer, arrays = make_layer(name), make_arrays(name, batch=(BATCH,))
    mask = masks.lengths(jnp.asarray([4, 0]))

    @jax.jit
    def pulled(cotangent):
        context, pullback = jax.vjp(lambda *args: args[0](*args[1:], mask=mask), layer, *arrays)
        return context, pullback(cotangent)

    context, (_, *by_array) = pulled(jnp.ones((BATCH, QUERIES, HEADS * VALUE_DIM)))
    for leaf in (context, *by_array):
        assert not jnp.any(leaf[1])  # which NaN would be
    assert jnp.all(jnp.any(context[0] != 0, axis=-1))
    _, gradients = pulled(jnp.zeros_like(context).at[1].set(1.0))
    for leaf in jax.tree.leaves(gradients):
        assert not jnp.any(leaf)


@every_score
def test_only_linear_gives_every_query_the_same_weights(name):
    _, weights = jax.jit(lambda *args: make_layer(name).with_weights(*args))(*make_arrays(name))
    same = np.all(np.asarray(weights) == np.asarray(weights)[:, :1])
    assert same == (name == "linear")


# Parameters


@pytest.mark.parametrize("name", ["linear", "mlp", "bilinear", "module", "subclass"])
def test_heads_begin_with_parameters_of_their_own(name):
    layer = Attention(ALL[name], *dims(name), heads=HEADS, rngs=nnx.Rngs(0))
    drawn = [leaf for leaf in jax.tree.leaves(layer) if jnp.std(leaf) > 0]
    assert drawn
    for leaf in drawn:
        assert leaf.shape[0] == HEADS
        for head in range(HEADS):
            assert not np.any(leaf[head] == leaf[head - 1])


def test_rngs_decide_the_parameters():
    first, same, other = (
        Attention(MLP, QUERY_DIM, KEY_DIM, heads=HEADS, rngs=nnx.Rngs(seed)).score.readout[...]
        for seed in (0, 0, 1)
    )
    assert_close(first, same, tolerance=0)
    assert not np.any(first == other)


def test_options_reach_the_score_of_every_head():
    layer = Attention(Cosine, QUERY_DIM, QUERY_DIM, heads=HEADS, rngs=nnx.Rngs(0), sharpness=3.0)
    assert_close(layer.score.sharpness[...], np.full(HEADS, 3.0))


def test_a_plain_function_has_no_parameters():
    assert not jax.tree.leaves(nnx.state(make_layer("function")))


# Inputs


@pytest.mark.parametrize("batch", [(BATCH,), (BATCH, HEADS)])
@pytest.mark.parametrize("name", ["linear", "mlp", "bilinear", "function"])
def test_queries_without_a_batch_are_shared_by_it(name, batch):
    layer, (_, keys, values) = make_layer(name), make_arrays(name, batch)
    queries, _, _ = make_arrays(name)
    everyone = jnp.broadcast_to(queries, (*batch, *queries.shape))
    attend = jax.jit(lambda *args: layer(*args))
    assert_close(attend(queries, keys, values), attend(everyone, keys, values))


@pytest.mark.parametrize("method", [Attention.__call__, Attention.with_weights])
def test_the_values_are_the_keys_where_not_given(method):
    layer = Attention(MLP, QUERY_DIM, KEY_DIM, heads=KEY_DIM, rngs=nnx.Rngs(0))
    queries, keys, _ = make_arrays("mlp")
    assert_close(method(layer, queries, keys), method(layer, queries, keys, keys), tolerance=0)


@pytest.mark.parametrize("batch", [(), (BATCH,)])
def test_queries_and_keys_may_be_pytrees(batch):
    layer = Attention(nearby, QUERY_DIM, KEY_DIM, heads=HEADS, rngs=nnx.Rngs(0))
    queries, keys, values = make_arrays("function", batch)
    queries = {"x": queries, "position": normal(5, *batch, QUERIES)}
    keys = {"x": keys, "position": normal(6, *batch, KEYS)}

    def one(queries, keys, values):
        return plain_attend(double_vmap(nearby)(queries, keys), values)

    expected = jax.jit(jax.vmap(one) if batch else one)(queries, keys, values)
    assert_close(jax.jit(lambda *args: layer(*args))(queries, keys, values), expected)


# What cannot be


def test_heads_that_do_not_divide_the_values_are_refused():
    queries, keys, values = make_arrays("mlp")
    with refused(r"value_dim a multiple of heads=3, got shape \(7, 56\)"):
        make_layer("mlp")(queries, keys, values[:, :-1])


@pytest.mark.parametrize("heads", [0, -1])
def test_heads_must_be_positive(heads):
    with refused("heads"):
        Attention(MLP, QUERY_DIM, KEY_DIM, heads=heads, rngs=nnx.Rngs(0))


def test_options_of_a_plain_function_are_refused():
    with refused(r"plain score function takes no options, got \['hidden', 'slope'\]"):
        Attention(overlap, QUERY_DIM, KEY_DIM, rngs=nnx.Rngs(0), slope=1, hidden=3)


def test_keys_that_are_a_pytree_cannot_be_the_values():
    layer = Attention(nearby, QUERY_DIM, KEY_DIM, rngs=nnx.Rngs(0))
    queries, keys, _ = make_arrays("function")
    position = jnp.zeros(KEYS)
    with refused("keys that are not one array cannot be the values too: pass values"):
        layer({"x": queries, "position": position}, {"x": keys, "position": position})


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
        ({"implementation": "fastest"}, "implementation='fastest' .* possible here: dense"),
        ({"implementation": "key_only"}, "'key_only' cannot serve Additive .* here: dense"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with refused(message):
        layer = Attention(MLP, QUERY_DIM, KEY_DIM, rngs=nnx.Rngs(0), **settings)
        layer(*make_arrays("mlp"))


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
