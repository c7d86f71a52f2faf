import functools
import sys

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

from attention import MLP, SCORES, Attention, Dot, biases, masks
from attention.rotary import rotate

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


called = jit(call)  # one program for all tests of a layer and of arrays of these shapes


# The equation


@functools.partial(jit, static_argnums=0)
def pulled(attend, cotangent, *args):
    context, pullback = jax.vjp(attend, *args)
    return context, pullback(cotangent)


COTANGENT = np.asarray(normal(7, QUERIES, HEADS * VALUE_DIM))


def one_head(score, queries, keys, values):
    return plain_attend(double_vmap(score)(queries, keys), values)


@every_score
def test_heads_are_independent_and_concatenated_in_value_and_gradient(name):
    layer, (queries, keys, values) = make_layer(name), make_arrays(name)
    context, (by_layer, *by_array) = pulled(call, COTANGENT, layer, queries, keys, values)

    contexts, gradients = [], []
    for head in range(HEADS):
        score = jax.tree.map(lambda leaf, head=head: np.asarray(leaf)[head], layer.score)
        own = slice(head * VALUE_DIM, (head + 1) * VALUE_DIM)
        arrays = queries, keys, np.asarray(values)[:, own]
        of_head, gradient = pulled(one_head, COTANGENT[:, own], score, *arrays)
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
    assert_close(called(layer, *arrays), jit(jax.vmap(jax.vmap(layer)))(*arrays))


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

    return lambda length: program(np.int32(length), *make_arrays(name))


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


def context_of(name, *arrays):
    """The context, by the program of the test of independent heads."""
    return np.asarray(pulled(call, COTANGENT, make_layer(name), *arrays)[0])


@every_score_of_keys
def test_permuted_keys_leave_and_permuted_queries_permute_the_context(name):
    queries, keys, values = map(np.asarray, make_arrays(name))
    attend = functools.partial(context_of, name)
    context = attend(queries, keys, values)
    order = np.random.default_rng(0).permutation(KEYS)
    assert_close(attend(queries, keys[order], values[order]), context)
    assert np.max(np.abs(attend(queries, keys, values[order]) - context)) > 0.01
    order = np.random.default_rng(1).permutation(QUERIES)
    assert_close(attend(queries[order], keys, values), context[order])


@every_score
def test_only_a_score_of_the_key_alone_gives_every_query_the_same_context(name):
    # Other weights would make another context: the values of the keys are linearly independent.
    context = context_of(name, *make_arrays(name))
    same = np.all(context == context[:1])
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
    attend = functools.partial(called, make_layer(name))
    assert_close(attend(queries, keys, values), attend(everyone, keys, values))


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


@pytest.mark.parametrize("name", ["rbf", "function"])
@pytest.mark.parametrize(
    "leads", [((1,), (BATCH,)), ((BATCH,), (1,)), ((BATCH,), ()), ((BATCH, 1), (3,))]
)
def test_axes_of_size_1_and_missing_ones_are_shared_by_the_batch(name, leads):
    query_lead, key_lead = leads
    (queries, _, _), (_, keys, values) = make_arrays(name, query_lead), make_arrays(name, key_lead)
    batch = np.broadcast_shapes(*leads)
    everyone = [
        np.broadcast_to(array, (*batch, *array.shape[-2:])) for array in (queries, keys, values)
    ]
    attend = functools.partial(called, make_layer(name))
    assert_close(attend(queries, keys, values), attend(*everyone))


@pytest.mark.parametrize("batch", [(), (BATCH,)])
def test_keys_and_values_are_the_queries_where_not_given(batch):
    layer = randomized(lambda: Attention("mlp", KEY_DIM, KEY_DIM, rngs=nnx.Rngs(0)))
    x = normal(1, *batch, KEYS, KEY_DIM)
    doubled = 2 * np.asarray(x)
    assert_close(called(layer, x), called(layer, x, x, x), tolerance=0)
    assert_close(called(layer, x, values=doubled), called(layer, x, x, doubled), tolerance=0)


