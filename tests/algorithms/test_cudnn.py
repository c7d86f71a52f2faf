"""cuDNN's own kernel needs a GPU; all around it is tested with XLA's in its place.

Not under strict promotion, which JAX's own functions do not bear in half precision. XLA's kernel
computes float16 on no CPU.
"""

import functools
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import (
    BATCH,
    FORMS,
    HEADS,
    KEYS,
    QUERIES,
    QUERY_DIM,
    VALUE_DIM,
    assert_close,
    jit,
    make_form,
    normal,
    refused,
)

from attention import InnerProduct, attend, masks
from attention.algorithms import cudnn, dense
from attention.algorithms.request import Request
from attention.normalizers import NORMALIZERS, softmax

LEAD = (BATCH, HEADS)
WIDE = jnp.float32
HALVES = [jnp.float16, jnp.bfloat16]


@functools.cache
def problem(dtype, lead=LEAD, queries=KEYS, dims=(QUERY_DIM, VALUE_DIM), key_bias=True):
    features, value_dim = dims
    form = InnerProduct(
        normal(1, *lead, queries, features, scale=0.4),
        normal(2, *lead, KEYS, features, scale=0.4),
        normal(3, *lead, queries),  # of any type, for it cancels
        normal(4, *lead, KEYS).astype(dtype) if key_bias else None,
    )
    form = InnerProduct(
        form.queries.astype(dtype), form.keys.astype(dtype), form.query_bias, form.key_bias
    )
    return form, normal(6, *lead, KEYS, value_dim).astype(dtype)


def obstacle(form, values, mask=None, bias=None, normalizer="softmax"):
    """Of the request alone, wherever it is asked."""
    return cudnn.request_obstacle(Request(form, values, mask, bias, NORMALIZERS[normalizer]))


# Which requests


@pytest.mark.parametrize("dtypes", [*itertools.product([*HALVES, WIDE], repeat=4)])
def test_all_arrays_must_be_of_one_half_precision(dtypes):
    form, values = problem(WIDE, ())
    arrays = (form.queries, form.keys, form.key_bias, values)
    cast = [np.asarray(array).astype(dtype) for array, dtype in zip(arrays, dtypes, strict=True)]
    queries, keys, key_bias, values = map(jnp.asarray, cast)
    found = obstacle(InnerProduct(queries, keys, None, key_bias), values)
    of_queries, of_keys, _, of_values = dtypes  # the key bias is rounded to that of the keys
    served = of_queries == of_keys == of_values != WIDE
    assert found is None if served else "must be float16, or all bfloat16, not" in found


@pytest.mark.parametrize(
    ("dims", "key_bias", "served"),
    [
        ((128, 19), False, True),
        ((19, 128), True, True),
        ((127, 19), True, True),
        ((128, 19), True, False),
        ((129, 19), False, False),
        ((19, 129), False, False),
        ((1, 1), False, True),
    ],
)
def test_a_key_bias_is_a_feature_and_so_many_fit(dims, key_bias, served):
    found = obstacle(*problem(jnp.bfloat16, (), dims=dims, key_bias=key_bias))
    assert found is None if served else "at most 128 features" in found


@pytest.mark.parametrize("kind", FORMS)
def test_inner_products_alone_are_served(kind):
    form = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), make_form(kind))
    found = obstacle(form, problem(jnp.bfloat16, ())[1])
    assert found is None if kind is InnerProduct else kind.__name__ in found


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_softmax_alone_is_served(normalizer):
    found = obstacle(*problem(jnp.bfloat16), normalizer=normalizer)
    assert found is None if normalizer == "softmax" else repr(normalizer) in found


def test_a_bias_of_positions_is_not_served():
    bias = lambda i, j: -jnp.abs(i[:, None] - j[None, :]).astype(jnp.float32)  # noqa: E731
    assert "no bias of positions" in obstacle(*problem(jnp.bfloat16), bias=bias)


def test_no_queries_are_not_served():
    assert "not 0 and 7" in obstacle(*problem(jnp.bfloat16, queries=0))


