import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from oracles import HEADS, KEY_DIM, KEYS, QUERIES, QUERY_DIM, assert_close, jit, normal, refused

from attention import MLP, Attention
from attention.head_parts import is_factory

pytestmark = pytest.mark.usefixtures("strict")


def make(score, **options):
    return Attention(score, QUERY_DIM, KEY_DIM, heads=HEADS, rngs=nnx.Rngs(0), **options)


def factory(query_dim, key_dim, *, width=5, rngs):
    return MLP(query_dim, key_dim, hidden=width, rngs=rngs)


def scaled(query, key, *, scale=2.0):
    return scale * query[0] * key[0]


@pytest.mark.parametrize(
    ("score", "options"),
    [
        (functools.partial(MLP, hidden=5), {}),
        (functools.partial(MLP, hidden=7), {"hidden": 5}),
        (factory, {}),
        (functools.partial(factory, width=5), {}),
        (functools.partial(functools.partial(factory), width=9), {"width": 5}),
    ],
)
def test_a_factory_is_called_once_a_head_with_sizes_and_rngs(score, options):
    layer, expected = make(score, **options), make(MLP, hidden=5)
    arrays = normal(1, QUERIES, QUERY_DIM), normal(2, KEYS, KEY_DIM), normal(3, KEYS, HEADS)
    assert jax.tree.structure(nnx.state(layer)) == jax.tree.structure(nnx.state(expected))
    assert_close(jit(layer)(*arrays), jit(expected)(*arrays), tolerance=0)


@pytest.mark.parametrize("score", [scaled, functools.partial(scaled, scale=3.0)])
def test_a_function_of_query_and_key_is_no_factory(score):
    assert not is_factory(score)
    assert not jax.tree.leaves(nnx.state(make(score)))


def test_options_of_a_partial_function_reach_it():
    arrays = normal(1, QUERIES, QUERY_DIM), normal(2, KEYS, KEY_DIM), normal(3, KEYS, HEADS)
    partial = make(functools.partial(scaled, scale=7.0), scale=3.0)
    assert_close(jit(partial)(*arrays), jit(make(scaled, scale=3.0))(*arrays), tolerance=0)


def test_an_option_may_have_any_name():
    def score(query, key, *, kind, called, score, name):
        return (kind + called + score + name) * query[0] * key[0]

    arrays = normal(1, QUERIES, QUERY_DIM), normal(2, KEYS, KEY_DIM), normal(3, KEYS, HEADS)
    layer = make(functools.partial(score, score=2.0), kind=3.0, called=5.0, name=7.0)
    assert_close(jit(layer)(*arrays), jit(make(scaled, scale=17.0))(*arrays))


class Dropped(nnx.Module):
    def __init__(self, query_dim, key_dim, *, rngs):
        self.inner = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, query, key):
        return jnp.sum(self.inner(query)) * key[0]


class Normed(nnx.Module):
    def __init__(self, query_dim, key_dim, *, rngs):
        self.inner = nnx.BatchNorm(query_dim, rngs=rngs)

    def __call__(self, query, key):
        return jnp.sum(self.inner(query)) * key[0]


class Sown(nnx.Module):
    def __init__(self, query_dim, key_dim, *, rngs):
        pass

    def __call__(self, query, key):
        self.sow(nnx.Intermediate, "product", query[0] * key[0])
        return query[0] * key[0]


@pytest.mark.parametrize("score", [Dropped, Normed])
def test_a_score_with_a_state_is_refused_when_the_layer_is_made(score):
    with refused(rf"score {score.__name__} holds .*inner"):
        make(score)


def test_a_score_that_sows_is_refused_at_the_first_call():
    layer = make(Sown)
    with refused("score Sown changes something as it is called"):
        layer(normal(1, QUERIES, QUERY_DIM), normal(2, KEYS, KEY_DIM), normal(3, KEYS, HEADS))


def test_a_module_that_only_could_drop_is_no_state():
    class Still(nnx.Module):
        def __init__(self, query_dim, key_dim, *, rngs):
            self.inner = nnx.Dropout(0.0)
            self.norm = nnx.LayerNorm(query_dim, rngs=rngs)

        def __call__(self, query, key):
            return jnp.sum(self.norm(self.inner(query))) * key[0]

    assert make(Still).heads == HEADS


def with_width(query_dim, key_dim, *, width, rngs):
    return MLP(query_dim, key_dim, hidden=width, rngs=rngs)


class NoRngs:
    def __init__(self, query_dim, key_dim):
        pass


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (
            with_width,
            "^the score with_width cannot be made: missing a required .*argument: 'width'",
        ),
        (NoRngs, "^the score NoRngs cannot be made: got an unexpected keyword argument 'rngs'"),
        (lambda query: 0.0, "^the score <lambda> cannot be called: too many positional arguments"),
        (lambda q, k, *, rngs: lambda a, b: 0.0, "^score <lambda> must make a module .* got <func"),
    ],
)
def test_a_score_that_cannot_be_made_is_refused_by_its_name(score, message):
    with refused(message):
        make(score)


def test_a_class_that_is_not_made_for_heads_is_refused():
    class Cap:
        def __init__(self, cap):
            pass

    with refused("^the score_mod Cap cannot be made: got an unexpected keyword argument 'rngs'"):
        make(MLP, score_mod=Cap)