@pytest.mark.parametrize("name", ["linear", "rbf", "function"])
@pytest.mark.parametrize(
    ("batch", "queries", "keys"), [((0,), 5, 7), ((BATCH,), 0, 7), ((BATCH,), 5, 0), ((), 0, 0)]
)
def test_without_queries_keys_or_batch_the_result_is_empty_or_zero(name, batch, queries, keys):
    layer, (query_dim, key_dim) = make_layer(name), dims(name)
    shapes = (queries, query_dim), (keys, key_dim), (keys, HEADS * VALUE_DIM)
    arrays = [np.ones((*batch, *shape), np.float32) for shape in shapes]

    @jit
    def program(*arrays):
        return layer(*arrays, mask="causal"), *layer.with_weights(*arrays, mask="causal")

    context, mixed, weights = program(*arrays)
    zero = np.zeros((*batch, queries, HEADS * VALUE_DIM))
    assert_close((context, mixed), (zero, zero))
    assert_close(weights, np.zeros((*batch, HEADS, queries, keys)))


# What no query may attend to


@pytest.mark.parametrize("name", ALL)
def test_what_no_query_may_attend_to_has_no_effect_on_values_and_gradients(name):
    layer, (queries, keys, values) = make_layer(name), make_arrays(name, (BATCH,))
    cotangent = normal(7, BATCH, QUERIES, HEADS * VALUE_DIM)
    # The last query sees the keys up to its index less 1: four. Of the first batch element, two.
    mask = masks.causal(offset=-1) & masks.lengths(jnp.asarray([2, KEYS]))
    reachable = np.arange(KEYS)[None, :, None] < np.array([2, 4])[:, None, None]

    @jit
    def program(keys, values):
        def attend(layer, queries, keys, values):
            return layer(queries, keys, values, mask=mask)

        context, pullback = jax.vjp(attend, layer, queries, keys, values)
        return context, pullback(cotangent)

    expected = arrays_in(program(keys, values))
    for fill in (np.nan, np.inf):
        filled = [np.where(reachable, array, np.float32(fill)) for array in (keys, values)]
        assert_close(arrays_in(program(*filled)), expected)


def test_a_key_of_every_head_alone_counts_by_any_head():
    layer, (queries, keys, values) = make_layer("mlp"), make_arrays("mlp", (BATCH,))
    allowed = np.zeros((1, HEADS, 1, KEYS), bool)
    allowed[0, range(HEADS), 0, range(HEADS)] = True  # a key for each head
    keys = np.array(keys)
    keys[:, HEADS:] = np.nan
    context = called(layer, queries, keys, values, mask=allowed)
    by_head = np.reshape(values, (BATCH, KEYS, HEADS, VALUE_DIM))
    expected = np.concatenate([by_head[:, head, head] for head in range(HEADS)], axis=-1)
    assert_close(context, np.broadcast_to(expected[:, None], context.shape))


# Settings


def test_values_are_split_over_fewer_heads_that_groups_share():
    layer, (queries, keys, _) = make_layer("mlp", heads=6, kv_heads=2), make_arrays("mlp")
    values = normal(4, KEYS, 2 * VALUE_DIM)
    left, right = np.split(np.asarray(values), 2, axis=-1)
    each = np.concatenate([left] * 3 + [right] * 3, axis=-1)
    alone = make_layer("mlp", heads=6)

    @jit
    def program(values, each):
        context, weights = layer.with_weights(queries, keys, values)
        again = layer(queries, keys, values), layer.context(weights, values)
        return context, weights, again, alone.with_weights(queries, keys, each)

    context, weights, again, expected = program(values, each)
    assert_close((context, weights), expected)
    assert_close(again, (expected[0], expected[0]))


@pytest.mark.parametrize("name", ["mlp", "my_lab:overlap"])
def test_a_score_may_be_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "my_lab", sys.modules[overlap.__module__])
    score = {"mlp": MLP, "my_lab:overlap": overlap}[name]
    arrays = make_arrays("mlp")
    by_name, by_itself = (
        Attention(each, QUERY_DIM, KEY_DIM, rngs=nnx.Rngs(0)) for each in (name, score)
    )
    assert_close(jit(by_name)(*arrays), jit(by_itself)(*arrays), tolerance=0)


