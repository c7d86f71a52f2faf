import functools
from dataclasses import dataclass
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import BATCH, HEADS, KEYS, QUERIES, jit, refused

from attention import masks
from attention.masks import mask as mask_module
from attention.pytrees import register_dataclass

pytestmark = pytest.mark.usefixtures("strict")

RNG = np.random.default_rng(0)
TABLE = RNG.random((BATCH, HEADS, QUERIES, KEYS)) < 0.5
LIMITS = np.array([[3, 0, 7], [1, 5, 4]])  # [batch, heads]
OFFSETS = np.array([[2, -3, 0], [-1, 9, 1]])  # [batch, heads]
SHOWN = np.array([[True, False, True, True, False, False, True], [False] * 6 + [True]])
ASKING = np.array([[True, True, False, True, False], [False, False, True, False, True]])
QUERY_IDS = np.array([[4, 4, 0, 0, 2], [1, 1, 1, 5, 5]])
KEY_IDS = np.array([[0, 4, 4, 2, 7, 7, 0], [1, 1, 5, 5, 3, 3, 3]])
QUERY_AT = np.array([[3, 0, 9, 4, 1], [2, 7, 1, 1, 5]])  # positions of queries, in no order
KEY_AT = np.array([[5, 1, 0, 8, 3, 2, 6], [0, 4, 1, 9, 9, 3, 7]])
BOTH_AT = jnp.asarray(QUERY_AT), jnp.asarray(KEY_AT)


def odd_or_same(i, j):
    return ((i + j) % 3 == 1) | (i == j)


@register_dataclass
@dataclass(frozen=True)
class Even(masks.Mask):
    """A mask of one's own, which is its function alone."""

    def __call__(self, query_index, key_index):
        return (query_index[:, None] + key_index[None, :]) % 2 == 0


