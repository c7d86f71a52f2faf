import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from oracles import BATCH, HEADS, KEYS, QUERIES, assert_close, jit, normal, refused

from attention.biases import Alibi, RelativePosition, as_bias, at, is_finite

pytestmark = pytest.mark.usefixtures("strict")

SHAPE = (BATCH, HEADS, QUERIES, KEYS)
QUERY_INDEX, KEY_INDEX = jnp.arange(QUERIES) + 3, jnp.arange(KEYS)
INDEX = jnp.arange(QUERIES), jnp.arange(KEYS)
QUERY_AT = np.array([[3, 0, 9, 4, 1], [2, 7, 1, 1, 5]])
KEY_AT = np.array([[5, 1, 0, 8, 3, 2, 6], [0, 4, 1, 9, 9, 3, 7]])
TABLE = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


@jit
def called(bias, query_index, key_index):
    return bias(query_index, key_index)


@jit
def placed(bias, queries, keys, query_index=INDEX[0], key_index=INDEX[1]):
    return at(bias, queries, keys, 2)(query_index, key_index)


def evaluated(bias, shape=SHAPE):
    added = called(as_bias(bias, shape), *INDEX)
    assert added.dtype == jnp.float32
    return np.broadcast_to(added, shape)


def loops(add, queries=range(QUERIES), keys=range(KEYS)):
    return np.array(
        [
            [[[add(b, h, i, j) for j in keys] for i in queries] for h in range(HEADS)]
            for b in range(BATCH)
        ],
        np.float32,
    )


# Those of the library


def slopes(heads):
    """As in the code of ALiBi's authors (attention_with_linear_biases, fairseq/models)."""

    def of_power(n):
        start = 2 ** (-(2 ** -(np.log2(n) - 3)))
        return [start * start**k for k in range(n)]

    if np.log2(heads).is_integer():
        return of_power(heads)
    power = 2 ** int(np.floor(np.log2(heads)))
    return of_power(power) + slopes(2 * power)[0::2][: heads - power]


def test_alibi_is_its_equation():
    numbers = [1, 2, 3, 8, 11, 12, 13, 23]
    layers = [Alibi(heads, rngs=nnx.Rngs(0)) for heads in numbers]
    biases = jit(lambda *index: [layer(*index) for layer in layers])(QUERY_INDEX, KEY_INDEX)
    for heads, bias in zip(numbers, biases, strict=True):
        expected = [
            [[-slopes(heads)[h] * abs(i + 3 - j) for j in range(KEYS)] for i in range(QUERIES)]
            for h in range(heads)
        ]
        assert_close(bias, np.array(expected), tolerance=1e-6)


def test_eight_heads_have_the_slopes_of_the_paper():
    bias = np.asarray(called(Alibi(8, rngs=nnx.Rngs(0)), np.arange(1), np.arange(2)))
    np.testing.assert_array_equal(bias[:, 0, 1], [-(0.5**k) for k in range(1, 9)])


def test_twelve_heads_have_the_slopes_of_the_authors_code():
    bias = np.asarray(called(Alibi(12, rngs=nnx.Rngs(0)), np.arange(1), np.arange(2)))
    expected = [0.5**k for k in range(1, 9)] + [0.5 ** (k + 0.5) for k in range(4)]
    np.testing.assert_allclose(-bias[:, 0, 1], expected, rtol=1e-6)


def test_alibi_learns_nothing():
    assert not nnx.state(Alibi(HEADS, rngs=nnx.Rngs(0)), nnx.Param)


def test_alibi_has_heads():
    with refused("heads=0: must be a whole number from 1"):
        Alibi(0, rngs=nnx.Rngs(0))


def make_relative():
    bias = RelativePosition(HEADS, clip=2, rngs=nnx.Rngs(0))
    bias.table[...] = normal(1, HEADS, 5)
    return bias


def test_relative_position_looks_up_the_clipped_distance():
    bias = make_relative()
    table = np.asarray(bias.table[...])
    expected = [
        [[table[h, np.clip(j - i - 3, -2, 2) + 2] for j in range(KEYS)] for i in range(QUERIES)]
        for h in range(HEADS)
    ]
    np.testing.assert_array_equal(called(bias, QUERY_INDEX, KEY_INDEX), np.array(expected))


def test_relative_position_begins_without_preference():
    assert not np.any(called(RelativePosition(HEADS, rngs=nnx.Rngs(0)), QUERY_INDEX, KEY_INDEX))


def test_a_negative_clip_is_refused():
    with refused("clip=-1: must be at least 0"):
        RelativePosition(HEADS, clip=-1, rngs=nnx.Rngs(0))