def test_rotary_positions_turn_queries_and_keys():
    layer = randomized(lambda: Attention("bilinear", 22, 26, rotary=True, rngs=nnx.Rngs(0)))
    plain = randomized(lambda: Attention("bilinear", 22, 26, rngs=nnx.Rngs(0)))
    queries, keys = normal(1, BATCH, QUERIES, 22), normal(2, BATCH, KEYS, 26)
    positions = jnp.asarray([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])

    @jit
    def program(queries, keys):
        turned = rotate(queries, positions), rotate(keys)
        shared = layer(queries[0], keys, query_positions=positions)
        return layer(queries, keys, query_positions=positions), plain(*turned, keys), shared

    context, expected, shared = program(queries, keys)
    assert_close(context, expected)
    assert_close(shared[0], context[0])
    assert np.max(np.abs(shared[1] - shared[0])) > 0.01


@pytest.mark.parametrize("given", ["class", "factory", "name", "instance", "function", "array"])
def test_a_bias_may_be_given_in_any_way(given):
    alibi = biases.Alibi(HEADS, rngs=nnx.Rngs(0))
    distance = np.abs(np.arange(QUERIES)[:, None] - np.arange(KEYS)[None, :]).astype(np.float32)
    table = np.asarray(jit(alibi)(np.arange(QUERIES), np.arange(KEYS)))
    bias = {
        "class": biases.Alibi,
        "factory": lambda heads, *, rngs: biases.Alibi(heads, rngs=rngs),
        "name": "alibi",
        "instance": alibi,
        "array": table,
        "function": lambda i, j: -jnp.float32(abs(i - j)) / 4,
    }[given]
    arrays = make_arrays("mlp")
    layer = Attention(MLP, QUERY_DIM, KEY_DIM, heads=HEADS, bias=bias, rngs=nnx.Rngs(0))
    plain = Attention(MLP, QUERY_DIM, KEY_DIM, heads=HEADS, rngs=nnx.Rngs(0))
    added = np.tile(-0.25 * distance, (HEADS, 1, 1)) if given == "function" else table
    expected = called(plain, *arrays, bias=added)
    assert_close(jit(layer)(*arrays), expected)
    assert_close(called(layer, *arrays), expected)  # as an argument, too


def test_biases_add_and_score_mods_follow_each_other():
    arrays = make_arrays("mlp")
    table = normal(6, HEADS, QUERIES, KEYS)

    def halved(score, i, j):
        return score / 2

    def bent(score, i, j):
        return jnp.sin(score) + jnp.float32(i * j) / 10

    make = functools.partial(Attention, MLP, QUERY_DIM, KEY_DIM, heads=HEADS, rngs=nnx.Rngs(0))
    layer = make(bias=biases.Alibi, score_mod=halved)
    plain = Attention(MLP, QUERY_DIM, KEY_DIM, heads=HEADS, rngs=nnx.Rngs(0))

    @jit
    def program(*arrays):
        pairs = jnp.arange(QUERIES), jnp.arange(KEYS)
        scores = (plain.scores(*arrays[:2]) + layer.bias(*pairs) + table) / 2
        product = (pairs[0][:, None] * pairs[1][None, :]).astype(jnp.float32)
        weights = jax.nn.softmax(jnp.sin(scores) + product[None] / 10)
        return layer(*arrays, bias=table, score_mod=bent), plain.context(weights, arrays[2])

    context, expected = program(*arrays)
    assert_close(context, expected)


def test_a_learned_score_mod_has_a_gradient():
    class Temperature(nnx.Module):
        def __init__(self, heads, *, rngs):
            self.log = nnx.Param(jnp.zeros(()))

        def __call__(self, score, i, j):
            return score * jnp.exp(self.log[...])

    arrays = make_arrays("mlp")
    layer = Attention(MLP, QUERY_DIM, KEY_DIM, score_mod=Temperature, rngs=nnx.Rngs(0))
    gradient = jit(jax.grad(lambda layer: jnp.sum(layer(*arrays) ** 2)))(layer)
    assert abs(gradient.score_mod.log[...]) > 1e-4


