"""Which algorithm serves a request, and what it takes to add one."""

import functools
import math
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from oracles import (
    HEADS,
    HIDDEN,
    KEYS,
    QUERIES,
    VALUE_DIM,
    arrays_in,
    assert_close,
    jit,
    make_form,
    normal,
    refused,
)
from test_attend import shapes_in

from attention import MLP, Additive, Attention, InnerProduct, KeyOnly, Pairwise, attend, masks
from attention.algorithms import cudnn, dense, streaming, tiles
from attention.algorithms.request import PLATFORMS
from attention.attend import ALGORITHMS

pytestmark = pytest.mark.usefixtures("strict")


def abstract(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def slope(query_index, key_index):
    """A bias of positions."""
    return -jnp.abs(query_index[:, None] - key_index[None, :]).astype(jnp.float32)


def halves(scores, where):
    """A normalizer of which nothing is known."""
    return jnp.where(where, 0.5, 0.0) + 0 * scores


def maker(kind, queries, keys, features, dtype):
    """What makes a form, and the shapes of what it is made from."""
    array = functools.partial(abstract, dtype=dtype)
    if kind is KeyOnly:
        return lambda logits: KeyOnly(logits, queries), [array(1, keys)]
    sides = [array(1, queries, features), array(1, keys, features)]
    if kind is Additive:
        return Additive, [*sides, array(1, features)]
    if kind is Pairwise:
        return functools.partial(Pairwise, jax.tree_util.Partial(jnp.vdot)), sides
    return InnerProduct, sides


def served_by(kind, queries, keys, *, features=3, dtype=jnp.float32, **request):
    """By platform: the name of the algorithm that a program for it is made of."""
    make, shapes = maker(kind, queries, keys, features, dtype)
    codes = {name: 101.0 + number for number, name in enumerate(ALGORITHMS)}

    def coded(code):
        return lambda request: jnp.full((1, queries, 2), code, request.values.dtype)

    @jax.jit  # traced once for all platforms
    def program(values, *arrays):
        return attend(make(*arrays), values, **request)

    marked = {
        name: SimpleNamespace(
            obstacle=algorithm.obstacle,
            cost=algorithm.cost,
            attend=coded(codes[name]),
            KEEPS_PAIRS=getattr(algorithm, "KEEPS_PAIRS", True),
        )
        for name, algorithm in ALGORITHMS.items()
    }
    served = {}
    with mock.patch.dict(ALGORITHMS, marked):
        for platform in PLATFORMS:
            exported = jax.export.export(program, platforms=[platform])
            text = exported(abstract(1, keys, 2, dtype=dtype), *shapes).mlir_module()
            (served[platform],) = [n for n, code in codes.items() if f"<{code:.6e}>" in text]
    return served


CAUSAL, LENGTHS, WINDOW = masks.causal(), masks.lengths(jnp.asarray([5])), masks.window(2)
LARGE, SMALL = (1021, 1031), (1021, 1021)  # about 2²⁰ pairs
EVERYWHERE = [
    # Scores, mask and bias that are the same for all queries: pooled or scanned, at any size.
    ((KeyOnly, 1, 1), "key_only"),
    ((KeyOnly, *SMALL), "key_only"),
    ((KeyOnly, *LARGE, "mask", LENGTHS), "key_only"),
    ((KeyOnly, *LARGE, "normalizer", "entmax15"), "key_only"),
    ((KeyOnly, *LARGE, "normalizer", halves), "key_only"),
    ((KeyOnly, 1, 1, "mask", CAUSAL), "prefix"),
    ((KeyOnly, 1, 7, "mask", CAUSAL & LENGTHS), "prefix"),
    ((KeyOnly, *LARGE, "mask", LENGTHS & CAUSAL), "prefix"),
    # Of all others, small ones are whole arrays, large ones are cut into tiles.
    ((KeyOnly, *SMALL, "mask", CAUSAL, "normalizer", "sigmoid"), "dense"),
    ((KeyOnly, *LARGE, "mask", CAUSAL, "normalizer", "sigmoid"), "streaming"),
    ((KeyOnly, *SMALL, "mask", WINDOW), "dense"),
    ((KeyOnly, *LARGE, "mask", WINDOW), "streaming"),
    ((KeyOnly, *SMALL, "bias", slope), "dense"),
    ((KeyOnly, *LARGE, "bias", slope), "streaming"),
    ((KeyOnly, *LARGE, "bias", slope, "normalizer", "sparsemax"), "dense"),
    ((InnerProduct, *LARGE), "streaming"),
    ((InnerProduct, 1024, 1024), "streaming"),
    ((InnerProduct, *LARGE, "bias", slope, "mask", CAUSAL), "streaming"),
    ((InnerProduct, *SMALL, "normalizer", "sigmoid"), "dense"),
    ((InnerProduct, *LARGE, "normalizer", "sigmoid"), "streaming"),
    ((InnerProduct, *LARGE, "normalizer", "sparsemax"), "dense"),
    ((InnerProduct, *LARGE, "normalizer", halves), "dense"),
    # 2¹⁸ pairs of 16 terms are 2²² terms.
    ((Additive, 512, 511, "features", 16), "dense"),
    ((Additive, 512, 512, "features", 16), "streaming"),
    ((Additive, 512, 512, "features", 16, "normalizer", "sigmoid"), "streaming"),
    ((Additive, 512, 511, "features", 16, "normalizer", "sparsemax"), "dense"),
    ((Additive, 512, 512, "features", 16, "normalizer", "sparsemax"), "additive"),
    ((Additive, 512, 512, "features", 16, "normalizer", halves), "additive"),
    ((Pairwise, 509, 509), "dense"),
    ((Pairwise, 512, 511), "dense"),
    ((Pairwise, 512, 512), "streaming"),
    ((Pairwise, 509, 521, "normalizer", "sigmoid"), "streaming"),
    ((Pairwise, 509, 521, "normalizer", "entmax15"), "dense"),
]


def options(rest):
    return dict(zip(rest[::2], rest[1::2], strict=True))


@pytest.mark.parametrize(("case", "name"), EVERYWHERE)
def test_the_same_algorithm_is_picked_on_every_platform(case, name):
    kind, queries, keys, *rest = case
    served = served_by(kind, queries, keys, **options(rest))
    assert served == dict.fromkeys(PLATFORMS, name)


BY_PLATFORM = {
    "small inner products": ((*SMALL,), ("dense", "inner_product", "inner_product")),
    "the largest of the small": ((1024, 1023), ("dense", "inner_product", "inner_product")),
    "with a bias": ((*SMALL, "bias", slope), ("dense", "inner_product", "inner_product")),
    "in half precision": (
        (7, 7, "dtype", jnp.bfloat16, "mask", WINDOW),
        ("dense", "inner_product", "inner_product"),
    ),
}


@pytest.mark.parametrize(("case", "names"), BY_PLATFORM.values(), ids=BY_PLATFORM)
def test_small_inner_products_are_the_kernel_but_on_a_cpu(case, names):
    queries, keys, *rest = case
    served = served_by(InnerProduct, queries, keys, **options(rest))
    assert tuple(served[platform] for platform in ("cpu", "cuda", "tpu")) == names


@pytest.mark.parametrize("size", [(7, 7), SMALL, LARGE])
def test_beside_cudnn_no_platform_keeps_pairs(monkeypatch, size):
    monkeypatch.setattr(cudnn, "platform_obstacle", lambda: None)
    assert served_by(InnerProduct, *size, dtype=jnp.bfloat16) == {
        "cpu": "streaming",
        "cuda": "cudnn",
        "rocm": "streaming",
        "tpu": "streaming",
    }


# One entry more


def doubled(cost, **constants):
    """An algorithm from outside, which serves additive forms: twice what the reference gives."""

    def obstacle(request):
        return None if isinstance(request.form, Additive) else "it likes hidden units"

    return SimpleNamespace(
        obstacle=obstacle,
        cost=lambda request, platform: cost[platform] if isinstance(cost, dict) else cost,
        attend=lambda request: 2 * dense.attend(request),
        **constants,
    )


def contexts(**options):
    """By `attend` with these options, and by the reference."""
    form, values = make_form(Additive), normal(6, KEYS, VALUE_DIM)
    both = options, {"implementation": "dense"}
    function = jit(lambda *args: [attend(*args, **options) for options in both])
    return arrays_in(function(form, values))


def refuse(kind, **options):
    attend(make_form(kind), normal(6, KEYS, VALUE_DIM), **options)


def test_a_new_algorithm_is_forced_by_its_name(monkeypatch):
    monkeypatch.setitem(ALGORITHMS, "doubled", doubled(math.inf))
    actual, expected = contexts(implementation="doubled")
    assert_close(actual, 2 * expected)


@pytest.mark.parametrize(("cost", "factor"), [(1.0, 2), (1e9, 1), (math.inf, 1)])
def test_a_new_algorithm_is_picked_if_its_cost_is_the_least(monkeypatch, cost, factor):
    monkeypatch.setitem(ALGORITHMS, "doubled", doubled(cost))
    actual, expected = contexts()
    assert_close(actual, factor * expected)


def test_a_new_algorithm_serves_a_layer(monkeypatch):
    monkeypatch.setitem(ALGORITHMS, "doubled", doubled(1.0))
    queries, keys = normal(1, QUERIES, 3), normal(2, KEYS, 5)

    def layer(implementation):
        make = functools.partial(Attention, MLP, 3, 5, hidden=HIDDEN, rngs=nnx.Rngs(0))
        return make(implementation=implementation)(queries, keys)

    actual, expected = jit(lambda: [layer("doubled"), layer("dense")])()
    assert_close(actual, 2 * expected)


def test_a_new_algorithm_is_refused_for_its_obstacle(monkeypatch):
    monkeypatch.setitem(ALGORITHMS, "doubled", doubled(1.0))
    with refused(
        r"implementation='doubled' cannot serve Pairwise with mask=NoneType, bias=NoneType and"
        r" normalizer='softmax'; impossible here: .*, doubled \(it likes hidden units\);"
        r" possible here: streaming, dense$"
    ):
        refuse(Pairwise, implementation="doubled")
    with refused(r"possible here: additive, streaming, dense, doubled$"):
        refuse(Additive, implementation="prefix")


def test_a_refusal_tells_every_obstacle():
    with refused(
        r"impossible here: key_only \(the form must be KeyOnly, not Pairwise\),"
        r" prefix \(the form must be KeyOnly, not Pairwise\),"
        r" inner_product \(the form must be InnerProduct, not Pairwise\),"
        r" additive \(the form must be Additive, not Pairwise\),"
        r" streaming \(the normalizer must be a softmax, with .*, not 'sparsemax'\),"
        r" cudnn \(the form must be InnerProduct, not Pairwise\); possible here: dense$"
    ):
        refuse(Pairwise, implementation="cudnn", normalizer="sparsemax")


@pytest.mark.parametrize(
    ("request_options", "message"),
    [
        ({"bias": slope}, r"key_only \(a bias, .*\), prefix \(a bias, .* query\)"),
        ({"mask": masks.window(1)}, r"key_only \(the mask .*\), prefix \(the mask must be causal"),
        (
            {"mask": masks.causal(), "normalizer": "sigmoid"},
            r"key_only \(the mask .*\), prefix \(the normalizer must be 'softmax', not 'sigmoid'\)",
        ),
    ],
)
def test_a_refusal_for_scores_of_the_key_alone(request_options, message):
    with refused(message):
        refuse(KeyOnly, implementation="additive", **request_options)


def test_an_unknown_implementation_is_refused_with_the_names():
    with refused(
        r"implementation='' is unknown; choose from key_only, prefix, inner_product, additive,"
        r" streaming, dense, cudnn; possible here: additive, streaming, dense$"
    ):
        refuse(Additive, implementation="")


# Platforms that differ

ON_CUDA = dict.fromkeys(PLATFORMS, math.inf) | {"cuda": 0.5}
SIZES = Additive, QUERIES, KEYS


@pytest.mark.parametrize(
    ("constants", "normalizer", "elsewhere"),
    [
        ({"KEEPS_PAIRS": False}, "softmax", "streaming"),
        ({"KEEPS_PAIRS": True}, "softmax", "dense"),
        ({}, "softmax", "dense"),
        ({"KEEPS_PAIRS": False}, "sparsemax", "dense"),  # there is no other
    ],
)
def test_where_one_platform_keeps_no_pairs_no_other_does(
    monkeypatch, constants, normalizer, elsewhere
):
    monkeypatch.setitem(ALGORITHMS, "new", doubled(ON_CUDA, **constants))
    served = served_by(*SIZES, normalizer=normalizer)
    assert served == dict.fromkeys(PLATFORMS, elsewhere) | {"cuda": "new"}


def test_a_backward_pass_keeps_no_pairs_beside_an_algorithm_that_keeps_none(monkeypatch):
    queries, keys = 101, 103
    tiled = SimpleNamespace(
        obstacle=streaming.obstacle,
        cost=lambda request, platform: ON_CUDA[platform],
        attend=streaming.attend,
        KEEPS_PAIRS=False,
    )

    def loss(*arrays):
        return jnp.sum(attend(InnerProduct(*arrays[:2]), arrays[2]))

    arrays = normal(1, queries, 3), normal(2, keys, 3), normal(3, keys, 2)
    monkeypatch.setattr(tiles, "LARGEST_BLOCK", 11)

    def greatest():
        program = jax.make_jaxpr(jax.grad(loss))(*arrays)
        return max(math.prod(shape) for shape in shapes_in(program))

    assert greatest() >= queries * keys
    monkeypatch.setitem(ALGORITHMS, "tiled", tiled)
    assert greatest() < queries * keys


def test_an_array_that_a_bias_has_closed_over_gets_its_gradient_on_every_platform(monkeypatch):
    """Whole arrays and tiles evaluate the bias at different shapes, in the same program."""
    cheap_on_cpu = SimpleNamespace(
        obstacle=streaming.obstacle,
        cost=lambda request, platform: 0.0 if platform == "cpu" else math.inf,
        attend=streaming.attend,
    )
    form, values = make_form(Additive, (HEADS,)), normal(6, HEADS, KEYS, VALUE_DIM)
    assert form.queries.shape[-1] == HIDDEN

    def pulled(steepness, implementation):
        def context(steepness):
            def bias(i, j):
                distance = (i[:, None] - 2 * j[None, :]).astype(jnp.float32)
                return jnp.sin(steepness[:, None, None] * distance[None])

            return attend(form, values, bias=bias, implementation=implementation)

        tangent = jax.jvp(context, (steepness,), (jnp.cos(steepness),))[1]
        return tangent, jax.grad(lambda steepness: jnp.sum(context(steepness) ** 2))(steepness)

    pulled = jit(pulled, static_argnames="implementation")
    expected = pulled(normal(3, HEADS), "dense")
    monkeypatch.setitem(ALGORITHMS, "tiled", cheap_on_cpu)
    monkeypatch.setattr(tiles, "LARGEST_BLOCK", 3)
    assert np.all(np.asarray(expected[1]))
    assert_close(pulled(normal(3, HEADS), None), expected)
