"""Steps with a cache: rows of the causal layer, at the cost of one row."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params
from oracles import (
    BATCH,
    HEADS,
    OWN,
    SAME_SIZE,
    VALUE_DIM,
    arrays_in,
    assert_close,
    jit,
    nearby,
    normal,
    randomized,
    refused,
)

from attention import SCORES, Attention, biases, masks
from attention.cache import KeyCache, StateCache

pytestmark = pytest.mark.usefixtures("strict")

ALL = SCORES | OWN
KEY_ONLY = ("uniform", "linear", "mlp_pooling")
TIME, LENGTH = 5, 7
QUERY_DIM, KEY_DIM = 22, 26  # even, for rotary positions
VALUES = HEADS * VALUE_DIM


def dims(name):
    return (QUERY_DIM, QUERY_DIM) if name in SAME_SIZE else (QUERY_DIM, KEY_DIM)


@functools.cache
def make_layer(name, **settings):
    """A layer of `HEADS` heads, every parameter random."""
    settings = {"heads": HEADS} | settings
    return randomized(lambda: Attention(ALL[name], *dims(name), rngs=nnx.Rngs(0), **settings))


def make_arrays(name, batch=(BATCH,), time=TIME):
    """Queries, keys and values."""
    query_dim, key_dim = dims(name)
    return (
        normal(1, *batch, time, query_dim),
        normal(2, *batch, time, key_dim),
        normal(3, *batch, time, VALUES),
    )


def first_arrays(name):
    """Query, key and value of the first step."""
    return [np.asarray(array)[:, 0] for array in make_arrays(name)]


def empty(layer, batch=(BATCH,), **settings):
    return layer.init_cache(batch, LENGTH, value_dim=VALUES, **settings)


made_empty = jit(empty, static_argnames=("batch", "dtype"))


def rows(layer, queries, keys, values, cache, **arguments):
    """The context of every step, one after another."""
    axis = values.ndim - 2
    by_time = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, axis, 0), (queries, keys, values))

    def step(cache, now):
        context, cache = layer.step(*now, cache, **arguments)
        return cache, context

    cache, contexts = jax.lax.scan(step, cache, by_time)
    return jnp.moveaxis(contexts, 0, axis), cache


def causal(layer, queries, keys, values, mask=None, **arguments):
    mask = masks.causal() if mask is None else masks.causal() & mask
    return layer(queries, keys, values, mask=mask, **arguments)


@jit
def both(layer, queries, keys, values):
    """The rows by steps, and the causal run."""
    contexts, _ = rows(layer, queries, keys, values, empty(layer, values.shape[:-2]))
    return contexts, causal(layer, queries, keys, values)


# The equation


@pytest.mark.parametrize("name", ALL)
def test_steps_are_the_rows_of_the_causal_run(name):
    contexts, expected = both(make_layer(name), *make_arrays(name))
    assert_close(contexts, expected, tolerance=1e-5)


# Vectors are rotated before a score sees them, and the bias is added to what any form returns: one
# score for each form, and for each set of what a cache keeps of a key.
@pytest.mark.parametrize(
    "name", ["linear", "mlp", "bilinear", "trilinear", "rbf", "function", "module"]
)
def test_positions_of_steps_are_those_of_the_rows(name):
    layer = make_layer(name, rotary=True, bias=biases.RelativePosition)
    contexts, expected = both(layer, *make_arrays(name))
    assert_close(contexts, expected, tolerance=1e-5)


def bent(score, i, j):
    """A score mod that depends on positions."""
    return jnp.sin(score) * (1.0 + 0.1 * jnp.float32(i - 2 * j))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mlp", {"kv_heads": 1}),
        ("mlp", {"bias": biases.Alibi}),
        ("linear", {"bias": biases.Alibi}),
        ("linear", {"rotary": True}),
        ("bilinear", {"normalizer": "sigmoid"}),
        ("linear", {"normalizer": "sparsemax"}),
        ("linear", {"kv_heads": 1}),
        ("scaled_dot", {"normalizer": "softmax_sink"}),
        ("dot", {"normalizer": "asentmax"}),
        ("function", {"score_mod": bent}),
    ],
)
def test_steps_are_rows_under_every_setting_of_the_layer(name, settings):
    contexts, expected = both(make_layer(name, **settings), *make_arrays(name))
    assert_close(contexts, expected, tolerance=1e-5)


def test_two_keys_of_equal_score_mix_their_values_by_halves():
    layer = Attention("dot", 2, 2, rngs=nnx.Rngs(0))
    queries, keys = jnp.array([[[0.0], [0], [1]]]), jnp.array([[[0.0], [0], [2]]])
    values = jnp.array([[[10.0], [20.0], [0.0]]])

    @jit
    def program(queries, keys, values):
        pairs = [jnp.tile(array, (1, 1, 2)) for array in (queries, keys)]
        return rows(layer, *pairs, values, layer.init_cache(1, 3, value_dim=1))[0]

    expected = np.array([[[10.0], [15.0], [30.0 / (2 + math.exp(4.0))]]])
    assert_close(program(queries, keys, values), expected, tolerance=1e-6)


@pytest.mark.parametrize("batch", [(), (BATCH, 3)])
@pytest.mark.parametrize("name", ["mlp", "linear", "function"])
def test_a_cache_has_any_batch_axes(name, batch):
    contexts, expected = both(make_layer(name), *make_arrays(name, batch))
    assert_close(contexts, expected, tolerance=1e-5)


def test_the_value_is_the_key_and_the_key_is_the_query_where_not_given():
    layer = randomized(lambda: Attention("bilinear", KEY_DIM, KEY_DIM, heads=2, rngs=nnx.Rngs(0)))
    x = normal(1, BATCH, TIME, KEY_DIM)

    @jit
    def program(x):
        cache = layer.init_cache(BATCH, LENGTH)
        first, cache = layer.step(x[:, 0], cache=cache)
        second, cache = layer.step(x[:, 1], x[:, 1], cache=cache)
        return jnp.stack([first, second], axis=1), causal(layer, x, x, x)[:, :2]

    contexts, expected = program(x)
    assert_close(contexts, expected, tolerance=1e-5)


@pytest.mark.parametrize("name", ["mlp", "linear", "rbf", "module"])
def test_a_prompt_is_a_step_of_many_keys(name):
    layer, arrays = make_layer(name, rotary=True), make_arrays(name)

    @jit
    def program(arrays):
        prompt, rest = ([array[:, part] for array in arrays] for part in PARTS)
        first, cache = layer.step(*prompt, empty(layer))
        second, cache = rows(layer, *rest, cache)
        return jnp.concatenate([first, second], axis=1), cache.positions, causal(layer, *arrays)

    contexts, positions, expected = program(arrays)
    assert_close(contexts, expected, tolerance=1e-5)
    assert list(positions) == [TIME] * BATCH


PARTS = (slice(0, 3), slice(3, None))


def test_queries_and_keys_may_be_pytrees():
    layer = Attention(nearby, QUERY_DIM, KEY_DIM, heads=HEADS, rngs=nnx.Rngs(0))
    queries, keys, values = make_arrays("function")
    queries = {"x": queries, "position": normal(5, BATCH, TIME)}
    keys = {"x": keys, "position": normal(6, BATCH, TIME)}

    @jit
    def program(queries, keys, values):
        query, key = jax.tree.map(lambda leaf: leaf[0, 0], (queries, keys))
        cache = empty(layer, query=query, key=key)
        return rows(layer, queries, keys, values, cache)[0], causal(layer, queries, keys, values)

    contexts, expected = program(queries, keys, values)
    assert_close(contexts, expected, tolerance=1e-5)


@pytest.mark.parametrize("name", ["mlp", "linear", "subclass"])
def test_steps_have_the_gradients_of_the_causal_run(name):
    layer, arrays = make_layer(name), make_arrays(name)
    cotangent = normal(7, BATCH, TIME, VALUES)

    @jit
    def gradients(layer, *arrays):
        def by_steps(layer, *arrays):
            return jnp.vdot(rows(layer, *arrays, empty(layer))[0], cotangent)

        def at_once(layer, *arrays):
            return jnp.vdot(causal(layer, *arrays), cotangent)

        return tuple(jax.grad(f, argnums=(0, 1, 2, 3))(layer, *arrays) for f in (by_steps, at_once))

    steps, expected = gradients(layer, *arrays)
    assert_close(arrays_in(steps), arrays_in(expected))


# What a step is given beside query, key and value


@pytest.mark.parametrize(
    ("of_step", "of_run"),
    [
        (masks.window(1), masks.window(1)),
        (lambda i, j: i % 2 == j % 2, lambda i, j: i % 2 == j % 2),
        (np.arange(LENGTH) != 1, masks.dense(np.tile(np.arange(TIME) != 1, (TIME, 1)))),
    ],
    ids=["window", "function", "array"],
)
def test_a_mask_rules_out_keys_by_their_positions(of_step, of_run):
    layer, arrays = make_layer("mlp"), make_arrays("mlp")

    @jit
    def program(*arrays):
        mask = of_step if callable(of_step) else jnp.asarray(of_step)[None, None, None]
        given = masks.as_mask(of_run, (BATCH, HEADS, TIME, TIME))
        contexts, _ = rows(layer, *arrays, empty(layer), mask=mask)
        return contexts, causal(layer, *arrays, mask=given)

    contexts, expected = program(*arrays)
    assert_close(contexts, expected, tolerance=1e-5)


def test_a_bias_and_a_score_mod_count_positions():
    layer, arrays = make_layer("mlp", bias=biases.Alibi), make_arrays("mlp")

    def more(i, j):
        return jnp.float32(3 * i - j * i) / 10

    @jit
    def program(*arrays):
        contexts, _ = rows(layer, *arrays, empty(layer), bias=more, score_mod=bent)
        return contexts, causal(layer, *arrays, bias=more, score_mod=bent)

    contexts, expected = program(*arrays)
    assert_close(contexts, expected, tolerance=1e-5)


# Positions of each batch element


@pytest.mark.parametrize("name", ["mlp", "linear", "module"])
def test_a_batch_element_that_is_reset_begins_anew(name):
    layer = make_layer(name, rotary=True)

    @jit
    def program(*arrays):
        before, after = ([array[:, part] for array in arrays] for part in PARTS)
        _, cache = rows(layer, *before, empty(layer))
        cache = cache.reset(jnp.asarray([False, True]))
        contexts, cache = rows(layer, *after, cache)
        whole, anew = causal(layer, *arrays)[0, 3:], causal(layer, *after)[1]
        return contexts, jnp.stack([whole, anew]), cache.positions

    contexts, expected, positions = program(*make_arrays(name))
    assert_close(contexts, expected, tolerance=1e-5)
    assert list(positions) == [TIME, TIME - 3]


# Cost


def products(jaxpr):
    """The shapes of the factors of every product of matrices in a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield [var.aval.shape for var in equation.invars]
        for inner in jaxprs_in_params(equation.params):
            yield from products(inner)


