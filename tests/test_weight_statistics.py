import functools
import math

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
    arrays_in,
    assert_close,
    jit,
    loop_scores,
    make_form,
    make_mask,
    nearby,
    normal,
    refused,
)

from attention import MLP, Attention, InnerProduct, KeyOnly, Pairwise, form_of, masks, statistics
from attention.algorithms import tiles
from attention.biases import Alibi

pytestmark = pytest.mark.usefixtures("strict")

LEAD = (BATCH, HEADS)
TOP_K = 3


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "LARGEST_BLOCK", 3)


@functools.partial(jit, static_argnames=("top_k", "lead"))
def computed(form, mask=None, bias=None, top_k=TOP_K, lead=2):
    return statistics(form, mask=mask, bias=bias, top_k=top_k, lead=lead)


def expected_row(scores, allowed):
    """The statistics of one query, from its definition; `scores` and `allowed` of its keys."""
    keys = [j for j in range(KEYS) if allowed[j]]
    total = sum(math.exp(scores[j]) for j in keys)
    weights = {j: math.exp(scores[j]) / total for j in keys}
    order = sorted(keys, key=lambda j: -weights[j])
    top = [*order, *[-1] * KEYS][:TOP_K]
    return (
        math.log(total) if keys else -math.inf,
        -sum(p * math.log(p) for p in weights.values()),
        weights[order[0]] if keys else 0.0,
        order[0] if keys else -1,
        sum(p * j for j, p in weights.items()),
        [weights.get(j, 0.0) for j in top],
        top,
    )


def expected(form, allowed, bias=0.0):
    rows = [
        [expected_row((loop_scores(form, at) + bias)[i], allowed[at][i]) for i in range(QUERIES)]
        for at in np.ndindex(LEAD)
    ]
    columns = [np.array([[row[c] for row in of] for of in rows]) for c in range(7)]
    return [column.reshape(*LEAD, *column.shape[1:]) for column in columns]


def assert_statistics(actual, wanted):
    for a, b in zip(arrays_in(actual), wanted, strict=True):
        np.testing.assert_array_equal(np.isneginf(a), np.isneginf(b))
        assert_close(np.where(np.isneginf(a), 0, a), np.where(np.isneginf(b), 0, b))


@pytest.mark.parametrize("mask", MASKS)
def test_statistics_are_their_definitions(mask):
    form = make_form(InnerProduct, LEAD)
    mask, allowed = make_mask(mask, LEAD)
    assert_statistics(computed(form, mask), expected(form, allowed))


@pytest.mark.parametrize("kind", FORMS)
def test_every_form_has_statistics(kind):
    form = make_form(kind, LEAD)
    everywhere = np.ones((*LEAD, QUERIES, KEYS), bool)
    if kind is KeyOnly:  # of equal weights none is the largest
        assert_close(computed(form).entropy, expected(form, everywhere)[1])
    assert_statistics(computed(form), expected(form, everywhere))


def test_a_bias_counts():
    form = make_form(InnerProduct, LEAD)
    bias = Alibi(HEADS, rngs=nnx.Rngs(0))
    distance = abs(np.arange(QUERIES)[:, None] - np.arange(KEYS)[None, :])
    slopes = 2.0**-4, 2.0**-8, 2.0**-2  # of two heads, and the first of four
    added = [-slope * distance for slope in slopes]
    actual = computed(form, bias=bias)
    for h in range(HEADS):
        wanted = expected(form, np.ones((*LEAD, QUERIES, KEYS), bool), added[h])
        assert_statistics([leaf[:, h] for leaf in arrays_in(actual)], [w[:, h] for w in wanted])


def test_equal_scores_have_the_entropy_of_their_number():
    form = KeyOnly(jnp.full((1, KEYS), 50.0), QUERIES)
    actual = computed(form, masks.causal(), lead=1)
    assert_close(actual.entropy[0], np.log(np.arange(1, QUERIES + 1)), tolerance=1e-6)
    assert_close(actual.position[0], np.arange(QUERIES) / 2, tolerance=1e-6)
    assert np.all(np.asarray(actual.max_index) == 0)  # of equals, the first