PARTS = {
    "causal": masks.causal(),
    "shifted": masks.causal(offset=1),
    "window": masks.window(2),
    "lengths": masks.lengths(jnp.asarray([4, 0])),
    "each": masks.lengths(jnp.asarray([[1, 9, 4], [0, 7, -1]])),
    "dense": masks.dense(jnp.ones((KEYS, KEYS), bool)),
}
SERVED = [
    ("causal",),
    ("lengths",),
    ("each",),
    ("causal", "lengths"),
    ("causal", "each"),
    ("causal", "window"),
]
COMPOSITIONS = [
    names for n in (1, 2, 3) for names in itertools.combinations_with_replacement(PARTS, n)
]


def composed(names):
    return functools.reduce(lambda left, right: left & right, [PARTS[name] for name in names])


@pytest.mark.parametrize("names", COMPOSITIONS, ids=" & ".join)
def test_a_mask_is_served_if_the_kernel_has_words_for_it(names):
    for order in set(itertools.permutations(names)):
        found = obstacle(*problem(jnp.bfloat16), mask=composed(order))
        assert found is None if names in SERVED else "the mask must be" in found


def test_a_mask_with_more_axes_than_the_scores_is_not_served():
    assert "the mask must be" in obstacle(*problem(jnp.bfloat16, ()), mask=PARTS["lengths"])


@pytest.mark.parametrize("names", [(), *SERVED], ids=" & ".join)
def test_a_causal_mask_must_be_square(names):
    mask = composed(names) if names else None
    found = obstacle(*problem(jnp.bfloat16, queries=QUERIES), mask=mask)
    assert "not 5 queries by 7 keys" in found if "causal" in names else found is None


# Where


def gpu(version="PJRT C API\ncuda 12090", capability="9.0"):
    client = SimpleNamespace(platform_version=version)
    return SimpleNamespace(client=client, compute_capability=capability, device_kind="a GPU")


@pytest.mark.parametrize(
    ("backend", "device", "message"),
    [
        ("cpu", None, "this is cpu"),
        ("tpu", None, "this is tpu"),
        ("gpu", gpu("rocm 60400", "gfx90a"), "an NVIDIA GPU, and this is a GPU"),
        ("gpu", gpu(capability="7.5"), "capability 8.0, and a GPU has 7.5"),
        ("gpu", gpu(capability="8.0"), None),
        ("gpu", gpu(capability="10.3"), None),
    ],
)
def test_the_platform_must_be_an_nvidia_gpu_of_late(monkeypatch, backend, device, message):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    found = cudnn.platform_obstacle()
    assert found is None if message is None else message in found


# What it computes


def request(form, values, mask=None):
    return Request(form, values, mask, None, softmax)


def pulled(attend, form, values):
    context, pullback = jax.vjp(attend, form, values)
    return context, pullback(normal(7, *context.shape).astype(context.dtype))


@jit
def both(form, values, mask):
    """By the kernel, and by dense in float32 of the same numbers."""
    wide = jax.tree.map(lambda leaf: leaf.astype(WIDE), (form, values))
    return (
        pulled(lambda f, v: cudnn.attend(request(f, v, mask), "xla"), form, values),
        pulled(lambda f, v: dense.attend(request(f, v, mask)), *wide),
    )


def assert_close_to_dense(form, values, mask):
    actual, expected = both(form, values, mask)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(actual)}
    assert dtypes <= {values.dtype, form.query_bias.dtype}
    # Weights, contexts and cotangents are rounded one after another.
    assert_close(actual, expected, tolerance=4 * float(jnp.finfo(values.dtype).eps))


@pytest.mark.parametrize("names", [(), *SERVED], ids=" & ".join)
def test_context_and_gradient_are_those_of_dense(names):
    form, values = problem(jnp.bfloat16)
    assert_close_to_dense(form, values, composed(names) if names else None)


@pytest.mark.parametrize("key_bias", [True, False])
def test_context_and_gradient_of_more_keys_than_queries(key_bias):
    form, values = problem(jnp.bfloat16, (), QUERIES, dims=(17, 3), key_bias=key_bias)
    assert_close_to_dense(form, values, masks.lengths(jnp.asarray(5)))