# A mask, and the same as a function of batch b, head h, query i, key j.
LENGTHS = masks.lengths(LIMITS[:, 1])
CASES = {
    "causal": (masks.causal(), lambda b, h, i, j: j <= i),
    "ahead": (masks.causal(offset=2), lambda b, h, i, j: j <= i + 2),
    "behind": (masks.causal(offset=-1), lambda b, h, i, j: j <= i - 1),
    "far behind": (masks.causal(offset=-11), lambda b, h, i, j: False),
    "after": (~masks.causal(offset=1), lambda b, h, i, j: j > i + 1),
    "offset": (masks.causal(offset=jnp.asarray(-2)), lambda b, h, i, j: j <= i - 2),
    "offsets": (masks.causal(offset=OFFSETS[:, 0]), lambda b, h, i, j: j <= i + OFFSETS[b, 0]),
    "head offsets": (masks.causal(offset=OFFSETS), lambda b, h, i, j: j <= i + OFFSETS[b, h]),
    "self": (masks.window(0), lambda b, h, i, j: j == i),
    "window": (masks.window(2), lambda b, h, i, j: i - 2 <= j <= i + 2),
    "band": (masks.window(left=1, right=3), lambda b, h, i, j: i - 1 <= j <= i + 3),
    "back": (masks.window(left=2, right=0), lambda b, h, i, j: i - 2 <= j <= i),
    "left": (masks.window(left=1), lambda b, h, i, j: i - 1 <= j),
    "right": (masks.window(right=2), lambda b, h, i, j: j <= i + 2),
    "outside": (~masks.window(1), lambda b, h, i, j: abs(i - j) > 1),
    "length": (masks.lengths(4), lambda b, h, i, j: j < 4),
    "batch lengths": (LENGTHS, lambda b, h, i, j: j < LIMITS[b, 1]),
    "lengths": (masks.lengths(LIMITS), lambda b, h, i, j: j < LIMITS[b, h]),
    "padding": (~LENGTHS, lambda b, h, i, j: j >= LIMITS[b, 1]),
    "keys": (masks.keys(SHOWN), lambda b, h, i, j: SHOWN[b, j]),
    "same keys": (masks.keys(SHOWN[0]), lambda b, h, i, j: SHOWN[0, j]),
    "query length": (masks.query_lengths(3), lambda b, h, i, j: i < 3),
    "query lengths": (masks.query_lengths(LIMITS), lambda b, h, i, j: i < LIMITS[b, h]),
    "queries": (masks.queries(ASKING), lambda b, h, i, j: ASKING[b, i]),
    "segments": (
        masks.segments(QUERY_IDS, KEY_IDS),
        lambda b, h, i, j: QUERY_IDS[b, i] == KEY_IDS[b, j],
    ),
    "same segments": (
        masks.segments(QUERY_IDS[0], KEY_IDS),
        lambda b, h, i, j: QUERY_IDS[0, i] == KEY_IDS[b, j],
    ),
    "dense": (masks.dense(TABLE[0, 0]), lambda b, h, i, j: TABLE[0, 0, i, j]),
    "batch dense": (masks.dense(TABLE[:, 0]), lambda b, h, i, j: TABLE[b, 0, i, j]),
    "full dense": (masks.dense(jnp.asarray(TABLE)), lambda b, h, i, j: TABLE[b, h, i, j]),
    "dense keys": (masks.dense(TABLE[:, :1, :1]), lambda b, h, i, j: TABLE[b, 0, 0, j]),
    "dense queries": (masks.dense(TABLE[..., :1]), lambda b, h, i, j: TABLE[b, h, i, 0]),
    "function": (masks.function(odd_or_same), lambda b, h, i, j: odd_or_same(i, j)),
    "own": (Even(), lambda b, h, i, j: (i + j) % 2 == 0),
    "both": (masks.causal() & masks.window(1), lambda b, h, i, j: i - 1 <= j <= i),
    "nothing": (masks.causal(offset=-3) & masks.window(2), lambda b, h, i, j: False),
    "either": (
        masks.causal(offset=-2) | ~masks.window(3),
        lambda b, h, i, j: j < i - 1 or j > i + 3,
    ),
    "anything": (masks.window(left=0) | masks.causal(), lambda b, h, i, j: True),
    "keys in either": (
        masks.keys(SHOWN) | masks.lengths(2),
        lambda b, h, i, j: SHOWN[b, j] or j < 2,
    ),
    "not both": (~(masks.causal() & LENGTHS), lambda b, h, i, j: j > i or j >= LIMITS[b, 1]),
    "other axes": (
        masks.dense(TABLE) & LENGTHS,
        lambda b, h, i, j: TABLE[b, h, i, j] and j < LIMITS[b, 1],
    ),
    "one of other axes": (
        LENGTHS | ~masks.dense(TABLE),
        lambda b, h, i, j: not TABLE[b, h, i, j] or j < LIMITS[b, 1],
    ),
    "packed": (
        masks.segments(QUERY_IDS, KEY_IDS) & masks.causal(offset=3) & masks.keys(SHOWN),
        lambda b, h, i, j: QUERY_IDS[b, i] == KEY_IDS[b, j] and j <= i + 3 and SHOWN[b, j],
    ),
    "three": (
        LENGTHS & masks.causal() & masks.dense(TABLE),
        lambda b, h, i, j: j < LIMITS[b, 1] and j <= i and TABLE[b, h, i, j],
    ),
    "causal at": (
        masks.causal(offset=1).at(*BOTH_AT),
        lambda b, h, i, j: KEY_AT[b, j] <= QUERY_AT[b, i] + 1,
    ),
    "offsets at": (
        masks.causal(offset=OFFSETS).at(*BOTH_AT),
        lambda b, h, i, j: KEY_AT[b, j] <= QUERY_AT[b, i] + OFFSETS[b, h],
    ),
    "queries at": (
        masks.causal().at(jnp.asarray(QUERY_AT[0]), None),
        lambda b, h, i, j: j <= QUERY_AT[0, i],
    ),
    "keys at": (masks.causal().at(None, BOTH_AT[1]), lambda b, h, i, j: KEY_AT[b, j] <= i),
    "window at": (
        masks.window(2).at(BOTH_AT[0], jnp.asarray(KEY_AT[0])),
        lambda b, h, i, j: abs(KEY_AT[0, j] - QUERY_AT[b, i]) <= 2,
    ),
    "function at": (
        masks.function(lambda i, j: (2 * i - j) % 3 == 1).at(*BOTH_AT),
        lambda b, h, i, j: (2 * QUERY_AT[b, i] - KEY_AT[b, j]) % 3 == 1,
    ),
    "all at": (
        (~masks.causal() & LENGTHS | masks.window(0)).at(*BOTH_AT),
        lambda b, h, i, j: (
            (KEY_AT[b, j] > QUERY_AT[b, i] and j < LIMITS[b, 1]) or KEY_AT[b, j] == QUERY_AT[b, i]
        ),
    ),
    "indices after all": (
        (masks.segments(QUERY_IDS, KEY_IDS) & masks.dense(TABLE) & masks.query_lengths(4)).at(
            *BOTH_AT
        ),
        lambda b, h, i, j: QUERY_IDS[b, i] == KEY_IDS[b, j] and TABLE[b, h, i, j] and i < 4,
    ),
}
# Those that know of each block of queries and keys whether any pair, and whether all, are allowed.
EXACT = ["causal", "ahead", "behind", "far behind", "after", "self", "window", "band", "back"]
EXACT += ["left", "right", "outside", "both"]
BLOCKS = [
    (range(a, b), range(c, d))
    for a in range(QUERIES)
    for b in range(a, QUERIES + 1)
    for c in range(KEYS)
    for d in range(c, KEYS + 1)
]


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def loops(allows, query_index, key_index):
    return np.array(
        [
            [[[allows(b, h, i, j) for j in key_index] for i in query_index] for h in range(HEADS)]
            for b in range(BATCH)
        ],
        bool,
    ).reshape(BATCH, HEADS, len(query_index), len(key_index))