# Those that people give


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("single", [(), (0,), (1,), (2,), (3,), (0, 1), (0, 1, 2)])
def test_an_array_broadcasts(single, convert):
    array = TABLE[tuple(slice(1) if axis in single else slice(None) for axis in range(4))]
    np.testing.assert_array_equal(evaluated(convert(array)), np.broadcast_to(array, SHAPE))


@pytest.mark.parametrize(
    "array", [np.asarray(TABLE[0, 0, 0, 0]), TABLE[0, 0, 0]], ids=["number", "keys"]
)
def test_axes_may_be_left_out_in_front(array):
    np.testing.assert_array_equal(evaluated(array), np.broadcast_to(array, SHAPE))


def test_three_axes_are_those_of_heads_or_else_of_examples():
    np.testing.assert_array_equal(evaluated(TABLE[0]), np.broadcast_to(TABLE[0], SHAPE))
    np.testing.assert_array_equal(evaluated(TABLE[:, 0]), np.broadcast_to(TABLE[:, :1], SHAPE))
    with refused(r"^bias of shape \(2, 5, 7\) fits scores .* two ways: pass bias\[:, None\] if"):
        as_bias(TABLE[:, 0], (BATCH, BATCH, QUERIES, KEYS))


def test_whole_numbers_become_floating():
    whole = np.arange(QUERIES * KEYS).reshape(QUERIES, KEYS)
    np.testing.assert_array_equal(evaluated(whole), np.broadcast_to(whole, SHAPE))
    expected = loops(lambda b, h, i, j: j - 2 * i)
    np.testing.assert_array_equal(evaluated(lambda i, j: j - 2 * i), expected)


def test_an_array_in_half_precision_is_not_widened():
    assert as_bias(jnp.ones(SHAPE, jnp.bfloat16), SHAPE)(*INDEX).dtype == jnp.bfloat16


def real(index):
    return index.astype(jnp.float32)


def by_block(i, j):
    return jnp.sin(real(i)[:, None] - 2.0 * real(j)[None, :])


def heads_by_block(i, j):
    return (
        jnp.arange(1, HEADS + 1, dtype=jnp.float32)[:, None, None]
        * real(i[:, None] - j[None, :])[None]
    )


def slope(weight, i, j):
    return weight * real(i - j)


def slope_by_block(weight, i, j):
    return weight * by_block(i, j)


