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
    assert_close,
    influence,
    loop_attend,
    make_form,
    make_mask,
    normal,
    plain_attend,
    refused,
)

from attention import Additive, InnerProduct, KeyOnly, Pairwise, attend, attend_with_weights, masks

pytestmark = pytest.mark.usefixtures("strict")

LEADS = [(), (BATCH,), (BATCH, HEADS)]
# Every form, by every algorithm that serves it.
SERVED = [
    *((kind, implementation) for kind in FORMS for implementation in (None, "dense")),
    (KeyOnly, "key_only"),
    (InnerProduct, "inner_product"),
]


def make_values(lead=(), value_dim=VALUE_DIM):
    return normal(6, *lead, KEYS, value_dim)


@functools.partial(jax.jit, static_argnames="implementation")
def pulled(form, values, mask=None, implementation=None):
    """The context, and the gradient of a random functional of it."""
    context, pullback = jax.vjp(
        lambda form, values: attend(form, values, mask=mask, implementation=implementation),
        form,
        values,
    )
    return context, pullback(normal(7, *context.shape))


def assert_same_as_dense(form, values, mask, implementations):
    expected = pulled(form, values, mask, "dense")
    for implementation in implementations:
        assert_close(pulled(form, values, mask, implementation), expected)


# Contexts


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", FORMS)
def test_context_and_weights_are_the_equation(kind, mask):
    lead = (BATCH, HEADS)
    form, values, (mask, allowed) = make_form(kind, lead), make_values(lead), make_mask(mask, lead)
    dense = jax.jit(lambda *args, mask: attend_with_weights(*args, mask=mask))
    assert_close(dense(form, values, mask=mask), loop_attend(form, values, allowed))


@pytest.mark.parametrize("lead", LEADS[:2])
@pytest.mark.parametrize("kind", FORMS)
def test_context_and_weights_under_fewer_axes(kind, lead):
    form, values, (mask, allowed) = (
        make_form(kind, lead),
        make_values(lead),
        make_mask("dense", lead),
    )
    dense = jax.jit(lambda *args, mask: attend_with_weights(*args, mask=mask))
    assert_close(dense(form, values, mask=mask), loop_attend(form, values, allowed))


@pytest.mark.parametrize("kind", FORMS)
def test_leading_axes_are_vmap(kind):
    lead = (BATCH, HEADS)
    form, values = make_form(kind, lead), make_values(lead)
    over_lead = jax.jit(jax.vmap(jax.vmap(attend)))
    assert_close(over_lead(form, values), jax.jit(attend)(form, values))


# Gradients


@pytest.mark.parametrize(("kind", "implementation"), SERVED)
def test_gradient_in_float32_is_that_in_float64(kind, implementation):
    form, values, (mask, allowed) = make_form(kind), make_values(), make_mask("lengths")
    _, actual = pulled(form, values, mask, implementation)
    with jax.enable_x64(True):
        form, values, cotangent = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float64), (form, values, normal(7, QUERIES, VALUE_DIM))
        )

        @jax.jit
        def expected(form, values):
            _, pullback = jax.vjp(lambda f, v: plain_attend(f.scores(), v, allowed), form, values)
            return pullback(cotangent)

        assert_close(actual, expected(form, values), tolerance=3e-6)


# Algorithms


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("mask", KEYS_ONLY_MASKS)
def test_key_only_is_dense_in_value_and_gradient(mask, lead):
    mask, _ = make_mask(mask, lead)
    assert_same_as_dense(make_form(KeyOnly, lead), make_values(lead), mask, ["key_only", None])


@pytest.mark.parametrize("mask", sorted(set(MASKS) - set(KEYS_ONLY_MASKS)))
def test_key_only_scores_with_any_mask_are_dense_in_value_and_gradient(mask):
    lead = (BATCH, HEADS)
    mask, _ = make_mask(mask, lead)
    assert_same_as_dense(make_form(KeyOnly, lead), make_values(lead), mask, [None])


@pytest.mark.parametrize("mask", MASKS)
def test_inner_product_is_dense_in_value_and_gradient(mask):
    lead = (BATCH, HEADS)
    mask, _ = make_mask(mask, lead)
    form = make_form(InnerProduct, lead)
    assert_same_as_dense(form, make_values(lead), mask, ["inner_product", None])


@pytest.mark.parametrize("lead", LEADS[:2])
@pytest.mark.parametrize("mask", ["none", "lengths", "dense & batch lengths & causal"])
def test_inner_product_is_dense_under_fewer_axes(mask, lead):
    mask, _ = make_mask(mask, lead)
    form = make_form(InnerProduct, lead)
    assert_same_as_dense(form, make_values(lead), mask, ["inner_product", None])