@functools.cache
def table_of(name):
    """What the mask of a name must allow: `[batch, heads, queries, keys]`."""
    return loops(CASES[name][1], range(QUERIES), range(KEYS))


def assert_allowed(allowed, allows, query_index, key_index):
    assert allowed.ndim == 4
    expected = loops(allows, query_index, key_index)
    np.testing.assert_array_equal(np.broadcast_to(allowed, expected.shape), expected)


# All pairs, no query, no key, and a block.
INDICES = [
    tuple(np.array(side, np.int32) for side in both)
    for both in [
        (range(QUERIES), range(KEYS)),
        ([], range(KEYS)),
        (range(QUERIES), []),
        ([3, 1], [2, 5, 4]),
    ]
]


# A number of queries, and of pairs at once: all, one by one, in twos, fewer queries, no query.
MANY = 2**20
ASKED = [(QUERIES, MANY), (QUERIES, 1), (QUERIES, 2 * BATCH * HEADS * KEYS), (3, MANY), (0, MANY)]


@jit
def evaluated(mask):
    """What a mask says of `INDICES`, of the keys that `ASKED` reach, and of keys if of them alone.

    As an argument of a compiled function, for a mask is a pytree; one program for all tests.
    """
    allowed = [mask.evaluate(*map(jnp.asarray, index), 2) for index in INDICES]
    seen = []
    for num_queries, at_once in ASKED:
        part = of_first_queries(mask, num_queries) if num_queries < QUERIES else mask
        with mock.patch.object(mask_module, "PAIRS_AT_ONCE", at_once):
            seen.append(part.reachable((BATCH, HEADS, num_queries, KEYS)))
    return allowed, seen, mask.on_keys(KEYS, 2) if mask.keys_only else None