# Dropout of the weights


def dropping(**settings):
    """A layer whose weights are all equal, of which it drops a half."""
    settings = {"dropout_rate": 0.5} | settings
    return Attention("uniform", 1, 1, heads=HEADS, rngs=nnx.Rngs(0), **settings)


ONES = jnp.ones((50, 1))


def counted(layer, rngs=None, **arguments):
    """How many weights are left, of 50 × 50 of each head."""
    _, weights = layer.with_weights(ONES, values=jnp.ones((50, HEADS)), rngs=rngs, **arguments)
    assert {round(float(weight), 5) for weight in np.unique(weights)} <= {0.0, 0.02, 0.04}
    return np.count_nonzero(weights, axis=(1, 2))


def test_weights_are_dropped_at_their_rate_and_scaled():
    counts = counted(dropping(deterministic=False))
    assert np.all(abs(counts - 1250) < 100)
    assert len(set(counts)) > 1  # each head by itself


@pytest.mark.parametrize(
    ("made", "called", "drops"),
    [(True, None, False), (False, None, True), (True, False, True), (None, True, False)],
)
def test_the_call_decides_over_the_constructor(made, called, drops):
    counts = counted(dropping(deterministic=made), deterministic=called)
    assert np.all(counts < 2500) == drops


def test_a_layer_that_says_not_whether_it_drops_is_refused():
    with refused("^dropout_rate=0.5: say deterministic="):
        dropping()(ONES, values=jnp.ones((50, HEADS)))


def test_without_dropout_nobody_needs_to_say_whether():
    context = called(dropping(dropout_rate=0.0), ONES, values=jnp.ones((50, HEADS)))
    assert context.shape == (50, HEADS)


def test_randomness_of_the_call_is_a_stream_or_a_key():
    layer, values = dropping(deterministic=False), normal(1, 50, HEADS)
    key = nnx.Rngs(dropout=7).dropout()
    given = [key, nnx.Rngs(dropout=7), nnx.Rngs(7), nnx.Rngs(dropout=7).dropout]
    contexts = [layer(ONES, values=values, rngs=rngs) for rngs in given]
    for context in contexts[1:]:
        assert_close(context, contexts[0], tolerance=0)
    other = layer(ONES, values=values, rngs=nnx.Rngs(dropout=8))
    assert np.max(np.abs(other - contexts[0])) > 0.01


def test_the_stream_of_the_layer_goes_on_from_call_to_call():
    layer, values = dropping(deterministic=False), normal(1, 50, HEADS)
    first, second = layer(ONES, values=values), layer(ONES, values=values)
    assert np.max(np.abs(first - second)) > 0.01
    assert_close(dropping(deterministic=False)(ONES, values=values), first, tolerance=0)


def test_a_layer_without_a_stream_asks_for_one():
    layer = Attention(MLP, 1, 1, dropout_rate=0.5, deterministic=False, rngs=nnx.Rngs(params=0))
    with refused(r"^rngs=None: dropout needs rngs=nnx.Rngs\(dropout=…\) in the call"):
        layer(ONES)
    assert called(layer, ONES, rngs=nnx.Rngs(dropout=0)).shape == (50, 1)


def test_dropout_adds_no_parameter_and_moves_none():
    drops, plain = (
        Attention(MLP, 3, 3, dropout_rate=rate, rngs=nnx.Rngs(0)) for rate in (0.5, 0.0)
    )
    assert_close(arrays_in(nnx.state(drops, nnx.Param)), arrays_in(nnx.state(plain, nnx.Param)))
    assert plain.rngs is None


def test_views_and_modes_of_flax_switch_dropout():
    layer = dropping()
    layer.train()
    assert layer.deterministic is False
    layer.eval()
    assert layer.deterministic is True
    assert nnx.view(layer, deterministic=False).deterministic is False


