"""What `test_sharded.py` has pytest run in a process that has eight devices."""

import functools
from dataclasses import replace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from oracles import (
    BATCH,
    HEADS,
    VALUE_DIM,
    assert_close,
    jit,
    loop_attend,
    make_form,
    make_mask,
    normal,
    randomized,
)

from attention import (
    MLP,
    Additive,
    Attention,
    Bilinear,
    InnerProduct,
    KeyOnly,
    Pairwise,
    attend,
    attend_sharded,
    biases,
    masks,
)
from attention.algorithms import tiles
from attention.normalizers.sinks import SoftmaxWithSink

pytestmark = pytest.mark.usefixtures("strict", "many_keys")

LEAD = (BATCH, HEADS)
QUERIES, KEYS = 11, 37  # five keys a device, of which the last has two
MESH = Mesh(np.array(jax.devices()), "sequence")


@pytest.fixture
def many_keys():
    """Several tiles a device, the last ones ragged, and more keys than elsewhere."""
    pairs = BATCH * HEADS * 3 * 3
    with (
        mock.patch.multiple(oracles, QUERIES=QUERIES, KEYS=KEYS),
        mock.patch.multiple(tiles, TILE_SIZE=pairs, PAIRWISE_TILE_SIZE=pairs),
    ):
        yield


def problem(kind, mask, bias=False):
    """A form, its values and a bias; a mask, and what it must allow."""
    form = make_form(kind, LEAD)
    if kind is Additive:
        form = replace(form, activation=jnp.sin)  # tanh has three programs in one
    args = form, normal(6, *LEAD, KEYS, VALUE_DIM), relative() if bias else None
    return args, *make_mask(mask, LEAD)


def relative():
    return randomized(lambda: biases.RelativePosition(HEADS, clip=2, rngs=nnx.Rngs(0)), seed=9)


sharded = functools.partial(attend_sharded, mesh=MESH, axis="sequence")
dense = functools.partial(attend, implementation="dense")


@functools.partial(jit, static_argnums=(0, 3))
def pulled(attend, args, mask, normalizer="softmax"):
    """The context, and the gradient of a random functional of it, by form, values and bias."""

    def context(form, values, bias):
        return attend(form, values, mask=mask, bias=bias, normalizer=normalizer)

    context, pullback = jax.vjp(context, *args)
    return context, pullback(normal(7, *context.shape))


def test_there_are_eight_devices():
    assert len(jax.devices()) == 8


@pytest.mark.parametrize(
    ("kind", "mask", "bias", "normalizer"),
    [
        (KeyOnly, "none", False, "sigmoid"),
        (KeyOnly, "batch lengths", False, "softmax"),
        (KeyOnly, "causal", False, "softmax"),
        (KeyOnly, "none", True, "softmax"),
        (InnerProduct, "none", False, "softmax"),
        (InnerProduct, "window", True, "sigmoid"),
        (Additive, "batch lengths & causal", True, "softmax"),
        (Pairwise, "window", True, "softmax"),
        (Pairwise, "dense & batch lengths & causal", False, "sigmoid"),
    ],
)
def test_eight_devices_are_one_in_value_and_gradient(kind, mask, bias, normalizer):
    args, mask, _ = problem(kind, mask, bias)
    actual, expected = (pulled(attend, args, mask, normalizer) for attend in (sharded, dense))
    assert_close(actual, expected, 1e-5)


def test_a_learned_sink():
    (form, values, _), mask, _ = problem(InnerProduct, "batch lengths & causal")

    @functools.partial(jit, static_argnums=0)
    def derived(attend, sink):
        def context(sink, form, values):
            return attend(form, values, mask=mask, normalizer=SoftmaxWithSink(sink))

        context, pullback = jax.vjp(context, sink, form, values)
        return context, pullback(normal(7, *context.shape))

    sink = normal(8, HEADS)
    assert_close(derived(sharded, sink), derived(dense, sink), 1e-5)


def test_two_keys_on_eight_devices_by_hand():
    form = KeyOnly(jnp.log(jnp.asarray([1.0, 3.0])), 2)
    context = sharded(form, jnp.asarray([[4.0], [8.0]]))  # (1 · 4 + 3 · 8) / (1 + 3)
    np.testing.assert_allclose(context, [[7.0], [7.0]], rtol=1e-6)


def test_context_is_the_equation_in_loops():
    (form, values, _), mask, allowed = problem(InnerProduct, "dense")
    expected, _ = loop_attend(form, values, allowed)
    assert_close(jit(sharded)(form, values, mask=mask), expected.astype(np.float32), 1e-5)