def test_mask_is_its_definition(case):
    mask, allows = case
    for index, allowed in zip(INDICES, evaluated(mask)[0], strict=True):
        assert_allowed(allowed, allows, *index)


def test_masks_compose_in_any_order():
    left, right = CASES["batch lengths"][0], CASES["full dense"][0]

    @jit
    def program(*composed):
        return [mask.evaluate(jnp.arange(QUERIES), jnp.arange(KEYS), 2) for mask in composed]

    both, same_both, either, same_either = program(
        left & right, right & left, left | right, right | left
    )
    np.testing.assert_array_equal(both, same_both)
    np.testing.assert_array_equal(either, same_either)


@pytest.mark.parametrize(
    ("mask", "shape"),
    [
        (masks.causal(), (1, 1, QUERIES, KEYS)),
        (masks.lengths(3), (1, 1, 1, KEYS)),
        (masks.query_lengths(3), (1, 1, QUERIES, 1)),
        (masks.lengths(np.arange(BATCH)), (BATCH, 1, 1, KEYS)),
        (masks.causal(offset=np.arange(BATCH)), (BATCH, 1, QUERIES, KEYS)),
        (masks.lengths(np.arange(BATCH)) & masks.causal(), (BATCH, 1, QUERIES, KEYS)),
        (masks.causal().at(*BOTH_AT), (BATCH, 1, QUERIES, KEYS)),
    ],
)
def test_own_axes_are_aligned_left_and_the_rest_are_single(mask, shape):
    index = jnp.arange(QUERIES), jnp.arange(KEYS)
    assert jax.eval_shape(lambda mask: mask.evaluate(*index, 2), mask).shape == shape


def test_a_mask_with_more_axes_than_the_scores_is_refused():
    with refused(r"mask with 2 leading axes cannot be used on scores with 1; .*\(2, 3, 5, 7\)"):
        CASES["full dense"][0].evaluate(jnp.arange(QUERIES), jnp.arange(KEYS), 1)


KEYS_ONLY = ["length", "batch lengths", "lengths", "padding", "keys", "same keys", "dense keys"]
KEYS_ONLY += ["keys in either"]


@pytest.mark.parametrize("name", CASES)
def test_keys_only(name):
    mask = CASES[name][0]
    assert mask.keys_only is (name in KEYS_ONLY)
    if mask.keys_only:
        allowed = np.broadcast_to(evaluated(mask)[2], (BATCH, HEADS, KEYS))
        for i in range(QUERIES):
            np.testing.assert_array_equal(allowed, table_of(name)[:, :, i])
    assert not (mask & masks.causal()).keys_only
    assert not (masks.causal() | mask).keys_only


@pytest.mark.parametrize("name", CASES)
def test_blocks_are_skipped_only_where_no_pair_is_allowed(name):
    mask = CASES[name][0]
    for queries, keys in BLOCKS:
        block = table_of(name)[:, :, queries.start : queries.stop, keys.start : keys.stop]
        any_pair, all_pairs = bool(block.any()), bool(block.all())
        if name in EXACT or not block.size:
            assert mask.reaches(queries, keys) is any_pair, (queries, keys)
            assert mask.fills(queries, keys) is all_pairs, (queries, keys)
        assert mask.reaches(queries, keys) or not any_pair, (queries, keys)
        assert all_pairs or not mask.fills(queries, keys), (queries, keys)


@pytest.mark.parametrize(
    ("mask", "queries", "keys"),
    [
        (masks.causal() & masks.lengths(3), range(3), range(3, 5)),
        (masks.lengths(3) & masks.window(1), range(3), range(4, 5)),
        (masks.causal(offset=-3) | masks.window(1), range(4), range(5, 7)),
        (~masks.causal(), range(4, 5), range(5)),
        (~(masks.causal() | masks.lengths(3)), range(4, 5), range(5)),
        (~~masks.causal(), range(3), range(3, 5)),
    ],
)
def test_blocks_are_skipped_by_a_part_of_the_mask(mask, queries, keys):
    assert not mask.reaches(queries, keys)


