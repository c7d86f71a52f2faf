"""Masks as people give them: arrays, plain functions, names."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from oracles import BATCH, HEADS, KEYS, QUERIES, jit, refused

from attention import masks

pytestmark = pytest.mark.usefixtures("strict")

LEAD = (BATCH, HEADS)
SHAPE = (*LEAD, QUERIES, KEYS)
TABLE = np.random.default_rng(0).random(SHAPE) < 0.5
INDEX = jnp.arange(QUERIES), jnp.arange(KEYS)


@functools.partial(jit, static_argnums=1)
def allowed_by(mask, shape):
    return mask.evaluate(jnp.arange(shape[-2]), jnp.arange(shape[-1]), len(shape) - 2)


def evaluated(mask, shape=SHAPE):
    return np.broadcast_to(allowed_by(masks.as_mask(mask, shape), shape), shape)


# Arrays


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("single", [(), (0,), (1,), (2,), (3,), (0, 1), (1, 2), (0, 3), (0, 1, 2)])
def test_an_array_broadcasts(single, convert):
    index = tuple(slice(1) if axis in single else slice(None) for axis in range(4))
    array = TABLE[index]
    expected = np.broadcast_to(array, SHAPE)
    np.testing.assert_array_equal(evaluated(convert(array)), expected)
    while array.shape[0] == 1 and array.ndim > 1:
        array = array[0]  # what NumPy puts in front itself
        np.testing.assert_array_equal(evaluated(convert(array)), expected)


def test_a_number_and_a_row_of_keys_broadcast():
    assert evaluated(np.asarray(True)).all()
    assert not evaluated(np.bool_(False)).any()
    row = TABLE[0, 0, 0]
    np.testing.assert_array_equal(evaluated(row), np.broadcast_to(row, SHAPE))
    assert masks.as_mask(row, SHAPE).keys_only


def test_three_axes_are_those_of_heads_or_else_of_examples():
    expected = np.broadcast_to(TABLE[0], SHAPE)
    np.testing.assert_array_equal(evaluated(TABLE[0]), expected)
    expected = np.broadcast_to(TABLE[:, :1], SHAPE)
    np.testing.assert_array_equal(evaluated(TABLE[:, 0]), expected)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda mask: mask,
        masks.dense,
        lambda array: masks.causal(offset=KEYS) & masks.dense(array),
        lambda array: masks.dense(array) & masks.causal(offset=KEYS),
        lambda array: masks.dense(array) | masks.causal(offset=-KEYS),
        lambda array: ~~masks.dense(array),
    ],
    ids=["array", "dense", "right of and", "left of and", "or", "not"],
)
def test_arrays_are_aligned_wherever_they_are(wrap):
    np.testing.assert_array_equal(evaluated(wrap(TABLE[0])), np.broadcast_to(TABLE[0], SHAPE))
    square = (BATCH, BATCH, QUERIES, KEYS)
    of_both = np.stack([TABLE[0, 0], TABLE[1, 1]])
    with refused(
        r"^mask of shape \(2, 5, 7\) fits scores of shape \(2, 2, 5, 7\) in two ways: pass"
        r" mask\[:, None\] if its first axis is that of the batch, mask\[None\] if that of the h"
    ):
        masks.as_mask(wrap(of_both), square)
    for axes in (np.s_[:, None], np.s_[None]):
        expected = np.broadcast_to(of_both[axes], square)
        np.testing.assert_array_equal(evaluated(wrap(of_both[axes]), square), expected)


def test_axes_of_size_one_are_not_ambiguous():
    assert evaluated(TABLE[:1, 0], (1, 1, QUERIES, KEYS)).shape == (1, 1, QUERIES, KEYS)
    assert evaluated(TABLE[:1, 0], (BATCH, BATCH, QUERIES, KEYS)).shape[1] == BATCH


def test_scores_of_other_axes():
    np.testing.assert_array_equal(evaluated(TABLE[0, 0], SHAPE[2:]), TABLE[0, 0])
    np.testing.assert_array_equal(evaluated(TABLE[0], SHAPE[1:]), TABLE[0])
    deep = (11, *SHAPE)
    np.testing.assert_array_equal(evaluated(TABLE, deep), np.broadcast_to(TABLE, deep))
    of_examples = np.broadcast_to(TABLE[0, 0], (11, BATCH, QUERIES, KEYS))
    np.testing.assert_array_equal(
        evaluated(of_examples, deep), np.broadcast_to(of_examples[:, :, None], deep)
    )


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((6, 7), r"^mask of shape \(6, 7\) does not fit 5 queries and 7 keys$"),
        ((5, 6), r"^mask of shape \(5, 6\) does not fit 5 queries and 7 keys$"),
        (
            (2, 7),
            r"does not fit 5 .*: for the keys of each example pass masks.keys\(mask\), or mas",
        ),
        ((6,), r"^mask of shape \(1, 6\) does not fit 5 queries and 7 keys$"),
        (
            (6, 5, 7),
            r"^mask of shape \(6, 5, 7\) does not broadcast to scores of shape \(2, 3, 5, 7",
        ),
        ((3, 2, 5, 7), r"does not broadcast to scores of shape \(2, 3, 5, 7\)$"),
        ((1, 2, 3, 5, 7), r"does not broadcast to scores of shape \(2, 3, 5, 7\)$"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(shape, message):
    for mask in (np.ones(shape, bool), masks.causal() & ~masks.dense(np.ones(shape, bool))):
        with refused(message):
            masks.as_mask(mask, SHAPE)


@pytest.mark.parametrize("dtype", [int, np.uint8, np.float32])
def test_zeros_and_ones_are_refused_with_the_remedy(dtype):
    for make in (masks.dense, lambda mask: masks.as_mask(mask, SHAPE)):
        with refused(r"boolean array .*, True where a query may attend, got .* \(5, 7\): .* == 1"):
            make(TABLE[0, 0].astype(dtype))
    np.testing.assert_array_equal(evaluated(TABLE.astype(dtype) == 1), TABLE)


def test_what_is_added_to_scores_is_told_to_be_a_bias():
    with refused(r"got float32 .*mask == 1 or mask.astype\(bool\); what is added .* is a bias$"):
        masks.as_mask(np.where(TABLE, 0, -np.inf).astype(np.float32), SHAPE)


def test_an_array_of_keys_is_a_mask_on_keys():
    mask = masks.as_mask(TABLE[:, :1, :1], SHAPE)
    assert mask.keys_only
    np.testing.assert_array_equal(mask.on_keys(KEYS, 2), TABLE[:, :1, 0])
    of_queries = masks.as_mask(TABLE[..., :1], SHAPE)
    assert not of_queries.keys_only
    one = masks.as_mask(np.ones((1, 1), bool), SHAPE)
    for mask in (one, ~one, one & one):
        assert mask.on_keys(KEYS, 2).shape == (1, 1, KEYS)


def test_an_array_may_be_of_a_batch_whose_size_is_a_symbol():
    (batch,) = export.symbolic_shape("batch")

    def allowed(array):
        mask = masks.as_mask(array, (array.shape[0], HEADS, QUERIES, KEYS))
        seen = (mask & masks.causal(offset=1)).reachable((array.shape[0], HEADS, QUERIES, KEYS))
        return mask.evaluate(*INDEX, 2), seen

    exported = export.export(jax.jit(allowed))(
        jax.ShapeDtypeStruct((batch, 1, QUERIES, KEYS), bool)
    )
    array = TABLE[:, :1]
    pairs, seen = exported.call(array)
    np.testing.assert_array_equal(pairs, array)
    expected = array & np.tri(QUERIES, KEYS, 1, bool)
    np.testing.assert_array_equal(seen, expected.any(axis=2))


# Names and what is no mask


def test_causal_by_name():
    assert masks.as_mask("causal", SHAPE) == masks.causal()


def test_masks_stay_as_they_are():
    assert masks.as_mask(None, SHAPE) is None
    mask = masks.causal() & masks.window(1)
    assert masks.as_mask(mask, SHAPE) == mask


@pytest.mark.parametrize("given", ["casual", True, 3, [[True, False]], (True,), object()])
def test_what_is_no_mask_is_refused_with_the_choices(given):
    message = (
        r"^mask=.* is no mask: choose 'causal', a boolean array that broadcasts to \(2, 3, 5, 7\)"
    )
    with refused(message) as error:
        masks.as_mask(given, SHAPE)
    del error


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            masks.lengths(np.arange(3)),
            r"^lengths of shape \(3,\) do not fit the leading axes \(2, 3",
        ),
        (masks.lengths(np.ones((2, 3, 1), int)), r"^lengths of shape \(2, 3, 1\) do not fit"),
        (masks.query_lengths(np.arange(3)), r"^query_lengths of shape \(3,\) do not fit"),
        (masks.keys(np.ones((2, 5), bool)), r"^masks.keys of shape \(2, 5\) do not fit scores of"),
        (masks.keys(np.ones((3, 7), bool)), r"^masks.keys of shape \(3,\) do not fit the leading"),
        (masks.queries(np.ones(7, bool)), r"^masks.queries of shape \(7,\) do not fit scores of"),
        (masks.segments(np.ones(5, int)), r"key_ids of shape \(5,\) do not fit scores of shape"),
        (masks.segments(np.ones(7, int)), r"query_ids of shape \(7,\) do not fit scores of shape"),
        (masks.causal(offset=np.arange(3)), r"^the offsets of shape \(3,\) do not fit the leading"),
        (
            masks.causal().at(jnp.arange(4), None),
            r"^query_positions of shape \(4,\) do not fit scores of \(2, 3, 5, 7\)",
        ),
        (
            masks.causal().at(None, jnp.ones((3, 7), int)),
            r"^the key_positions of shape \(3,\) do not fit the leading axes",
        ),
        (
            masks.causal(offset=np.arange(3)).at(jnp.arange(5), None),
            r"^the offsets of shape \(3,\) do not fit",
        ),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask, message):
    for composed in (mask, mask & masks.causal(), masks.window(1) | mask, ~mask):
        with refused(message):
            masks.as_mask(composed, SHAPE)


def test_masks_that_fit_pass():
    for mask in (
        masks.lengths(np.ones((1, 3), int)),
        masks.keys(np.ones((2, 1, 7), bool)),
        masks.segments(np.ones((2, 5), int), np.ones(7, int)),
        masks.causal(offset=np.ones((2, 3), int)).at(jnp.arange(5), jnp.ones((2, 7), int)),
    ):
        assert masks.as_mask(mask, SHAPE) == mask


# Functions


FUNCTIONS = {
    "causal": lambda i, j: j <= i,
    "constant": lambda i, j: True,
    "of one": lambda i, j: j % 3 != 0,
    "where": lambda i, j: jnp.where(i < 2, j > 3, j < 2),
    "primitive": jnp.greater_equal,
    "by block": lambda i, j: i[:, None] >= 2 * j[None, :],
    "keys by block": lambda i, j: j[None, :] > 2,
}
IN_LOOPS = {
    "constant": lambda i, j: True,
    "where": lambda i, j: j > 3 if i < 2 else j < 2,
    "primitive": lambda i, j: i >= j,
    "by block": lambda i, j: i >= 2 * j,
    "keys by block": lambda i, j: j > 2,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_plain_function(name):
    allows = (FUNCTIONS | IN_LOOPS)[name]
    expected = [[allows(i, j) for j in range(KEYS)] for i in range(QUERIES)]
    np.testing.assert_array_equal(evaluated(FUNCTIONS[name]), np.broadcast_to(expected, SHAPE))


def test_a_callable_pytree():
    allows = jax.tree_util.Partial(lambda limit, i, j: i + j < limit, jnp.asarray(6))
    expected = [[i + j < 6 for j in range(KEYS)] for i in range(QUERIES)]
    np.testing.assert_array_equal(evaluated(allows), np.broadcast_to(expected, SHAPE))


@jax.custom_jvp
def _doubled(mask, x):
    return jnp.sum(jnp.where(mask(*INDEX), x, 0.0))


@_doubled.defjvp
def _doubled_jvp(primals, tangents):
    # Traced when all that the function has closed over is gone.
    (mask, x), (_, dx) = primals, tangents
    return _doubled(mask, x), 2 * jnp.sum(jnp.where(mask(*INDEX), dx, 0.0))


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, lambda f: jax.jit(jax.checkpoint(f))])
def test_what_a_function_has_closed_over_comes_with_it(transform):
    ids, sizes = jnp.asarray(np.arange(KEYS) % 3), jnp.linspace(0.1, 0.9, KEYS)

    def total(x, ids, sizes):
        mask = masks.as_mask(lambda i, j: (ids[i] == ids[j]) & (sizes[j] > 0.3), SHAPE)
        return _doubled(mask, x)

    gradient = jax.grad(transform(total))(jnp.ones((QUERIES, KEYS)), ids, sizes)
    expected = [
        [2.0 * (i % 3 == j % 3 and j * 0.8 / 6 > 0.2) for j in range(KEYS)] for i in range(QUERIES)
    ]
    np.testing.assert_array_equal(gradient, expected)


def test_a_function_may_be_mapped():
    def allowed(limit):
        mask = masks.function(lambda i, j: i + j < limit)
        _, blocks = jax.lax.scan(lambda c, i: (c, mask(i[None], INDEX[1])), None, INDEX[0])
        return blocks[:, 0]

    expected = [[[i + j < n for j in range(KEYS)] for i in range(QUERIES)] for n in (3, 6)]
    np.testing.assert_array_equal(jit(jax.vmap(allowed))(jnp.asarray([3, 6])), expected)


@pytest.mark.parametrize(
    ("allows", "message"),
    [
        (
            lambda i, j: j - i,
            r"^mask=<lambda> must return one boolean, .* int32 of .*: compare, as in",
        ),
        (lambda i, j: 1.0, r"must return one boolean, True where query i may .* float32"),
        (lambda i, j: jnp.ones((3, 1, 1), bool), r"one boolean, .* returned bool of shape \(3,\)$"),
        (
            lambda i, j: jnp.ones(3, bool),
            r"^mask=<lambda> must return a single value, shape \(\), for",
        ),
        (
            lambda i, j: jnp.ones((2, 4), bool),
            r"for arrays \[2\] and \[3\] it returned shape \(2, 4\)",
        ),
        (
            lambda i, j: jnp.ones((4, 3), bool),
            r"for arrays \[2\] and \[3\] it returned shape \(4, 3\)",
        ),
        (lambda i, j: None, r"^mask=<lambda> returned None, and no value$"),
        (lambda i: i > 2, r"^mask=<lambda> must take \(i, j\), and takes \(i\)$"),
        (lambda b, h, i, j: i > j, r"^mask=<lambda> must take \(i, j\), and takes \(b, h, i, j\)$"),
        (
            lambda i, j: j <= i and j > 2,
            r"^mask=<lambda> is traced: write & \| ~ for and, or, not;",
        ),
        (lambda i, j: TABLE[0, 0][i, j], r"jnp.asarray\(table\)\[i\] for the table\[i\] of NumPy$"),
        (lambda i, j: np.asarray(i) > 2, r"^mask=<lambda> is traced"),
    ],
)
def test_functions_that_are_no_mask_are_refused(allows, message):
    with refused(message):
        masks.as_mask(allows, SHAPE)


def test_errors_in_a_function_are_its_own():
    def broken(i, j):
        raise KeyError("no such position")

    with pytest.raises(KeyError, match="no such position"):
        masks.as_mask(broken, SHAPE)