@pytest.mark.parametrize("name", ["mlp", "bilinear", "gatv2"])
def test_a_step_projects_no_old_key(name):
    layer = make_layer(name, rotary=True)
    traced = jax.make_jaxpr(layer.step)(*first_arrays(name), made_empty(layer))
    weights = {leaf.shape[1:] for leaf in arrays_in(layer.score) if leaf.ndim == 3}
    assert weights
    projections = [
        shapes for shapes in products(traced.jaxpr) if {s[-2:] for s in shapes} & weights
    ]
    assert projections
    for shapes in projections:
        assert LENGTH not in {size for shape in shapes for size in shape}


def test_all_steps_are_one_program():
    layer, traces = make_layer("mlp"), []

    @jit
    def step(query, key, value, cache):
        traces.append(1)
        return layer.step(query, key, value, cache)

    cache, arrays = made_empty(layer), map(np.asarray, make_arrays("mlp"))
    for query, key, value in zip(*(np.moveaxis(array, 1, 0) for array in arrays), strict=True):
        _, cache = step(query, key, value, cache)
    assert len(traces) == 1
    assert list(cache.positions) == [TIME] * BATCH


@pytest.mark.parametrize("name", ALL)
def test_the_cache_of_a_score_of_keys_alone_does_not_grow_with_its_length(name):
    layer = make_layer(name)

    def leaves(layer, length):
        cache = layer.init_cache(BATCH, length, value_dim=VALUES)
        assert isinstance(cache, StateCache if name in KEY_ONLY else KeyCache)
        return jax.tree.leaves(cache)

    sizes = [
        sum(leaf.size for leaf in jax.eval_shape(functools.partial(leaves, length=n), layer))
        for n in (LENGTH, 2 * LENGTH)
    ]
    assert (sizes[0] == sizes[1]) == (name in KEY_ONLY)