def diagonal(name):
    return table_of(name)[:, :, range(QUERIES), range(QUERIES)]


@pytest.mark.parametrize("name", CASES)
def test_a_diagonal_that_is_kept_is_allowed(name):
    assert diagonal(name).all() or not CASES[name][0].keeps_diagonal


@pytest.mark.parametrize(
    ("mask", "kept"),
    [
        (masks.causal(), True),
        (masks.causal(offset=1), True),
        (masks.causal(offset=-1), False),
        (masks.window(0), True),
        (masks.window(left=2), True),
        (masks.segments(QUERY_IDS), True),
        (masks.segments(QUERY_IDS, QUERY_IDS), False),
        (masks.segments(QUERY_IDS) & masks.causal(), True),
        (masks.segments(QUERY_IDS) & masks.lengths(2), False),
        (masks.lengths(2) | masks.window(1), True),
        (masks.lengths(2) | masks.keys(SHOWN), False),
        (~masks.causal(offset=-1), False),
    ],
)
def test_keeps_diagonal(mask, kept):
    assert mask.keeps_diagonal is kept


def test_keys_that_some_query_may_attend_to(case):
    mask, allows = case
    for (num_queries, _), seen in zip(ASKED, evaluated(mask)[1], strict=True):
        expected = loops(allows, range(num_queries), range(KEYS)).any(axis=2)
        if seen is None:
            assert expected.all()
            continue
        assert seen.ndim == 3
        np.testing.assert_array_equal(np.broadcast_to(seen, expected.shape), expected)


def of_first_queries(mask, num_queries):
    """The mask for fewer queries, of whose arrays the last are left out."""

    def cut(leaf):
        sides = [axis for axis, size in enumerate(leaf.shape) if size == QUERIES]
        return leaf[(slice(None),) * sides[-1] + (slice(num_queries),)] if sides else leaf

    return jax.tree.map(cut, mask)


@pytest.mark.parametrize(
    ("mask", "shape"),
    [
        (masks.causal(), (5, 5)),
        (masks.causal(offset=2), (5, 7)),
        (masks.window(0), (5, 5)),
        (masks.window(2), (5, 7)),
        (masks.window(left=1), (1, 7)),
        (masks.causal() & masks.window(1), (7, 5)),
        (masks.segments(QUERY_IDS) & masks.causal(), (2, 3, 5, 5)),
        (masks.lengths(3) | masks.causal(), (5, 5)),
        (masks.causal(), (0, 0)),
    ],
)
def test_masks_that_leave_out_no_key_say_so_without_an_array(mask, shape):
    assert mask.reachable(shape) is None


@pytest.mark.parametrize(
    ("mask", "shape", "expected"),
    [
        (masks.causal(), (5, 6), [1, 1, 1, 1, 1, 0]),
        (masks.causal(offset=2), (3, 6), [1, 1, 1, 1, 1, 0]),
        (masks.causal(offset=2**31 - 1) & masks.lengths(2), (1, 3), [1, 1, 0]),
        (masks.window(1), (2, 5), [1, 1, 1, 0, 0]),
        (masks.window(left=0), (0, 2), [0, 0]),
        (masks.lengths(2), (0, 3), [0, 0, 0]),
        (masks.dense(np.ones((1, 3), bool)), (0, 3), [0, 0, 0]),
        (masks.segments(np.array([1, 1]), np.array([2, 1, 1, 3])), (2, 4), [0, 1, 1, 0]),
    ],
)
def test_masks_that_leave_out_keys(mask, shape, expected):
    seen = jit(lambda mask: mask.reachable(shape))(mask)
    np.testing.assert_array_equal(seen, np.array(expected, bool))