def test_no_key_gives_zero():
    actual, _ = both(*problem(jnp.bfloat16), masks.lengths(jnp.zeros(BATCH, jnp.int32)))
    for leaf in jax.tree.leaves(actual):
        assert not np.any(np.asarray(leaf))  # which NaN would be


def test_the_kernel_is_asked_for_nothing_it_might_not_know(monkeypatch):
    asked = {}

    def kernel(queries, keys, values, **options):
        asked.update(options, shapes={queries.shape, keys.shape, values.shape})
        return queries

    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    cudnn.attend(request(*problem(jnp.bfloat16), PARTS["causal"] & PARTS["each"]))
    assert asked["shapes"] == {(BATCH * HEADS, KEYS, 1, 24)}  # a multiple of eight
    lengths = asked["key_value_seq_lengths"]
    assert lengths.dtype == jnp.int32
    assert lengths.tolist() == [1, 7, 4, 1, 7, 1]  # of 1, 9, 4, 0, 7, -1: none empty, none too long
    assert asked["implementation"] == "cudnn"


# Who chooses it


@jax.custom_vjp
def marked(values):
    """Without forward mode, as cuDNN is, and with operations that nothing else here has."""
    return jnp.atan2(values, values)


marked.defvjp(lambda values: (marked(values), None), lambda _, cotangent: (jnp.cos(cotangent),))


@pytest.fixture
def on_a_gpu(monkeypatch):
    monkeypatch.setattr(cudnn, "platform_obstacle", lambda: None)
    monkeypatch.setattr(cudnn, "attend", lambda request: marked(request.values))


def text(platform, function, *args):
    """What a function is lowered to."""
    leaves, structure = jax.tree.flatten(args)
    program = jax.jit(lambda leaves: function(*jax.tree.unflatten(structure, leaves)))
    return jax.export.export(program, platforms=[platform])(leaves).mlir_module()


def uses_cudnn(*args, platform="cuda", **kwargs):
    return "stablehlo.atan2" in text(platform, functools.partial(attend, **kwargs), *args)


@pytest.mark.usefixtures("on_a_gpu")
def test_it_is_picked_for_cuda_alone():
    args = problem(jnp.bfloat16)
    assert uses_cudnn(*args)
    assert not uses_cudnn(*args, platform="cpu")
    assert not uses_cudnn(*args, platform="tpu")
    expected = jit(lambda *args: dense.attend(request(*args)))(*args)
    assert_close(jit(attend)(*args), expected, tolerance=float(jnp.finfo(jnp.bfloat16).eps))


@pytest.mark.usefixtures("on_a_gpu")
def test_its_gradient_is_that_of_the_platform():
    gradient = functools.partial(pulled, attend)
    assert "stablehlo.cosine" in text("cuda", gradient, *problem(jnp.bfloat16))
    assert "stablehlo.cosine" not in text("cpu", gradient, *problem(jnp.bfloat16))


@pytest.mark.usefixtures("on_a_gpu")
def test_it_is_picked_only_if_it_can_serve():
    assert uses_cudnn(*problem(jnp.bfloat16), mask=masks.causal())
    assert not uses_cudnn(*problem(jnp.bfloat16), mask=masks.window(2))
    assert not uses_cudnn(*problem(jnp.bfloat16), implementation="streaming")
    assert not uses_cudnn(*problem(WIDE))


@pytest.mark.usefixtures("on_a_gpu")
def test_it_can_be_forced_where_it_can_serve():
    assert uses_cudnn(*problem(jnp.bfloat16), implementation="cudnn")
    with refused(r"float16, or all bfloat16, not float32\); possible here: inner_product,"):
        attend(*problem(WIDE), implementation="cudnn")
    with refused(r"possible here: inner_product, streaming, dense, cudnn$"):
        attend(*problem(jnp.bfloat16), implementation="prefix")


def test_without_a_gpu_it_is_refused_and_not_picked(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    args = problem(jnp.bfloat16)
    with refused(r"\(it needs an NVIDIA GPU, and this is cpu\); possible here: inner_product,"):
        attend(*args, implementation="cudnn")
    for platform in ("cpu", "tpu", "cuda"):
        assert "__cudnn" not in text(platform, attend, *args)