def test_values_are_held_once_for_a_group_of_heads():
    cache = made_empty(make_layer("mlp", kv_heads=1))
    assert cache.values.shape == (BATCH, 1, LENGTH, VALUES)
    assert cache.length == LENGTH


@pytest.mark.parametrize("name", ["mlp", "linear"])
def test_a_cache_has_the_dtype_asked_for(name):
    layer = make_layer(name)
    cache = made_empty(layer, dtype=jnp.bfloat16)
    arrays = [array.astype(jnp.bfloat16) for array in first_arrays(name)]
    context, after = jit(layer.step)(*arrays, cache)
    assert context.dtype == jnp.bfloat16
    assert [leaf.dtype for leaf in arrays_in(after)] == [leaf.dtype for leaf in arrays_in(cache)]


# A full cache


def test_a_key_without_room_is_refused_where_that_can_be_seen():
    layer, arrays = make_layer("mlp"), make_arrays("mlp")
    cache = dataclasses.replace(made_empty(layer), positions=jax.device_put(np.int32([5, 0])))
    cache.check_room(2)  # exactly fills it
    with refused("a cache of length=7 with 5 keys has no room for 5 more: .* init_cache"):
        layer.step(*arrays, cache)
    with refused("a cache of length=7 with 0 keys has no room for 8 more"):
        jit(layer.step)(*make_arrays("mlp", time=8), made_empty(layer))