def test_no_array_of_all_pairs_is_needed_to_know_which_keys_are_seen():
    size = 2**13
    ids = jnp.arange(size) % 5

    def seen(ids):
        mask = masks.segments(ids, ids) & masks.causal() & masks.query_lengths(size // 2)
        return mask.reachable((size, size))

    compiled = jit(seen).lower(ids).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < size**2 // 8
    np.testing.assert_array_equal(compiled(ids), np.arange(size) < size // 2)


def test_a_mask_of_ones_own_needs_its_function_alone():
    mask = Even() & masks.causal()
    allowed = jit(lambda *index: mask.evaluate(*index, 0))(np.arange(QUERIES), np.arange(KEYS))
    expected = [[(i + j) % 2 == 0 and j <= i for j in range(KEYS)] for i in range(QUERIES)]
    np.testing.assert_array_equal(allowed, expected)


# Offsets that are traced


def test_an_offset_may_be_traced_and_leaves_nothing_behind_in_caches():
    index = jnp.arange(QUERIES), jnp.arange(KEYS)

    @jax.jit
    def evaluate(mask):
        return mask(*index)

    def by_offset(offset):
        return evaluate(masks.causal(offset=offset))

    expected = np.tri(QUERIES, KEYS, 2, bool)
    np.testing.assert_array_equal(jit(by_offset)(jnp.asarray(2)), expected)
    np.testing.assert_array_equal(jit(by_offset)(2), expected)
    for mask in (masks.causal(offset=2), masks.causal(offset=np.asarray(2))):
        np.testing.assert_array_equal(evaluate(mask), expected)
    np.testing.assert_array_equal(evaluate(masks.causal()), np.tri(QUERIES, KEYS, 0, bool))


def test_an_offset_may_be_mapped():
    offsets = jnp.asarray([-1, 3])
    index = jnp.arange(QUERIES), jnp.arange(KEYS)
    allowed = jit(jax.vmap(lambda offset: masks.causal(offset=offset)(*index)))(offsets)
    np.testing.assert_array_equal(allowed, [np.tri(QUERIES, KEYS, k, bool) for k in (-1, 3)])


def test_a_known_offset_stays_known():
    for offset in (2, np.int64(2)):
        assert masks.causal(offset=offset) == masks.Causal(2)


# Positions


def test_without_positions_a_mask_stays_as_it_is():
    for mask in (masks.causal(), masks.window(2), masks.function(odd_or_same)):
        assert mask.at(None, None) is mask
    for mask in (masks.lengths(3), masks.dense(TABLE), masks.segments(QUERY_IDS)):
        assert mask.at(*BOTH_AT) is mask


def test_a_step_of_decoding_is_the_last_row_of_the_full_run():
    mask = masks.causal() & masks.window(3)

    @jit
    def program(last):
        full = mask(jnp.arange(KEYS), jnp.arange(KEYS))
        return mask.at(last, None)(jnp.arange(1), jnp.arange(KEYS)), full

    step, full = program(np.array([KEYS - 1]))
    np.testing.assert_array_equal(step, full[-1:])


# 64 bits


WIDE = ["offsets", "window at", "function at", "query lengths", "segments", "full dense"]


@pytest.mark.parametrize("name", WIDE)
def test_indices_of_64_bits(name):
    mask, allows = CASES[name]

    @jit
    def program(mask, *index):
        assert index[0].dtype == jnp.int64
        return mask.evaluate(*index, 2), mask.reachable((BATCH, HEADS, QUERIES, KEYS))

    index = np.arange(QUERIES), np.arange(KEYS)
    with jax.enable_x64(True):
        allowed, seen = program(mask, *index)
    assert_allowed(allowed, allows, *index)
    expected = table_of(name).any(axis=2)
    np.testing.assert_array_equal(np.broadcast_to(seen, expected.shape), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: masks.window(-1),
            r"window\(width=-1\): must be a whole number from 0 to 2147483647",
        ),
        (lambda: masks.window(left=-1), r"window\(left=-1\): must be a whole number"),
        (lambda: masks.window(left=2, right=-2), r"window\(right=-2\): must be a whole number"),
        (lambda: masks.window(2**31), r"window\(width=2147483648\): must be a whole number"),
        (lambda: masks.window(1.0), r"window\(width=1.0\): must be a whole number"),
        (lambda: jit(masks.window)(1), r"window\(width=.*\): must be a whole number"),
        (lambda: masks.window(), r"window\(width=None, left=None, right=None\): pass a width, or"),
        (
            lambda: masks.window(1, left=1),
            r"window\(width=1, left=1, right=None\): pass a width, or",
        ),
        (lambda: masks.causal(offset=0.5), r"causal\(offset=0.5\): must be a whole number from -2"),
        (lambda: masks.causal(offset=True), r"causal\(offset=True\): must be a whole number"),
        (lambda: masks.causal(offset=jnp.ones(2)), "offset=….: must be integers, got float32"),
        (lambda: masks.lengths(jnp.ones(2)), "^lengths must be integers, got float32"),
        (lambda: masks.lengths(jnp.ones(2, bool)), "^lengths must be integers, got bool"),
        (lambda: masks.query_lengths(jnp.ones(2)), "query_lengths must be integers, got float32"),
        (lambda: masks.segments(jnp.ones(2)), "query_ids must be integers, got float32"),
        (lambda: masks.segments(QUERY_IDS, jnp.asarray(2)), r"key_ids .*int32 of shape \(\)"),
        (lambda: masks.keys(jnp.ones((2, 7), int)), r"masks.keys .*True .*int32 .*array == 1"),
        (
            lambda: masks.queries(jnp.asarray(True)),
            r"booleans \[..., queries\],.*bool of shape \(\)",
        ),
        (lambda: masks.causal() & TABLE[0, 0], r"not with ndarray: wrap an array in masks.dense"),
        (
            lambda: jnp.asarray(TABLE) & masks.causal(),
            r"not with ArrayImpl: wrap an array in masks.dense",
        ),
        (lambda: TABLE | masks.causal(), r"not with ndarray: wrap an array in masks"),
        (lambda: masks.causal() | odd_or_same, r"not with function: .* function in masks.function"),
    ],
)
def test_what_is_no_mask_is_refused(make, message):
    with refused(message):
        make()


