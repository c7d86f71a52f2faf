import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import (
    BATCH,
    FORMS,
    HEADS,
    KEYS,
    KEYS_ONLY_MASKS,
    MASKS,
    QUERIES,
    VALUE_DIM,
    arrays_in,
    assert_close,
    influence,
    jit,
    loop_attend,
    make_form,
    make_mask,
    normal,
    plain_attend,
    refused,
)

from attention import Additive, InnerProduct, KeyOnly, Pairwise, attend, attend_with_weights, masks

pytestmark = pytest.mark.usefixtures("strict")

LEAD = (BATCH, HEADS)
# Every form, by every algorithm that serves it.
every_algorithm = pytest.mark.parametrize(
    ("kind", "implementation"),
    [
        *((kind, implementation) for kind in FORMS for implementation in (None, "dense")),
        (KeyOnly, "key_only"),
        (InnerProduct, "inner_product"),
    ],
)


def make_values(lead=(), value_dim=VALUE_DIM):
    return normal(6, *lead, KEYS, value_dim)


def problem(kind, mask, lead=LEAD):
    """A form, values, the mask of this name, and what it allows."""
    return make_form(kind, lead), make_values(lead), *make_mask(mask, lead)


@jit
def contexts(form, values, mask):
    return attend(form, values, mask=mask)


@functools.partial(jit, static_argnames="implementations")
def pulled(form, values, mask, implementations):
    """The context, and the gradient of a random functional of it, by each of these."""

    def one(implementation):
        context, pullback = jax.vjp(
            lambda form, values: attend(form, values, mask=mask, implementation=implementation),
            form,
            values,
        )
        return context, pullback(normal(7, *context.shape))

    return [one(implementation) for implementation in implementations]


def assert_same_as_dense(form, values, mask, *implementations):
    expected, *others = pulled(form, values, mask, ("dense", *implementations))
    for actual in others:
        assert_close(actual, expected)


# Contexts


@pytest.mark.parametrize(
    ("kind", "mask"),
    [
        *((InnerProduct, mask) for mask in MASKS),
        *((kind, "none") for kind in FORMS if kind is not InnerProduct),
        *((kind, "dense & batch lengths & causal") for kind in FORMS if kind is not InnerProduct),
    ],
)
def test_context_and_weights_are_the_equation(kind, mask):
    form, values, mask, allowed = problem(kind, mask)
    both = jit(lambda form, values, mask: attend_with_weights(form, values, mask=mask))
    assert_close(both(form, values, mask), loop_attend(form, values, allowed))


@pytest.mark.parametrize("lead", [(), (BATCH,)])
@pytest.mark.parametrize("kind", FORMS)
def test_context_needs_no_leading_axes(kind, lead):
    form, values, mask, allowed = problem(kind, "dense", lead)
    expected, _ = loop_attend(form, values, allowed)
    assert_close(contexts(form, values, mask), expected)


@pytest.mark.parametrize("kind", FORMS)
def test_vmap_is_a_leading_axis(kind):
    form, values, _, allowed = problem(kind, "none")
    expected, _ = loop_attend(form, values, allowed)
    assert_close(jit(jax.vmap(jax.vmap(attend)))(form, values), expected)


# Gradients


def first_keys(length):
    """This many keys, for every query: one program, whatever the length."""
    return masks.lengths(jnp.asarray(length, jnp.int32))


@functools.cache
def gradient_in_float64(kind):
    allowed = np.arange(KEYS) < 4
    with jax.enable_x64(True):
        form, values, cotangent = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float64),
            (make_form(kind), make_values(), normal(7, QUERIES, VALUE_DIM)),
        )

        def functional(form, values):
            return jnp.sum(cotangent * plain_attend(form.scores(), values, allowed))

        return jit(jax.grad(functional, argnums=(0, 1)))(form, values)


@every_algorithm
def test_gradient_in_float32_is_that_in_float64(kind, implementation):
    ((_, actual),) = pulled(make_form(kind), make_values(), first_keys(4), (implementation,))
    assert_close(actual, gradient_in_float64(kind), tolerance=3e-6)


# Algorithms


@pytest.mark.parametrize(
    ("mask", "lead"),
    [
        *((mask, LEAD) for mask in KEYS_ONLY_MASKS),
        ("none", ()),
        ("lengths & batch lengths", ()),
        ("lengths & batch lengths", (BATCH,)),
    ],
)
def test_key_only_is_dense_in_value_and_gradient(mask, lead):
    form, values, mask, _ = problem(KeyOnly, mask, lead)
    assert_same_as_dense(form, values, mask, "key_only", None)