def test_where_it_cannot_be_seen_the_context_is_nan_and_the_cache_is_kept():
    layer, arrays = make_layer("mlp"), make_arrays("mlp", time=LENGTH + 1)

    @jit
    def program(*arrays):
        _, cache = rows(layer, *([array[:, :-1] for array in arrays]), empty(layer))
        cache = cache.reset(jnp.asarray([False, True]))
        context, after = layer.step(*(array[:, -1] for array in arrays), cache)
        return context, cache, after

    context, before, after = program(*arrays)
    assert np.all(np.isnan(context[0]))
    assert np.all(np.isfinite(context[1]))
    kept, expected = jax.tree.map(
        lambda leaf: np.asarray(leaf)[0], [(cache.keys, cache.values) for cache in (after, before)]
    )
    assert_close(kept, expected, tolerance=0)


def test_a_state_is_never_full():
    layer, arrays = make_layer("linear"), make_arrays("linear", time=LENGTH + 2)
    contexts, expected = both(layer, *arrays)
    assert_close(contexts, expected, tolerance=1e-5)


# What cannot be


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mlp", {"cache": None}, r"^cache=None: say cache=layer.init_cache\(batch, length\)"),
        ("mlp", {"query": jnp.zeros((BATCH, 3))}, "queries must be .* query_dim=22, got shape"),
        ("mlp", {"value": jnp.zeros(VALUES)}, r"value must have the 1 batch axes .* \(57,\)"),
        ("mlp", {"value": jnp.zeros((BATCH, 58))}, r"a multiple of heads=3, got shape"),
        ("mlp", {"value": jnp.zeros((BATCH, 60))}, r"of other sizes: .*, value_dim=60\)"),
        ("linear", {"value": jnp.zeros((BATCH, 60))}, r"of other sizes: .*, value_dim=60\)"),
        ("mlp", {"cache": "linear"}, "^the cache is of another layer"),
        ("mlp", {"cache": "bilinear"}, "^the cache is of another layer"),
        ("linear", {"cache": "mlp"}, "^the cache is of another layer"),
        ("mlp", {"is_causal": True}, "is_causal=True: say mask="),
        ("mlp", {"rotary": True}, r"^rotary=True: is an argument of Attention\(…\)"),
        ("mlp", {"query_positions": 3}, "^query_positions=3: is an argument of the call of"),
        ("linear", {"mask": masks.window(2)}, "mask=.* this score ignores the query"),
        ("linear", {"bias": biases.Alibi}, r"bias=.*; give bias= to Attention\(…\) instead"),
    ],
)
def test_a_step_that_cannot_be_is_refused(name, change, message):
    layer = make_layer(name)
    query, key, value = map(jax.device_put, first_arrays(name))
    given = {"query": query, "key": key, "value": value, "cache": made_empty(layer)}
    if isinstance(change.get("cache"), str):
        change = {"cache": made_empty(make_layer(change["cache"]))}
    with refused(message):
        layer.step(**(given | change))


def test_as_many_keys_as_queries():
    layer, (queries, keys, values) = make_layer("mlp"), make_arrays("mlp")
    with refused("a step takes a key with each query, got 3 queries and 5 keys"):
        layer.step(queries[:, :3], keys, values, made_empty(layer))


def test_another_batch_than_that_of_the_cache_is_refused():
    layer = make_layer("mlp")
    with refused(r"the batch of the step is \(2,\), that of its cache \(3,\)"):
        layer.step(*first_arrays("mlp"), made_empty(layer, batch=(3,)))


def test_a_cache_in_the_place_of_an_array_is_recognised():
    layer, x = make_layer("mlp"), jnp.zeros((BATCH, QUERY_DIM))
    with refused("^value is a cache; say cache="):
        layer.step(x, x, made_empty(layer), made_empty(layer))
    with refused("^cache=None: say cache=layer.init_cache"):
        layer.step(x, x, made_empty(layer))


@pytest.mark.parametrize("length", [0, -1, 2.5])
def test_a_length_that_is_no_size_is_refused(length):
    with refused(f"^length={length}: must be a whole number"):
        make_layer("mlp").init_cache(BATCH, length)