@pytest.mark.parametrize("lead", [(), (BATCH,), (BATCH, HEADS), (BATCH, HEADS, 3)])
def test_masks_of_a_side_fit_scores_of_any_leading_axes(lead):
    shape = (*lead, QUERIES, KEYS)
    of_queries, of_keys = jnp.ones((*lead[:1], QUERIES), int), jnp.ones((*lead[:1], KEYS), int)
    for mask in (
        masks.queries(of_queries == 1),
        masks.keys(of_keys == 1),
        masks.segments(of_queries, of_keys),
        masks.lengths(of_keys[..., 0]),
        masks.query_lengths(of_queries[..., 0]),
    ):
        mask.check(shape)
        allowed = mask.evaluate(jnp.arange(QUERIES), jnp.arange(KEYS), len(lead))
        assert np.broadcast_shapes(allowed.shape, shape) == shape
        if lead:
            with refused("fit"):
                mask.check((7919, *shape[1:]))


def test_a_mask_does_not_derive_from_one_with_another_rule():
    class Own(masks.Mask):
        def __call__(self, query_index, key_index):
            return query_index[:, None] > key_index[None, :]

    with pytest.raises(TypeError, match=r"Later has another rule than Own .* derive it from Mask"):

        class Later(Own):
            def __call__(self, query_index, key_index):
                return query_index[:, None] < key_index[None, :]

    with pytest.raises(TypeError, match=r"Strided has another rule than Span .* from Mask"):

        class Strided(masks.Causal):
            def __call__(self, query_index, key_index):
                return super().__call__(query_index, key_index) & (key_index[None, :] % 2 == 0)