# A function, and the same as a function of batch b, head h, query i, key j.
FUNCTIONS = {
    "scalars": (
        lambda i, j: jnp.where(j > i, 0.5, real(j - i)),
        lambda b, h, i, j: 0.5 if j > i else j - i,
    ),
    "constant": (lambda i, j: -0.25, lambda b, h, i, j: -0.25),
    "infinite": (
        lambda i, j: jnp.where(j > i, -jnp.inf, 0.0),
        lambda b, h, i, j: -np.inf if j > i else 0.0,
    ),
    "a block": (by_block, lambda b, h, i, j: np.sin(i - 2.0 * j)),
    "heads": (heads_by_block, lambda b, h, i, j: (h + 1) * (i - j)),
    "keys": (lambda i, j: jnp.sqrt(real(j))[None, :], lambda b, h, i, j: np.sqrt(j)),
    "pytree": (
        jax.tree_util.Partial(slope, jnp.asarray(0.5)),
        lambda b, h, i, j: 0.5 * (i - j),
    ),
    "pytree of blocks": (
        jax.tree_util.Partial(slope_by_block, jnp.asarray(0.5)),
        lambda b, h, i, j: 0.5 * np.sin(i - 2.0 * j),
    ),
    "alibi": (
        Alibi(HEADS, rngs=nnx.Rngs(0)),
        lambda b, h, i, j: -slopes(HEADS)[h] * abs(i - j),
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_called_for_every_pair(name):
    function, add = FUNCTIONS[name]
    np.testing.assert_allclose(evaluated(function), loops(add), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_positions(name):
    function, add = FUNCTIONS[name]
    bias = as_bias(function, SHAPE)
    added = placed(bias, QUERY_AT, KEY_AT)
    expected = loops(lambda b, h, i, j: add(b, h, QUERY_AT[b, i], KEY_AT[b, j]))
    np.testing.assert_allclose(np.broadcast_to(added, SHAPE), expected, rtol=2e-6, atol=1e-6)
    if name not in ("heads", "alibi"):
        assert added.shape[1] == 1


def test_positions_of_a_block():
    block = np.array([3, 1]), np.array([2, 5, 4])
    added = placed(make_relative(), QUERY_AT, KEY_AT, *block)
    table = np.asarray(make_relative().table[...])

    def add(b, h, i, j):
        return table[h, np.clip(KEY_AT[b, j] - QUERY_AT[b, i], -2, 2) + 2]

    np.testing.assert_array_equal(added, loops(add, *block))


@pytest.mark.parametrize(
    ("queries", "keys"),
    [
        (QUERY_AT[0], None),
        (QUERY_AT[0], KEY_AT[0]),
        (None, KEY_AT[0]),
        (QUERY_AT[:1], None),
        (QUERY_AT, KEY_AT[0]),
        (QUERY_AT[:1], KEY_AT),
        (None, KEY_AT),
    ],
)
def test_positions_may_be_of_one_side_or_of_the_whole_batch(queries, keys):
    where = [None if a is None else a.astype(np.uint8) for a in (queries, keys)]
    added = placed(make_relative(), *where)
    table = np.asarray(make_relative().table[...])
    queries = np.broadcast_to(np.arange(QUERIES) if queries is None else queries, (BATCH, QUERIES))
    keys = np.broadcast_to(np.arange(KEYS) if keys is None else keys, (BATCH, KEYS))
    expected = loops(lambda b, h, i, j: table[h, np.clip(keys[b, j] - queries[b, i], -2, 2) + 2])
    np.testing.assert_array_equal(np.broadcast_to(added, SHAPE), expected)


def test_positions_of_heads():
    queries = np.arange(BATCH * HEADS * QUERIES).reshape(BATCH, HEADS, QUERIES)
    bias = as_bias(lambda i, j: real(2 * i - j), SHAPE)
    expected = loops(lambda b, h, i, j: 2.0 * int(queries[b, h, i]) - j)
    np.testing.assert_array_equal(placed(bias, queries, None), expected)
    with refused("positions with 2 leading axes and a bias with 1 do not fit scores with 2"):
        placed(make_relative(), queries, None)


def test_what_has_no_positions_stays_as_it_is():
    dense = as_bias(TABLE, SHAPE)
    assert at(dense, *INDEX, 2) is dense
    alibi = Alibi(HEADS, rngs=nnx.Rngs(0))
    assert at(alibi, None, None, 2) is alibi
    assert at(None, *INDEX, 2) is None
    both = placed(as_bias([TABLE, by_block], SHAPE), QUERY_AT, None)
    expected = loops(lambda b, h, i, j: TABLE[b, h, i, j] + np.sin(QUERY_AT[b, i] - 2.0 * j))
    np.testing.assert_allclose(both, expected, atol=1e-6)


def test_a_step_of_decoding_is_the_last_row_of_the_full_run():
    for bias in (Alibi(HEADS, rngs=nnx.Rngs(0)), make_relative()):
        step = np.asarray(placed(bias, np.array([KEYS - 1]), None, np.arange(1), np.arange(KEYS)))
        full = np.asarray(called(bias, np.arange(KEYS), np.arange(KEYS)))
        np.testing.assert_array_equal(step[0], full[:, -1:])


def test_several_are_added():
    parts = [TABLE[:, :1], by_block, None, make_relative(), np.ones((1, 1), np.float16)]
    expected = sum(
        np.asarray(evaluated(part), np.float64)
        for part in (TABLE[:, :1], by_block, make_relative())
    )
    np.testing.assert_allclose(evaluated(parts), expected + 1, atol=1e-6)
    np.testing.assert_allclose(evaluated(tuple(parts)), expected + 1, atol=1e-6)


def test_one_or_none_of_several():
    assert as_bias([], SHAPE) is None
    assert as_bias([None], SHAPE) is None
    assert as_bias(None, SHAPE) is None
    alibi = Alibi(HEADS, rngs=nnx.Rngs(0))
    assert as_bias([None, alibi], SHAPE) is alibi


def test_which_are_finite():
    alibi, relative = Alibi(HEADS, rngs=nnx.Rngs(0)), make_relative()
    for bias in (alibi, relative, as_bias([alibi, relative], SHAPE), at(alibi, *INDEX, 2)):
        assert is_finite(bias)
    for bias in (as_bias(TABLE, SHAPE), as_bias([alibi, TABLE], SHAPE), as_bias(by_block, SHAPE)):
        assert not is_finite(bias)

    class Slope(nnx.Module):
        finite = True

        def __call__(self, i, j):
            return 0.5 * real(i - j)

    assert is_finite(as_bias(Slope(), SHAPE))

    class Cut(Slope):
        def __call__(self, i, j):
            return jnp.where(i < j, -jnp.inf, 0.0)

    class Steeper(Cut):
        finite = True

    class Renamed(Steeper):
        pass

    finite = [is_finite(as_bias(kind(), SHAPE)) for kind in (Cut, Steeper, Renamed)]
    assert finite == [False, True, True]


# Derivatives


def weighted(added):
    """A number that depends on every entry in its own way."""
    weights = normal(7, *SHAPE)
    return jnp.sum(jnp.sin(jnp.broadcast_to(added, SHAPE)) * weights)


@pytest.mark.parametrize("axes", [SHAPE, SHAPE[1:], (BATCH, 1, 1, KEYS), (QUERIES, 1)])
def test_the_gradient_of_an_array(axes):
    array = normal(3, *axes)
    gradient = jit(jax.grad(lambda array: weighted(as_bias(array, SHAPE)(*INDEX))))(array)
    full = np.broadcast_to(np.asarray(array, np.float64), SHAPE)
    expected = np.cos(full) * np.asarray(normal(7, *SHAPE), np.float64)
    lead = (1,) * (4 - array.ndim) + array.shape
    summed = tuple(axis for axis in range(4) if lead[axis] == 1)
    assert_close(gradient, expected.sum(axis=summed, keepdims=True).reshape(axes))


def test_the_gradient_of_what_a_function_has_closed_over():
    def loss(slope, table, ids):
        bias = as_bias(lambda i, j: slope * real(i - j) + table[ids[j]], SHAPE)
        return weighted(bias(*INDEX))

    ids = jnp.asarray([2, 0, 1, 1, 0, 2, 2])
    arguments = jnp.asarray(0.3), normal(5, 3)
    gradients = jax.grad(jax.jit(loss), argnums=(0, 1))(*arguments, ids)
    slope, table = (np.asarray(a, np.float64) for a in arguments)
    weights = np.asarray(normal(7, *SHAPE), np.float64)
    d_slope, d_table = 0.0, np.zeros(3)
    for b, h, i, j in np.ndindex(SHAPE):
        change = np.cos(slope * (i - j) + table[ids[j]]) * weights[b, h, i, j]
        d_slope += change * (i - j)
        d_table[ids[j]] += change
    assert_close(gradients, (d_slope, d_table))


def test_the_gradient_of_a_module_at_positions():
    def loss(bias):
        return weighted(
            at(as_bias(bias, SHAPE), jnp.asarray(QUERY_AT), jnp.asarray(KEY_AT), 2)(*INDEX)
        )

    bias = make_relative()
    gradient = jit(jax.grad(loss))(bias).table[...]
    table, weights = np.asarray(bias.table[...], np.float64), np.asarray(normal(7, *SHAPE))
    expected = np.zeros_like(table)
    for b, h, i, j in np.ndindex(SHAPE):
        column = np.clip(KEY_AT[b, j] - QUERY_AT[b, i], -2, 2) + 2
        expected[h, column] += np.cos(table[h, column]) * weights[b, h, i, j]
    assert_close(gradient, expected)


def test_64_bits():
    with jax.enable_x64(True):
        for name, (function, add) in FUNCTIONS.items():
            bias = as_bias(function, SHAPE)
            added = called(bias, np.arange(QUERIES), np.arange(KEYS))  # of 64 bits
            np.testing.assert_allclose(
                np.broadcast_to(added, SHAPE), loops(add), atol=1e-6, err_msg=name
            )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (TABLE > 0, r"^bias of shape \(2, 3, 5, 7\) is of booleans: .* is a mask$"),
        (TABLE.astype(np.complex64), r"^bias of shape .* must be of real numbers, got complex64$"),
        (
            TABLE[:, 0, 0],
            r"^bias of shape \(2, 7\) does not fit .*: .* pass bias\[:, None, None\]$",
        ),
        (TABLE[..., :3], r"^bias of shape \(2, 3, 5, 3\) does not fit 5 queries and 7 keys$"),
        (
            0.5,
            r"^bias=0.5 is no bias: choose an array that broadcasts to \(2, 3, 5, 7\), a bias of",
        ),
        ("alibi", r"^bias='alibi' is no bias: choose an array"),
        (lambda i, j: i > j, r"^bias=<lambda> of shape \(\) is of booleans: .* is a mask$"),
        (lambda i, j: 1j, r"^bias=<lambda> of shape \(\) must be of real numbers, got complex64$"),
        (
            lambda i, j: jnp.ones(4),
            r"^bias=<lambda> must return a single value, shape \(\), for num",
        ),
        (lambda b, h, i, j: 0.0, r"^bias=<lambda> must take \(i, j\), and takes \(b, h, i, j\)$"),
        (
            lambda i, j: 1.0 if j < i else 0.0,
            r"^bias=<lambda> is traced: .* jnp.where\(…\) for if;",
        ),
        (Alibi(2, rngs=nnx.Rngs(0)), r"^bias=Alibi returns axes \(2,\) before .* axes \(2, 3\) of"),
        (
            lambda i, j: jnp.ones((1, 2, 3, 2, 3)),
            r"^bias=<lambda> returns axes \(1, 2, 3\) before those of queries and keys, which do",
        ),
        ([TABLE, TABLE[..., :3]], r"^bias of shape \(2, 3, 5, 3\) does not fit"),
    ],
)
def test_what_is_no_bias_is_refused(given, message):
    with refused(message):
        as_bias(given, SHAPE)