def test_forward_mode_and_hessian_products():
    (form, values, _), mask, _ = problem(KeyOnly, "batch lengths & causal")
    tangents = jax.tree.map(jnp.cos, (form, values))

    @functools.partial(jit, static_argnums=0)
    def derived(attend):
        def context(args):
            return attend(*args, mask=mask)

        def loss(args):
            return jnp.sum(jnp.sin(context(args)))

        pushed = jax.jvp(context, ((form, values),), (tangents,))
        return pushed, jax.jvp(jax.grad(loss), ((form, values),), (tangents,))[1]

    assert_close(derived(sharded), derived(dense), 1e-5)


def test_no_score_is_too_great_and_no_device_overflows_another():
    logits, values = jnp.linspace(-3e4, 3e4, KEYS), normal(6, KEYS, VALUE_DIM)
    context = jit(sharded)(KeyOnly(logits, QUERIES), values)
    np.testing.assert_array_equal(context, np.broadcast_to(values[-1], context.shape))


def test_a_bias_may_be_a_function_that_has_closed_over_an_array():
    (form, values, _), mask, _ = problem(KeyOnly, "window")

    @functools.partial(jit, static_argnums=0)
    def gradient(attend, slope):
        def loss(slope):
            def bias(i, j):
                return jnp.sin(slope * (i[:, None] - 2 * j[None, :]).astype(jnp.float32))[None]

            return jnp.sum(jnp.square(attend(form, values, mask=mask, bias=bias)))

        with jax.numpy_rank_promotion("allow"):
            return jax.grad(loss)(slope)

    slope = jnp.asarray(0.3)
    assert_close(gradient(sharded, slope), gradient(dense, slope), 1e-5)


def laid_out(mesh, array, *spec):
    return jax.device_put(array, NamedSharding(mesh, P(*spec)))


@pytest.mark.parametrize(("score", "axis_types"), [(MLP, "Auto"), (Bilinear, "Explicit")])
def test_a_layer_with_batch_and_keys_each_on_an_axis(score, axis_types):
    axis_type = getattr(jax.sharding.AxisType, axis_types)
    mesh = jax.make_mesh((2, 4), ("data", "sequence"), axis_types=(axis_type,) * 2)
    layer = randomized(
        lambda: Attention(score, 3, 5, heads=HEADS, bias=biases.RelativePosition, rngs=nnx.Rngs(0))
    )
    arrays = normal(1, 2, QUERIES, 3), normal(2, 2, 4 * 7, 5), normal(3, 2, 4 * 7, 3 * HEADS)
    lengths = jnp.asarray([23, 1])
    whole = jit(lambda layer, *arrays: layer(*arrays, mask=masks.lengths(lengths)))
    expected = whole(layer, *arrays)
    specs = ("data",), ("data", "sequence"), ("data", "sequence")
    arrays = [laid_out(mesh, array, *spec) for array, spec in zip(arrays, specs, strict=True)]
    if axis_types == "Explicit":  # all arrays say where they are
        layer, lengths = jax.tree.map(lambda leaf: laid_out(mesh, leaf), (layer, lengths))

    @jit
    def context(layer, arrays, lengths):
        mask = masks.lengths(lengths)
        return layer.sharded(*arrays, mesh=mesh, axis="sequence", mask=mask)

    program = context.lower(layer, arrays, lengths).compile()
    assert "all-gather" not in program.as_text()  # nothing is put together that was in shares
    actual = program(layer, arrays, lengths)
    assert actual.sharding.is_equivalent_to(NamedSharding(mesh, P("data")), actual.ndim)
    assert_close(np.asarray(actual), np.asarray(expected), 1e-5)


# Memory


def memory(devices):
    """Bytes on each device, of the gradients of a form and values that lie on so many."""
    queries, keys, dim = 64, 2**18, 16
    mesh = Mesh(np.array(jax.devices()[:devices]), "sequence")

    def array(*shape, spec=()):
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, P(*spec)))

    def loss(queries, keys, values):
        context = attend_sharded(InnerProduct(queries, keys), values, mesh=mesh, axis="sequence")
        return jnp.sum(jnp.square(context))

    on_keys = array(keys, dim, spec=("sequence",))
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    memory = gradient.lower(array(queries, dim), on_keys, on_keys).compile().memory_analysis()
    return memory.temp_size_in_bytes + memory.argument_size_in_bytes


def test_memory_of_a_device_falls_with_their_number():
    with mock.patch.multiple(tiles, TILE_SIZE=2**16):
        one, two, eight = map(memory, (1, 2, 8))
    assert two < one / 1.9
    assert eight < one / 7
