"""From a name, a class or a function to a normalizer: for `attend`, and for a layer."""

import functools
import operator

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from oracles import BATCH, HEADS, KEYS, QUERIES, QUERY_DIM, assert_close, normal, refused

from attention.normalizers import (
    NORMALIZERS,
    SPARSE,
    ASEntmax,
    Guarded,
    LearnedSink,
    ScaledEntmax,
    Sigmoid,
    Softmax,
    SoftmaxWithSink,
    find_normalizer,
    make_normalizer,
    normalizer_name,
    read_normalizer,
    softmax,
    sparsemax,
)

pytestmark = pytest.mark.usefixtures("strict")

QUERY_VECTORS, SCORES = normal(5, BATCH, QUERIES, QUERY_DIM), normal(1, BATCH, HEADS, QUERIES, KEYS)
every_name = pytest.mark.parametrize("name", NORMALIZERS)
TO_BE_MADE = ["softmax_sink", "asentmax"]


def make(normalizer, heads=HEADS):
    return make_normalizer(normalizer, QUERY_DIM, heads, nnx.Rngs(0))


class Halves(nnx.Module):
    """A user's own, with a parameter, that leaves the queries alone."""

    def __init__(self, query_dim, heads, *, rngs, start=0.5):
        self.factor = nnx.Param(jnp.full((), start))

    def __call__(self, scores, where):
        return softmax(scores * self.factor[...], where)


class Bare:
    """A class that is made of nothing."""


class Named:
    """A class that is made of something else."""

    def __init__(self, name):
        self.name = name


def make_halves(query_dim, heads, rngs):
    return Halves(query_dim, heads, rngs=rngs, start=0.25)


# For `attend`


@pytest.mark.parametrize("name", [name for name in NORMALIZERS if name not in TO_BE_MADE])
def test_a_name_is_an_entry(name):
    assert find_normalizer(name) is find_normalizer(NORMALIZERS[name]) is NORMALIZERS[name]


@pytest.mark.parametrize(
    "normalizer",
    [
        SoftmaxWithSink(normal(1, HEADS)),
        ScaledEntmax(normal(1, HEADS, QUERIES), normal(2, HEADS, QUERIES)),
        Guarded(operator.add),
        Softmax(),
        Sigmoid(),
    ],
)
def test_what_keeps_the_contract_has_no_guard(normalizer):
    assert find_normalizer(normalizer) is normalizer


def test_a_pytree_need_not_be_hashable():
    module = Halves(QUERY_DIM, HEADS, rngs=nnx.Rngs(0))
    assert find_normalizer(module) == Guarded(module)


@pytest.mark.parametrize(
    ("normalizer", "message"),
    [
        ("sofmax", "normalizer='sofmax' is unknown; choose softmax, .*, entmax15, softmax_one$"),
        (
            "softmax_sink",
            "^normalizer='softmax_sink' stands for a class, and attend takes an instance: .*$",
        ),
        (
            "asentmax",
            r"stands for a class, .*make_normalizer\(normalizer, query_dim, heads, rngs\)$",
        ),
        (LearnedSink, "^normalizer=LearnedSink stands for a class"),
        (functools.partial(ASEntmax, delta=0.5), "^normalizer=.*ASEntmax.* stands for a class"),
        (make_halves, "^normalizer=make_halves stands for a class"),
        (make("asentmax"), r"^normalizer=ASEntmax must read the queries first: .*read_normalizer"),
        (make("softmax_sink"), "^normalizer=LearnedSink must read the queries first"),
    ],
)
def test_what_is_no_normalizer_yet_is_refused_in_a_line(normalizer, message):
    with refused(message):
        find_normalizer(normalizer)


def test_the_names_of_a_message_may_be_fewer():
    with refused("normalizer='sofmax' is unknown; choose softmax, sigmoid$"):
        find_normalizer("sofmax", ("softmax", "sigmoid"))


# For a layer


@every_name
def test_every_name_makes_a_normalizer_for_scores_of_all_heads(name):
    made = make(name)
    normalizer = read_normalizer(made, QUERY_VECTORS)
    weights = normalizer(SCORES, where=jnp.asarray(np.arange(KEYS) > 1))
    assert weights.shape == SCORES.shape
    assert not np.any(weights[..., :2])
    assert np.any(weights)
    assert find_normalizer(normalizer) is normalizer
    assert normalizer_name(normalizer) == name
    assert isinstance(made, nnx.Module) == (name in TO_BE_MADE)


