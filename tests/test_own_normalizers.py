"""Normalizers that the library does not know: any function from scores to weights."""

import functools
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh
from oracles import (
    BATCH,
    FEW_HIDDEN,
    HEADS,
    KEYS,
    QUERIES,
    QUERY_DIM,
    VALUE_DIM,
    arrays_in,
    assert_close,
    jit,
    loop_scores,
    make_form,
    make_mask,
    normal,
    refused,
)

from attention import (
    Additive,
    Attention,
    Dot,
    InnerProduct,
    KeyOnly,
    Pairwise,
    attend,
    attend_sharded,
    attend_with_weights,
    masks,
)
from attention.normalizers import (
    NORMALIZERS,
    Guarded,
    Sigmoid,
    Softmax,
    sigmoid,
    softmax,
    sparsemax,
)

pytestmark = pytest.mark.usefixtures("strict")

LEAD = (BATCH, HEADS)
EVERY_MASK = "dense & batch lengths & causal"


def power(scores, where):
    """`(s² + 1/10) / Σ (s² + 1/10)`: it looks at `where`, as its sum over all keys must."""
    terms = jnp.where(where, scores**2 + 0.1, 0.0)
    return terms / jnp.sum(terms, axis=-1, keepdims=True)


def best_two(scores, where):
    """A softmax over the two greatest scores. It leaves `where` to its guard."""
    best, _ = jax.lax.top_k(scores, 2)
    terms = jnp.where(scores >= best[..., 1:], jnp.exp(scores - best[..., :1]), 0.0)
    return terms / jnp.sum(terms, axis=-1, keepdims=True)


@dataclass(frozen=True)
class Tempered:
    """An object with a setting."""

    temperature: float

    def __call__(self, scores, where):
        return softmax(scores / self.temperature, where)


def power_by_numpy(scores):
    terms = scores**2 + 0.1
    return terms / terms.sum()


def best_two_by_numpy(scores):
    terms = np.where(scores >= np.sort(scores)[-2:][0], np.exp(scores - scores.max()), 0.0)
    return terms / terms.sum()


def tempered_by_numpy(scores):
    terms = np.exp(scores / 0.3)
    return terms / terms.sum()


OWN = {
    "power": (power, power_by_numpy),
    "best two": (best_two, best_two_by_numpy),
    "tempered": (Tempered(0.3), tempered_by_numpy),
}
every_own = pytest.mark.parametrize(("normalizer", "by_numpy"), OWN.values(), ids=OWN)


def loop_weights(form, allowed, by_numpy):
    """The weights, query after query, of the allowed keys alone."""
    weights = np.zeros(allowed.shape)
    for at in np.ndindex(allowed.shape[:-2]):
        scores = loop_scores(form, at)
        for i, row in enumerate(allowed[at]):
            if row.any():
                weights[at][i][row] = by_numpy(scores[i][row])
    return weights


def problem(kind, mask, lead=LEAD):
    form = make_form(kind, lead, hidden=FEW_HIDDEN)
    return form, normal(6, *lead, KEYS, VALUE_DIM), *make_mask(mask, lead)


def context_and_gradient(form, values, mask, normalizer, implementation=None):
    """The context, and the gradient of a random functional of it."""

    def context(form, values):
        options = {"normalizer": normalizer, "implementation": implementation}
        return attend(form, values, mask=mask, **options)

    result, pullback = jax.vjp(context, form, values)
    return result, pullback(normal(7, *result.shape))


pulled = jit(context_and_gradient, static_argnames=("normalizer", "implementation"))


@pytest.mark.parametrize("mask", ["none", EVERY_MASK])
@every_own
def test_context_and_weights_are_the_equation_in_loops(normalizer, by_numpy, mask):
    form, values, mask, allowed = problem(InnerProduct, mask)

    @jit
    def with_and_without_weights(*args):
        return [f(*args, mask=mask, normalizer=normalizer) for f in (attend_with_weights, attend)]

    (context, weights), alone = with_and_without_weights(form, values)
    expected = loop_weights(form, allowed, by_numpy)
    assert_close(weights, expected)
    assert_close(context, expected @ np.asarray(values, np.float64))
    assert_close(alone, context)