def test_every_implementation_drops_the_same_weights():
    settings = {"heads": HEADS, "dropout_rate": 0.3, "deterministic": False}

    @jit
    def program(key, *arrays):
        def made(**chosen):
            return Attention(MLP, QUERY_DIM, KEY_DIM, **settings, **chosen, rngs=nnx.Rngs(0))

        contexts = [made(implementation=name)(*arrays, rngs=key) for name in ("dense", "streaming")]
        return *contexts, made().with_weights(*arrays, rngs=key)[0]

    dense, streaming, expected = program(jax.random.key(3), *make_arrays("mlp", (BATCH,)))
    assert_close((dense, streaming), (expected, expected))


# What cannot be


def test_heads_that_do_not_divide_the_values_are_refused():
    queries, keys, values = make_arrays("mlp")
    with refused(r"value_dim a multiple of heads=3, got shape \(7, 56\)"):
        make_layer("mlp")(queries, keys, values[:, :-1])
    with refused(r"value_dim a multiple of kv_heads=2, got shape \(7, 57\)"):
        make_layer("mlp", heads=4, kv_heads=2)(queries, keys, values)


@pytest.mark.parametrize("size", [0, -1, 2**31])
@pytest.mark.parametrize("name", ["query_dim", "key_dim", "heads", "kv_heads", "hidden"])
def test_what_is_no_size_is_refused_by_its_name(name, size):
    sizes = {"query_dim": QUERY_DIM, "key_dim": KEY_DIM, name: size}
    with refused(rf"^{name}={size}: must be a whole number from 1 to 2147483647"):
        Attention(MLP, **sizes, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normalizer": "sofmax"}, "^normalizer='sofmax' is unknown; choose softmax"),
        ({"implementation": "fastest"}, "^implementation='fastest' is unknown; choose key_only"),
        ({"kv_heads": 2, "heads": 3}, "^kv_heads=2: must divide heads=3"),
        ({"rngs": 0}, r"^rngs=0: say rngs=nnx.Rngs\(0\)"),
        ({"rngs": jax.random.key(0)}, r"^rngs=<key<fry> array .*: say rngs=nnx.Rngs\(0\)"),
        ({"dropout_rate": 1.5}, "^dropout_rate=1.5: must be a number from 0 to 1"),
        ({"dropout_rate": "0.1"}, "^dropout_rate='0.1': must be a number from 0 to 1"),
        ({"dropout_rate": None}, "^dropout_rate=None: must be a number from 0 to 1"),
        ({"dropout_rate": True}, "^dropout_rate=True: must be a number from 0 to 1"),
        ({"rotary": True}, "^rotary=True: query_dim=11 and key_dim=13 must be even"),
        ({"bias": "alibbi"}, "^bias 'alibbi' is unknown; choose alibi"),
        ({"score": "mpl"}, "^score 'mpl' is unknown; choose uniform"),
        ({"score": 3}, "^score=3: must be a name, a class or a function"),
        ({"score": Dot(3, 3, rngs=nnx.Rngs(0))}, "^score is an instance of Dot; pass the class"),
    ],
)
def test_settings_that_cannot_be_are_refused_when_the_layer_is_made(settings, message):
    with refused(message):
        Attention(
            **{"score": MLP, "query_dim": QUERY_DIM, "key_dim": KEY_DIM, "rngs": nnx.Rngs(0)}
            | settings
        )


def scaled(query, key, *, scale=2.0):
    return scale * overlap(query, key)


def test_a_plain_function_takes_its_options_which_are_no_parameters():
    queries, keys, values = make_arrays("function")

    def layer(**options):
        return Attention(scaled, QUERY_DIM, KEY_DIM, rngs=nnx.Rngs(0), **options)

    def explicit(query, key):
        return 3.0 * overlap(query, key)

    plain = Attention(explicit, QUERY_DIM, KEY_DIM, rngs=nnx.Rngs(0))
    expected = called(plain, queries, keys, values)
    assert_close(called(layer(scale=3.0), queries, keys, values), expected)
    assert jax.tree.leaves(nnx.state(layer(scale=3.0))) == []
    structures = [nnx.split(layer(scale=scale))[0] for scale in (3.0, 3.0, 5.0)]
    assert structures[0] == structures[1] != structures[2]
    assert hash(structures[0]) == hash(structures[1])