@every_name
def test_a_layer_of_a_name_is_one_structure(name):
    class Layer(nnx.Module):
        def __init__(self):
            self.normalizer = make(name)

    (first, state), (second, _) = nnx.split(Layer()), nnx.split(Layer())
    assert first == second
    assert hash(first) == hash(second)
    assert bool(state) == (name in TO_BE_MADE)
    merged = nnx.merge(first, state).normalizer
    actual, expected = (read_normalizer(n, QUERY_VECTORS)(SCORES) for n in (merged, make(name)))
    assert_close(actual, expected, tolerance=0)


@pytest.mark.parametrize(
    ("maker", "start"),
    [(Halves, 0.5), (functools.partial(Halves, start=0.125), 0.125), (make_halves, 0.25)],
)
def test_a_class_of_ones_own_is_made_with_its_options(maker, start):
    made = make(maker)
    assert isinstance(made, Halves)
    assert made.factor[...] == start
    assert read_normalizer(made, QUERY_VECTORS) is made


@pytest.mark.parametrize("options", [{"delta": 0.25}, {"gamma_range": 3.0}])
def test_options_of_a_normalizer_of_the_package(options):
    made = make(functools.partial(ASEntmax, **options))
    assert all(getattr(made, name) == value for name, value in options.items())


def test_a_path_leads_to_what_it_names():
    assert make("attention.normalizers:sparsemax") is sparsemax
    assert find_normalizer("attention.normalizers:sparsemax") is sparsemax
    assert isinstance(make("attention.normalizers:LearnedSink"), LearnedSink)


def test_what_needs_no_making_is_returned():
    def own(scores, where):
        return scores

    def of_any_arguments(*scores, **where):
        return scores[0]

    for normalizer in (own, of_any_arguments, softmax, sparsemax, SoftmaxWithSink()):
        assert make(normalizer) is normalizer


@pytest.mark.parametrize(
    ("normalizer", "message"),
    [
        ("sofmax", "^normalizer='sofmax' is unknown; choose softmax, .*, softmax_sink, asentmax$"),
        ("nowhere:norm", "^normalizer 'nowhere:norm' cannot be imported: there is no module"),
        (7, "^normalizer=7 is neither a name nor a function"),
        (Named, r"^normalizer=Named is a class, and must be made by \(query_dim, heads, rngs=…\)"),
        (Bare, "^normalizer=Bare is a class, .*, else pass an instance: too many positional"),
        (Softmax, "^normalizer=Softmax is a class, .*, else pass an instance: .*$"),
        (
            functools.partial(LearnedSink, start=1.0),
            "^normalizer=functools.partial.*: got an unexpected keyword argument 'start'$",
        ),
        (
            lambda scores: scores,
            r"lambda> must be hashable, or a pytree, and be called as \(scores",
        ),
        (Named("mine"), "is neither a name nor a function"),
    ],
)
def test_what_no_layer_can_have_is_refused(normalizer, message):
    with refused(message):
        make(normalizer)


def test_a_normalizer_of_no_heads_is_refused():
    with refused("heads=0: must be a whole number"):
        make("asentmax", heads=0)


# Names


@pytest.mark.parametrize(
    ("normalizer", "name"),
    [
        (Softmax(), "softmax"),
        (Sigmoid(), "sigmoid"),
        (SoftmaxWithSink(0.0), "softmax_one"),
        (SoftmaxWithSink(1.0), "softmax_sink"),
        (SoftmaxWithSink(normal(1, HEADS)), "softmax_sink"),
        (Guarded(sparsemax), "sparsemax"),
        (Guarded(make_halves), "make_halves"),
        (Guarded(Halves(1, 1, rngs=nnx.Rngs(0))), "Halves"),
    ],
)
def test_a_normalizer_has_a_name_for_messages(normalizer, name):
    assert normalizer_name(normalizer) == name


def test_sparse_ones_are_told_by_identity():
    assert all(NORMALIZERS[name] in SPARSE for name in ("sparsemax", "entmax15"))
    for name in ("softmax", "softmax_one", *TO_BE_MADE):
        assert read_normalizer(make(name), QUERY_VECTORS) not in SPARSE