@pytest.mark.parametrize(
    ("kind", "mask", "implementation"),
    [
        (KeyOnly, "batch lengths", "key_only"),
        (KeyOnly, "causal", None),
        (Additive, EVERY_MASK, "additive"),
        (Pairwise, EVERY_MASK, None),
    ],
)
def test_every_form_by_every_algorithm_that_holds_all_scores(kind, mask, implementation):
    form, values, mask, allowed = problem(kind, mask)
    actual = pulled(form, values, mask, power, implementation)
    expected = loop_weights(form, allowed, power_by_numpy) @ np.asarray(values, np.float64)
    assert_close(actual[0], expected)
    assert_close(actual, pulled(form, values, mask, power, "dense"), 1e-4)


@every_own
def test_masked_keys_and_queries_without_a_key_have_gradient_zero(normalizer, by_numpy):
    del by_numpy
    form, values, _, _ = problem(InnerProduct, "none", (BATCH,))
    mask = masks.lengths(jnp.asarray([4, 0]))
    for leaf in arrays_in(pulled(form, values, mask, normalizer)):
        assert np.all(np.isfinite(leaf))
        assert not np.any(leaf[1])
    _, (gradient, by_value) = pulled(form, values, mask, normalizer)
    for leaf in arrays_in([gradient.keys, by_value]):
        assert np.any(leaf[0, :4])
        assert not np.any(leaf[0, 4:])


@pytest.mark.parametrize("careless", [lambda s, where: s + 9, lambda s, where: s * jnp.nan])
def test_what_a_function_gives_to_masked_keys_is_dropped(careless):
    form, values, mask, allowed = problem(KeyOnly, EVERY_MASK)
    function = jit(functools.partial(attend_with_weights, normalizer=careless))
    _, weights = function(form, values, mask=mask)
    np.testing.assert_array_equal(np.asarray(weights) != 0, allowed)


def test_a_function_sees_wide_scores_a_whole_mask_and_no_row_without_keys():
    seen = []

    def watching(scores, where):
        seen.append((scores.dtype, scores.shape, where.dtype, where.shape))
        return softmax(scores)

    def all_rows(scores, where):
        return jnp.where(jnp.all(jnp.any(where, axis=-1)), softmax(scores), jnp.nan)

    form, values, _, _ = problem(KeyOnly, "none", ())
    half = KeyOnly(form.logits.astype(jnp.bfloat16), QUERIES)

    @jit
    def weights_of_all_rows(mask):
        attend(half, values, mask=mask, normalizer=watching, implementation="dense")
        return attend_with_weights(form, values, mask=mask, normalizer=all_rows)[1]

    for mask in (None, masks.lengths(jnp.asarray(0))):
        assert np.all(np.isfinite(weights_of_all_rows(mask)))
    shape = (QUERIES, KEYS)
    assert set(seen) == {(jnp.dtype(jnp.float32), shape, jnp.dtype(bool), shape)}


def test_a_function_sees_finite_scores_and_no_allowed_one_as_low_as_a_masked_one():
    lowest = float(jnp.finfo(jnp.float32).min)
    scores = jnp.asarray([lowest, -1e30, 2.0, jnp.nan, -jnp.inf, 5.0, 0.75 * lowest], jnp.float32)
    where = jnp.asarray([True, True, True, False, True, False, True])
    seen = []

    def watching(scores, where):
        seen.extend([scores, where])
        return jnp.exp(scores)

    weights = Guarded(watching)(scores, where)
    finite = [lowest / 2, -1e30, 2.0, lowest, lowest, lowest, lowest / 2]
    np.testing.assert_array_equal(seen[0], np.array(finite, np.float32))
    np.testing.assert_array_equal(seen[1], np.isin(range(KEYS), [0, 1, 2, 6]))
    assert_close(weights, np.where(np.arange(KEYS) == 2, np.exp(2.0), 0.0), tolerance=1e-6)