@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_entropy_is_right_for_scores_of_any_size(scale):
    logits = scale * np.random.default_rng(0).standard_normal(KEYS)
    p = np.exp(logits - logits.max())
    p /= p.sum()
    entropy = -np.sum(p[p > 0] * np.log(p[p > 0]))
    actual = computed(KeyOnly(jax.device_put(logits.astype(np.float32)), QUERIES), lead=0)
    assert_close(actual.entropy, np.full(QUERIES, entropy), tolerance=1e-6)
    assert np.all(np.asarray(actual.entropy) >= -1e-6)


def test_statistics_have_gradients():
    form = make_form(InnerProduct)

    def entropy(queries, keys):
        return jnp.sum(statistics(InnerProduct(queries, keys), mask=masks.causal()).entropy)

    def plain(queries, keys):
        allowed = np.tri(QUERIES, KEYS, dtype=bool)
        log_p = jax.nn.log_softmax(jnp.where(allowed, queries @ keys.T, -1e9), axis=-1)
        return -jnp.sum(jnp.exp(log_p) * log_p)

    streamed, dense = (
        jit(jax.grad(f, argnums=(0, 1)))(form.queries, form.keys) for f in (entropy, plain)
    )
    assert_close(streamed, dense)


@pytest.mark.parametrize("kind", FORMS)
def test_a_form_of_arrays_shows_how_many_leading_axes_it_has(kind):
    for lead in ((), (BATCH,), LEAD):
        told = jax.eval_shape(lambda form: vars(statistics(form)), make_form(kind, lead))
        assert told["entropy"].shape == (*lead, QUERIES)
        assert told["top_indices"].shape == (*lead, QUERIES, 1)


def test_a_form_with_pytrees_needs_lead():
    queries = {"x": normal(1, QUERIES, 11), "position": jnp.arange(float(QUERIES))}
    keys = {"x": normal(2, KEYS, 13), "position": jnp.arange(float(KEYS))}
    form = form_of(nearby, queries, keys)
    assert isinstance(form, Pairwise)
    with refused("where its queries are a dict: pass lead="):
        statistics(form)
    assert statistics(form, lead=0).entropy.shape == (QUERIES,)


@pytest.mark.parametrize("top_k", [0, KEYS + 1])
def test_more_weights_than_keys_are_refused(top_k):
    with refused(f"top_k={top_k}: must be from 1 to the number of keys, 7"):
        statistics(make_form(InnerProduct), top_k=top_k)


@pytest.mark.parametrize("mask", [None, masks.causal()])
@pytest.mark.parametrize(
    ("batch", "queries", "keys", "top_k"), [(0, 5, 7, 3), (2, 0, 7, 3), (2, 5, 0, 1), (2, 0, 0, 1)]
)
def test_without_queries_keys_or_batch_they_are_those_of_rows_without_keys(
    batch, queries, keys, top_k, mask
):
    form = InnerProduct(jnp.ones((batch, HEADS, queries, 11)), jnp.ones((batch, HEADS, keys, 11)))
    told = computed(form, mask, top_k=top_k)
    usual = computed(
        make_form(InnerProduct, LEAD), masks.lengths(jnp.zeros(BATCH, int)), top_k=top_k
    )
    assert [x.dtype for x in jax.tree.leaves(told)] == [x.dtype for x in jax.tree.leaves(usual)]
    rows = (batch, HEADS, queries)
    for a, b in zip(jax.tree.leaves(told), jax.tree.leaves(usual), strict=True):
        row = np.asarray(b)[0, 0, 0]
        np.testing.assert_array_equal(a, np.broadcast_to(row, (*rows, *row.shape)), strict=True)


def test_a_mask_of_another_size_is_refused():
    with refused("does not fit"):
        statistics(make_form(InnerProduct), mask=masks.dense(np.ones((KEYS, KEYS), bool)))


def test_the_layer_tells_them_of_its_weights():
    layer = Attention(MLP, 4, 4, heads=2, bias=Alibi, rngs=nnx.Rngs(0))
    queries, keys = normal(1, BATCH, QUERIES, 4), normal(2, BATCH, KEYS, 4)
    mask = masks.window(2)

    @jit
    def told(layer):
        _, weights = layer.with_weights(queries, keys, mask=mask)
        return weights, layer.statistics(queries, keys, mask=mask, top_k=2)

    weights, actual = told(layer)
    weights = np.asarray(weights)
    assert_close(actual.max_weight, np.max(weights, axis=-1))
    assert_close(actual.max_index, np.argmax(weights, axis=-1))
    assert actual.top_weights.shape == (BATCH, 2, QUERIES, 2)