def test_keys_that_are_a_pytree_cannot_be_the_values():
    layer = Attention(nearby, QUERY_DIM, KEY_DIM, rngs=nnx.Rngs(0))
    queries, keys, _ = make_arrays("function")
    with refused("keys that are not one array cannot be the values too: pass values"):
        layer({"x": queries, "position": queries[:, 0]}, {"x": keys, "position": keys[:, 0]})


@pytest.mark.parametrize(("place", "name"), [(0, "queries"), (1, "keys")])
@pytest.mark.parametrize(
    ("wrong", "shapes"),
    [
        ([[1.0] * QUERY_DIM], r"list of arrays of shapes \(\)$"),
        ({"x": jnp.ones((5, 11)), "position": jnp.float32(3)}, r"dict of arrays of shapes .*\(\)"),
        ({"x": jnp.ones((5, 11)), "position": jnp.ones(7)}, r"dict .* shapes \(7,\), \(5, 11\)"),
        ({}, "dict of arrays of shapes none"),
    ],
)
def test_pytrees_without_the_axes_of_an_array_are_named(place, name, wrong, shapes):
    arrays = [*make_arrays("function")]
    arrays[place] = wrong
    with refused(f"^{name} must be one array, or a pytree of arrays .*; got a {shapes}"):
        Attention(nearby, QUERY_DIM, KEY_DIM, rngs=nnx.Rngs(0))(*arrays)


def test_a_score_that_returns_a_vector_is_named_with_its_shape():
    def vectorial(query, key):
        return query * key[:QUERY_DIM]

    layer = Attention(vectorial, QUERY_DIM, KEY_DIM, heads=HEADS, rngs=nnx.Rngs(0))
    with refused(r"must return a scalar.*vectorial returned shape \(11,\)"):
        layer(*make_arrays("function"))


def test_an_implementation_that_cannot_serve_the_score_is_refused():
    with refused("'key_only' cannot serve Additive .* here: additive, streaming, dense"):
        make_layer("mlp", implementation="key_only")(*make_arrays("mlp"))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("place", "message"),
    [
        (0, r"^queries must be \[..., queries, query_dim\] with query_dim=11, got shape \(5, 10\)"),
        (1, r"^keys must be \[..., keys, key_dim\] with key_dim=1[13], got shape \(7, 1[02]\)"),
        (2, r"^values must be \[..., keys, value_dim\] .* heads=3, got shape \(7, 56\)"),
    ],
)
def test_wrong_sizes_are_named(name, place, message):
    arrays = [*make_arrays(name)]
    arrays[place] = arrays[place][:, :-1]
    with refused(message):
        make_layer(name)(*arrays)


@pytest.mark.parametrize(("place", "name"), [(0, "queries"), (1, "keys"), (2, "values")], ids=str)
@pytest.mark.parametrize(
    "mask",
    [masks.causal(), "causal", np.ones((5, 7), bool), jnp.ones((5, 7), bool), lambda i, j: i > j],
)
def test_a_mask_in_the_place_of_an_array_is_recognised(place, name, mask):
    arrays = [*make_arrays("mlp")]
    arrays[place] = mask
    with refused(f"^{name}=.*: looks like a mask; say mask="):
        make_layer("mlp")(*arrays)


def test_batches_that_do_not_fit_are_named():
    (queries, _, _), (_, keys, values) = make_arrays("mlp", (BATCH,)), make_arrays("mlp", (3,))
    with refused(
        r"^the batch axes do not fit each other: queries \(2,\), keys \(3,\), values \(3,\)"
    ):
        make_layer("mlp")(queries, keys, values)


@every_score
def test_integer_values_are_refused(name):
    queries, keys, values = make_arrays(name)
    with refused("values must be a floating array .* got int32"):
        make_layer(name)(queries, keys, np.asarray(values).astype(np.int32))


@every_score
def test_values_that_do_not_fit_the_keys_are_refused(name):
    queries, keys, values = make_arrays(name)
    with refused("do not fit"):
        make_layer(name)(queries, keys, values[:-1])