def test_a_row_without_a_key_arrives_as_zeros():
    seen = []

    def watching(scores, where):
        seen.extend([scores, where])
        return scores + 1

    weights = Guarded(watching)(jnp.full(KEYS, -jnp.inf), jnp.ones(KEYS, bool))
    assert not np.any(seen[0])
    assert np.all(seen[1])
    assert not np.any(weights)


def test_the_lowest_score_counts_for_a_function_and_has_no_say_in_its_gradient():
    scores = jnp.asarray([-jnp.inf, 1.0, float(jnp.finfo(jnp.float32).min)])

    @jit
    def weights_and_gradient(where):
        weights, pullback = jax.vjp(lambda scores: Guarded(softmax)(scores, where), scores)
        return weights, pullback(normal(1, 3))[0]

    for allowed, expected in (([0, 2], [0, 0, 1.0]), ([0, 1, 2], [0, 1.0, 0])):
        weights, gradient = weights_and_gradient(jnp.asarray(np.isin(range(3), allowed)))
        assert_close(weights, np.array(expected), tolerance=0)
        assert not np.any(gradient)


class Learned(nnx.Module):
    """A parameter of a user's own."""

    def __init__(self, factor):
        self.factor = nnx.Param(jnp.asarray(factor))

    def __call__(self, scores, where):
        return softmax(scores * self.factor[...], where)


def test_a_module_with_a_parameter_gets_its_gradient():
    form, values, mask, _ = problem(InnerProduct, EVERY_MASK)

    def total(normalizer, form):
        return jnp.sum(attend(form, values, mask=mask, normalizer=normalizer) ** 2)

    def by_form(factor, form):
        names = ("queries", "query_bias", "key_bias")
        scaled = replace(form, **{name: getattr(form, name) * factor for name in names})
        return total("softmax", scaled)

    @jit
    def both(normalizer, factor, form):
        return jax.grad(total, (0, 1))(normalizer, form), jax.grad(by_form, (0, 1))(factor, form)

    (by_normalizer, of_form), expected = both(Learned(0.7), jnp.asarray(0.7), form)
    assert np.any(expected[0])
    assert_close(by_normalizer.factor[...], expected[0], tolerance=1e-4)
    assert_close(of_form, expected[1], tolerance=1e-4)


def test_a_layer_with_a_function_of_its_user():
    def layer(normalizer):
        make = functools.partial(Attention, Dot, QUERY_DIM, QUERY_DIM, heads=HEADS)
        return make(normalizer=normalizer, rngs=nnx.Rngs(0))

    queries, keys = normal(1, BATCH, QUERIES, QUERY_DIM), normal(2, BATCH, KEYS, QUERY_DIM)
    values = normal(3, BATCH, KEYS, HEADS * VALUE_DIM)
    limits = np.array([4, 0])
    mask = masks.lengths(jnp.asarray(limits))
    own = layer(power)
    graph, state = nnx.split(own)

    @jit
    def contexts_and_weights(layer, state, *arrays):
        again = nnx.merge(graph, state)(*arrays, mask=mask)
        return layer(*arrays, mask=mask), again, layer.with_weights(*arrays, mask=mask)[1]

    context, again, weights = contexts_and_weights(own, state, queries, keys, values)
    scores = np.einsum("bqd,bkd->bqk", *(np.asarray(x, np.float64) for x in (queries, keys)))
    expected = np.zeros((BATCH, HEADS, QUERIES, KEYS))
    expected[0, :, :, :4] = [[power_by_numpy(row[:4]) for row in scores[0]]] * HEADS
    assert_close(weights, expected)
    by_head = np.asarray(values, np.float64).reshape(BATCH, KEYS, HEADS, VALUE_DIM)
    assert_close(context, np.einsum("bhqk,bkhv->bqhv", expected, by_head).reshape(context.shape))
    assert_close(again, context)