@pytest.mark.parametrize("mask", ["causal", "batch lengths & causal"])
def test_key_only_scores_may_be_masked_for_each_query(mask):
    form, values, mask, allowed = problem(KeyOnly, mask)
    expected, _ = loop_attend(form, values, allowed)
    assert_close(contexts(form, values, mask), expected)


@pytest.mark.parametrize(
    ("mask", "lead"),
    [
        *((mask, LEAD) for mask in MASKS if mask not in ("offset", "window & dense")),
        ("none", ()),
        ("lengths & dense", ()),
        ("lengths & dense", (BATCH,)),
    ],
)
def test_inner_product_is_dense_in_value_and_gradient(mask, lead):
    picked = (None,) if lead and mask in ("none", "dense & batch lengths & causal") else ()
    form, values, mask, _ = problem(InnerProduct, mask, lead)
    assert_same_as_dense(form, values, mask, "inner_product", *picked)


@pytest.mark.parametrize("absent", [["query_bias"], ["key_bias"], ["query_bias", "key_bias"]])
def test_inner_product_is_dense_with_few_values_and_without_biases(absent):
    form = make_form(InnerProduct, (BATCH,))
    form = InnerProduct(**{name: leaf for name, leaf in vars(form).items() if name not in absent})
    assert_same_as_dense(form, make_values((BATCH,), value_dim=2), None, "inner_product")