@pytest.mark.parametrize("value_dim", [2, VALUE_DIM], ids=["narrow", "wide"])
@pytest.mark.parametrize("absent", [["query_bias"], ["key_bias"], ["query_bias", "key_bias"]])
def test_inner_product_is_dense_without_biases(absent, value_dim):
    form = make_form(InnerProduct, (BATCH,))
    form = InnerProduct(**{name: leaf for name, leaf in vars(form).items() if name not in absent})
    assert_same_as_dense(form, make_values((BATCH,), value_dim), None, ["inner_product"])


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


@pytest.mark.parametrize(("kind", "implementation"), SERVED)
def test_a_key_that_is_masked_for_all_has_gradient_zero(kind, implementation):
    mask, values = masks.lengths(jnp.asarray(4)), make_values()
    _, (form_gradient, value_gradient) = pulled(make_form(kind), values, mask, implementation)
    by_key = form_gradient.logits[:, None] if kind is KeyOnly else form_gradient.keys
    for gradient in (by_key, value_gradient):
        assert not jnp.any(gradient[4:])
        assert jnp.all(jnp.any(gradient[:4] != 0, axis=1))


@pytest.mark.parametrize(("kind", "implementation"), SERVED)
def test_a_query_with_no_key_has_context_and_gradient_zero(kind, implementation):
    lead = (BATCH,)
    mask = masks.lengths(jnp.asarray([4, 0]))
    context, gradients = pulled(make_form(kind, lead), make_values(lead), mask, implementation)
    for leaf in jax.tree.leaves((context, gradients)):
        assert not jnp.any(leaf[1])  # which NaN would be
    assert jnp.all(jnp.any(context[0] != 0, axis=-1))
    assert jnp.any(gradients[1][0] != 0)


@pytest.mark.parametrize("implementation", [None, "dense", "inner_product"])
def test_no_query_sees_past_a_causal_mask(implementation):
    form = make_form(InnerProduct)

    def context(keys, key_bias, values):
        parts = InnerProduct(form.queries, keys, None, key_bias[:, 0])
        return attend(parts, values, mask=masks.causal(), implementation=implementation)

    seen = jax.jit(lambda *args: influence(context, *args))(
        form.keys, form.key_bias[:, None], make_values()
    )
    past = np.tri(QUERIES, KEYS, dtype=bool)
    for by_key in seen:
        assert not np.any(np.asarray(by_key)[~past])
        assert np.all(np.asarray(by_key)[1:][past[1:]] > 0)  # query 0 has no choice


@pytest.mark.parametrize("shape", [(QUERIES - 1, KEYS - 1), (QUERIES, KEYS + 1)])
def test_a_dense_mask_of_another_size_is_refused(shape):
    with refused(r"mask"):
        attend(make_form(Additive), make_values(), mask=masks.dense(jnp.ones(shape, bool)))


def test_a_mask_with_more_axes_than_the_scores_is_refused():
    mask = masks.lengths(jnp.asarray([3, 4]))
    with refused("mask with 1 leading axes cannot be used on scores with 0"):
        attend(make_form(KeyOnly), make_values(), mask=mask)


# What cannot be


@pytest.mark.parametrize(
    ("kind", "mask", "implementation", "message"),
    [
        (Additive, None, "inner_product", r"Additive with mask=NoneType .* here: dense$"),
        (Pairwise, None, "key_only", r"'key_only' cannot serve Pairwise .* here: dense$"),
        (InnerProduct, None, "key_only", r"possible here: inner_product, dense$"),
        (KeyOnly, None, "inner_product", r"possible here: key_only, dense$"),
        (KeyOnly, masks.causal(), "key_only", r"KeyOnly with mask=Causal .* here: dense$"),
        (Additive, None, "fastest", r"implementation='fastest' .* possible here: dense$"),
    ],
)
def test_an_impossible_implementation_is_refused(kind, mask, implementation, message):
    with refused(message):
        attend(make_form(kind), make_values(), mask=mask, implementation=implementation)


@pytest.mark.parametrize("function", [attend, attend_with_weights])
def test_an_unknown_normalizer_is_refused(function):
    with refused("normalizer='sofmax' is unknown; choose softmax"):
        function(make_form(Additive), make_values(), normalizer="sofmax")


@pytest.mark.parametrize("function", [attend, attend_with_weights])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (jnp.ones((KEYS, VALUE_DIM), int), r"floating array .* got int32 of shape \(7, 19\)"),
        (jnp.ones(KEYS), r"\[\.\.\., keys, value_dim\], got float32 of shape \(7,\)"),
    ],
)
def test_values_that_cannot_be_mixed_are_refused(function, values, message):
    with refused(message):
        function(make_form(Additive), values)


@pytest.mark.parametrize("function", [attend, attend_with_weights])
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