# Names and objects


def test_an_entry_of_the_table_has_a_name_and_a_guard(monkeypatch):
    monkeypatch.setitem(NORMALIZERS, "power", power)
    form, values, mask, allowed = problem(KeyOnly, EVERY_MASK)
    expected = loop_weights(form, allowed, power_by_numpy) @ np.asarray(values, np.float64)
    assert_close(pulled(form, values, mask, "power")[0], expected)
    with refused("'streaming' cannot serve .* and normalizer='power'; .* not 'power'"):
        attend(form, values, normalizer="power", implementation="streaming")


@pytest.mark.parametrize(
    ("normalizer", "name", "implementation"),
    [
        (softmax, "softmax", "inner_product"),
        (Softmax(), "softmax", "streaming"),
        (sigmoid, "sigmoid", "streaming"),
        (Sigmoid(), "sigmoid", "dense"),
        (sparsemax, "sparsemax", "dense"),
    ],
)
def test_an_object_is_its_name(normalizer, name, implementation):
    form, values, mask, _ = problem(InnerProduct, EVERY_MASK)
    program = jax.make_jaxpr(context_and_gradient, static_argnums=(3, 4))
    by_object, by_name = (
        str(program(form, values, mask, either, implementation)) for either in (normalizer, name)
    )
    assert by_object == by_name


def test_equal_normalizers_are_one_key_for_a_cache():
    assert {Softmax(), softmax, Sigmoid(), sigmoid} == {softmax, sigmoid}
    assert softmax != sigmoid


# What cannot be


@pytest.mark.parametrize(
    ("kind", "mask", "implementation", "message"),
    [
        (
            Additive,
            None,
            "streaming",
            r"normalizer='power'; .* streaming \(the normalizer must be a softmax, with or"
            r" without a sink, or a sigmoid, which take keys part by part, not 'power'\), .*"
            r" here: additive, dense$",
        ),
        (
            KeyOnly,
            masks.causal(),
            "prefix",
            r"prefix \(the normalizer must be 'softmax', not 'power'\).* possible here: dense$",
        ),
        (
            InnerProduct,
            None,
            "inner_product",
            r"inner_product \(the normalizer must be 'softmax', not 'power'\).* here: dense$",
        ),
    ],
)
def test_it_is_refused_where_keys_come_part_by_part(kind, mask, implementation, message):
    with refused(message):
        attend(
            make_form(kind),
            normal(6, KEYS, VALUE_DIM),
            mask=mask,
            normalizer=power,
            implementation=implementation,
        )


def test_it_is_refused_on_several_devices():
    mesh = Mesh(jax.devices()[:1], "sequence")
    message = (
        r"normalizer='power' cannot be merged over devices; choose softmax, softmax_one, sigmoid$"
    )
    with refused(message):
        attend_sharded(
            make_form(KeyOnly),
            normal(6, KEYS, VALUE_DIM),
            mesh=mesh,
            axis="sequence",
            normalizer=power,
        )


@dataclass
class Unhashable:
    temperature: float

    def __call__(self, scores, where):
        return softmax(scores / self.temperature, where)


@pytest.mark.parametrize(
    ("normalizer", "message"),
    [
        (7, r"normalizer=7 is neither a name nor a function \(scores, where\) -> weights"),
        (Unhashable(0.3), r"normalizer=Unhashable\(temperature=0.3\) must be hashable"),
        (
            lambda scores, where: scores[..., 1:],
            r"one weight for each score, shape \(5, 7\); <lambda> returned shape \(5, 6\)",
        ),
    ],
)
def test_what_is_no_normalizer_is_refused(normalizer, message):
    with refused(message):
        attend(make_form(Additive), normal(6, KEYS, VALUE_DIM), normalizer=normalizer)