def shapes_in(jaxpr):
    """The shapes of all that a program computes, loops and branches included."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inner, "eqns"):
                yield from shapes_in(inner)


@pytest.mark.parametrize("mask", [None, masks.lengths(jnp.asarray(50))], ids=["all", "lengths"])
@pytest.mark.parametrize("implementation", [None, "key_only", "dense"])
def test_key_only_makes_no_array_of_pairs(implementation, mask):
    queries, keys = 101, 103

    def loss(form, values):
        return jnp.sum(attend(form, values, mask=mask, implementation=implementation))

    form = KeyOnly(normal(1, keys), queries)
    program = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(form, normal(2, keys, VALUE_DIM))
    greatest = max(math.prod(shape) for shape in shapes_in(program))
    if implementation == "dense":
        assert greatest >= queries * keys  # the measure sees one where there is one
    else:
        assert greatest <= max(queries, keys) * VALUE_DIM


# What masks promise


@every_algorithm
def test_a_key_that_is_masked_for_all_has_gradient_zero(kind, implementation):
    ((_, gradients),) = pulled(make_form(kind), make_values(), first_keys(4), (implementation,))
    by_logit = [gradients[0].logits] if kind is KeyOnly else [gradients[0].keys]
    for gradient in arrays_in([by_logit, gradients[1]]):
        by_key = np.abs(gradient.reshape(KEYS, -1)).max(axis=1)
        assert not np.any(by_key[4:])
        assert np.all(by_key[:4] > 0)


@every_algorithm
def test_a_query_with_no_key_has_context_and_gradient_zero(kind, implementation):
    everything = pulled(make_form(kind), make_values(), first_keys(0), (implementation,))
    for leaf in arrays_in(everything):
        assert not np.any(leaf)  # which NaN would be


def empty_form(kind, queries, keys):
    if kind is KeyOnly:
        return KeyOnly(jnp.zeros(keys), queries)
    arrays = jnp.zeros((queries, 3)), jnp.zeros((keys, 3))
    if kind is Pairwise:
        return Pairwise(jnp.vdot, *arrays)
    return Additive(*arrays, jnp.ones(3)) if kind is Additive else kind(*arrays)


@pytest.mark.parametrize(("queries", "keys"), [(3, 0), (0, 3), (0, 0)])
@pytest.mark.parametrize("mask", [None, masks.causal()])
@pytest.mark.parametrize("implementation", [None, "dense", "streaming"])
@pytest.mark.parametrize("kind", FORMS)
def test_no_keys_and_no_queries(kind, implementation, mask, queries, keys):
    form, values = empty_form(kind, queries, keys), jnp.zeros((keys, 2))
    context = attend(form, values, mask=mask, implementation=implementation)
    np.testing.assert_array_equal(context, np.zeros((queries, 2)))


@pytest.mark.parametrize("implementation", [None, "dense", "inner_product"])
def test_no_query_sees_past_a_causal_mask(implementation):
    form = make_form(InnerProduct)

    def context(keys, key_bias, values):
        parts = InnerProduct(form.queries, keys, None, key_bias[:, 0])
        return attend(parts, values, mask=masks.causal(), implementation=implementation)

    _, seen = jit(functools.partial(influence, context))(
        form.keys, form.key_bias[:, None], make_values()
    )
    past = np.tri(QUERIES, KEYS, dtype=bool)
    for by_key in arrays_in(seen):
        assert not np.any(by_key[~past])
        assert np.all(by_key[1:][past[1:]] > 0)  # query 0 has no choice


@pytest.mark.parametrize("shape", [(QUERIES - 1, KEYS - 1), (QUERIES, KEYS + 1)])
def test_a_dense_mask_of_another_size_is_refused(shape):
    with refused(r"mask"):
        attend(make_form(Additive), make_values(), mask=masks.dense(np.ones(shape, bool)))


def test_a_mask_with_more_axes_than_the_scores_is_refused():
    mask = masks.lengths(jnp.asarray([3, 4]))
    with refused(r"lengths of shape \(2,\) do not fit the leading axes \(\) of the scores"):
        attend(make_form(KeyOnly), make_values(), mask=mask)


# What cannot be


@pytest.mark.parametrize(
    ("kind", "mask", "implementation", "message"),
    [
        (
            Additive,
            None,
            "inner_product",
            r"Additive with mask=NoneType, .* here: additive, streaming, dense$",
        ),
        (
            Pairwise,
            None,
            "key_only",
            r"'key_only' cannot serve Pairwise .* here: streaming, dense$",
        ),
        (InnerProduct, None, "key_only", r"possible here: inner_product, streaming, dense$"),
        (KeyOnly, None, "inner_product", r"possible here: key_only, streaming, dense$"),
        (
            KeyOnly,
            masks.causal(),
            "key_only",
            r"KeyOnly with mask=Causal, .* here: prefix, streaming, dense$",
        ),
        (
            Additive,
            None,
            "fastest",
            r"implementation='fastest' .* possible here: additive, streaming, dense$",
        ),
    ],
)
def test_an_impossible_implementation_is_refused(kind, mask, implementation, message):
    with refused(message):
        attend(make_form(kind), make_values(), mask=mask, implementation=implementation)


both_functions = pytest.mark.parametrize("function", [attend, attend_with_weights])


@both_functions
def test_an_unknown_normalizer_is_refused(function):
    with refused("normalizer='sofmax' is unknown; choose softmax"):
        function(make_form(Additive), make_values(), normalizer="sofmax")


@both_functions
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((KEYS, VALUE_DIM), np.int32), r"floating array .* int32 of shape \(7, 19\)"),
        (np.ones(KEYS, np.float32), r"\[\.\.\., keys, value_dim\], got float32 of shape \(7,\)"),
    ],
)
def test_values_that_cannot_be_mixed_are_refused(function, values, message):
    with refused(message):
        function(make_form(Additive), jax.device_put(values))


@both_functions
@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize(
    ("form_lead", "shape"),
    [
        ((), (KEYS + 1, VALUE_DIM)),
        ((), (BATCH, KEYS, VALUE_DIM)),
        ((BATCH,), (KEYS, VALUE_DIM)),
        ((BATCH,), (HEADS, KEYS, VALUE_DIM)),
    ],
    ids=["keys", "more axes", "fewer axes", "other axes"],
)
def test_values_that_do_not_fit_the_scores_are_refused(kind, form_lead, shape, function):
    with refused("do not fit"):
        function(make_form(kind, form_lead), normal(6, *shape))


@both_functions
@pytest.mark.parametrize(
    ("form", "message"),
    [
        (
            lambda: InnerProduct(normal(1, QUERIES, 3), normal(2, KEYS, 11)),
            r"last axes of InnerProduct must agree, got queries \(5, 3\), keys \(7, 11\)",
        ),
        (
            lambda: Additive(normal(1, QUERIES, 3), normal(2, KEYS, 3), normal(3, 2)),
            r"Additive must agree, got queries \(5, 3\), keys \(7, 3\), readout \(2,\)",
        ),
        (
            lambda: InnerProduct(normal(1, QUERIES, 3), normal(2, KEYS, 3), normal(3, KEYS)),
            r"queries of shape \(7,\) do not fit 5 queries",
        ),
        (
            lambda: KeyOnly(jnp.arange(KEYS), QUERIES),
            r"logits of KeyOnly must be floating, got int32",
        ),
        (
            lambda: InnerProduct(jnp.ones((QUERIES, 3), int), normal(2, KEYS, 3)),
            r"queries of InnerProduct must be floating, got int32 of shape \(5, 3\)",
        ),
    ],
    ids=["features", "hidden", "query bias", "integer logits", "integer queries"],
)
def test_a_form_that_does_not_fit_itself_is_refused(function, form, message):
    with refused(message):
        function(form(), make_values())
