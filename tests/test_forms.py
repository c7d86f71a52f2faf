import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import (
    FORMS,
    KEY_DIM,
    KEYS,
    QUERIES,
    QUERY_DIM,
    assert_close,
    jit,
    loop_scores,
    make_form,
    make_score,
    normal,
    overlap,
    pairs,
    refused,
)

from attention import Additive, InnerProduct, KeyOnly, Pairwise, form_of

pytestmark = pytest.mark.usefixtures("strict")


@pytest.mark.parametrize("kind", FORMS)
def test_scores_are_the_equation(kind):
    form = make_form(kind)
    scores = jit(kind.scores)(form)
    assert scores.shape == (QUERIES, KEYS)
    assert_close(scores, loop_scores(form), tolerance=2e-6)


@pytest.mark.parametrize("absent", [["query_bias"], ["key_bias"], ["query_bias", "key_bias"]])
def test_biases_of_an_inner_product_are_optional(absent):
    form = dataclasses.replace(make_form(InnerProduct), **dict.fromkeys(absent))
    assert_close(jit(InnerProduct.scores)(form), loop_scores(form), tolerance=2e-6)


def test_additive_takes_another_activation():
    form = dataclasses.replace(make_form(Additive), activation=jnp.cos)
    readout = np.asarray(form.readout, np.float64)
    expected = pairs(lambda q, k: np.sum(np.cos(q + k) * readout), form.queries, form.keys)
    assert_close(jit(Additive.scores)(form), expected)


@pytest.mark.parametrize("kind", FORMS)
def test_vmap_adds_an_axis_in_front_of_every_leaf(kind):
    form = make_form(kind, lead=(3,))
    scores = jit(jax.vmap(kind.scores))(form)
    assert_close(scores, np.stack([loop_scores(form, at) for at in range(3)]))


@pytest.mark.parametrize("kind", FORMS)
def test_forms_are_frozen(kind):
    form = make_form(kind)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(form, dataclasses.fields(form)[0].name, None)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("linear", KeyOnly),
        ("mlp", Additive),
        ("bilinear", InnerProduct),
        ("dot", InnerProduct),
        ("scaled_dot", InnerProduct),
        ("cosine", InnerProduct),
        ("module", Pairwise),
        ("subclass", Pairwise),
        ("function", Pairwise),
    ],
)
def test_form_of_keeps_what_the_score_promises(name, kind):
    queries = normal(1, QUERIES, QUERY_DIM)
    keys = normal(2, KEYS, QUERY_DIM if kind is InnerProduct and name != "bilinear" else KEY_DIM)
    assert type(jit(functools.partial(form_of, make_score(name)))(queries, keys)) is kind


def test_the_form_of_a_plain_function_enters_jit_as_an_argument():
    queries, keys = normal(1, QUERIES, QUERY_DIM), normal(2, KEYS, KEY_DIM)
    scores = jit(lambda form: form.scores())(form_of(overlap, queries, keys))
    assert_close(scores, jnp.stack([jnp.stack([overlap(q, k) for k in keys]) for q in queries]))


def test_a_function_may_close_over_what_is_differentiated():
    queries, keys = normal(1, QUERIES, QUERY_DIM), normal(2, KEYS, QUERY_DIM)

    def total(scale):
        return jnp.sum(form_of(lambda q, k: scale * (q @ k), queries, keys).scores())

    assert_close(jit(jax.grad(total))(2.0), jnp.sum(queries @ keys.T))


def test_a_score_may_be_a_constant():
    queries, keys = normal(1, QUERIES, QUERY_DIM), normal(2, KEYS, KEY_DIM)
    scores = form_of(lambda query, key: 2.5, queries, keys).scores()
    assert_close(scores, jnp.full((QUERIES, KEYS), 2.5))


def test_a_score_that_returns_a_vector_is_named_with_its_shape():
    def vectorial(query, key):
        return query * key[:QUERY_DIM]

    queries, keys = normal(1, QUERIES, QUERY_DIM), normal(2, KEYS, KEY_DIM)
    with refused(r"must return a scalar.*vectorial returned shape \(11,\)"):
        form_of(vectorial, queries, keys).scores()
