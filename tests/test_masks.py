import jax.numpy as jnp
import numpy as np
import pytest
from oracles import BATCH, HEADS, KEYS, QUERIES, jit, refused

from attention import masks

pytestmark = pytest.mark.usefixtures("strict")

TABLE = np.random.default_rng(0).random((BATCH, HEADS, QUERIES, KEYS)) < 0.5
LIMITS = np.array([[3, 0, 7], [1, 5, 4]])  # [batch, heads]

# A mask, and the same as a function of batch b, head h, query i, key j.
CASES = {
    "causal": (masks.causal(), lambda b, h, i, j: j <= i),
    "ahead": (masks.causal(offset=2), lambda b, h, i, j: j <= i + 2),
    "behind": (masks.causal(offset=-1), lambda b, h, i, j: j <= i - 1),
    "self": (masks.window(0), lambda b, h, i, j: j == i),
    "window": (masks.window(2), lambda b, h, i, j: i - 2 <= j <= i + 2),
    "length": (masks.lengths(jnp.asarray(4)), lambda b, h, i, j: j < 4),
    "batch lengths": (
        masks.lengths(jnp.asarray(LIMITS[:, 1])),
        lambda b, h, i, j: j < LIMITS[b, 1],
    ),
    "lengths": (masks.lengths(jnp.asarray(LIMITS)), lambda b, h, i, j: j < LIMITS[b, h]),
    "dense": (masks.dense(jnp.asarray(TABLE[0, 0])), lambda b, h, i, j: TABLE[0, 0, i, j]),
    "batch dense": (masks.dense(jnp.asarray(TABLE[:, 0])), lambda b, h, i, j: TABLE[b, 0, i, j]),
    "full dense": (masks.dense(jnp.asarray(TABLE)), lambda b, h, i, j: TABLE[b, h, i, j]),
    "both": (masks.causal() & masks.window(1), lambda b, h, i, j: i - 1 <= j <= i),
    "other axes": (
        masks.dense(jnp.asarray(TABLE)) & masks.lengths(jnp.asarray(LIMITS[:, 1])),
        lambda b, h, i, j: TABLE[b, h, i, j] and j < LIMITS[b, 1],
    ),
    "three": (
        masks.lengths(jnp.asarray(LIMITS[:, 1])) & masks.causal() & masks.dense(jnp.asarray(TABLE)),
        lambda b, h, i, j: j < LIMITS[b, 1] and j <= i and TABLE[b, h, i, j],
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def loops(allows, query_index, key_index):
    return np.array(
        [
            [[[allows(b, h, i, j) for j in key_index] for i in query_index] for h in range(HEADS)]
            for b in range(BATCH)
        ]
    )


@pytest.mark.parametrize(
    ("query_index", "key_index"),
    [(np.arange(QUERIES), np.arange(KEYS)), (np.array([3, 1]), np.array([2, 5, 4]))],
    ids=["all pairs", "a block"],
)
def test_mask_is_its_definition(case, query_index, key_index):
    mask, allows = case
    # As an argument of a compiled function, for a mask is a pytree.
    allowed = jit(lambda mask, *index: mask.evaluate(*index, 2))(
        mask, jnp.asarray(query_index), jnp.asarray(key_index)
    )
    assert allowed.ndim == 4
    expected = loops(allows, query_index, key_index)
    np.testing.assert_array_equal(np.broadcast_to(allowed, expected.shape), expected)


def test_masks_compose_in_any_order():
    left, right = CASES["batch lengths"][0], CASES["full dense"][0]
    index = jnp.arange(QUERIES), jnp.arange(KEYS), 2
    np.testing.assert_array_equal((left & right).evaluate(*index), (right & left).evaluate(*index))


@pytest.mark.parametrize(
    ("mask", "shape"),
    [
        (masks.causal(), (1, 1, QUERIES, KEYS)),
        (masks.lengths(jnp.asarray(3)), (1, 1, 1, KEYS)),
        (masks.lengths(jnp.arange(BATCH)), (BATCH, 1, 1, KEYS)),
        (masks.lengths(jnp.arange(BATCH)) & masks.causal(), (BATCH, 1, QUERIES, KEYS)),
    ],
)
def test_own_axes_are_aligned_left_and_the_rest_are_single(mask, shape):
    assert mask.evaluate(jnp.arange(QUERIES), jnp.arange(KEYS), 2).shape == shape


def test_a_mask_with_more_axes_than_the_scores_is_refused():
    with refused(r"mask with 2 leading axes cannot be used on scores with 1; .*\(2, 3, 5, 7\)"):
        CASES["full dense"][0].evaluate(jnp.arange(QUERIES), jnp.arange(KEYS), 1)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (masks.causal(), False),
        (masks.window(1), False),
        (masks.dense(jnp.asarray(TABLE)), False),
        (masks.lengths(jnp.asarray(3)), True),
        (masks.lengths(jnp.asarray(3)) & masks.lengths(jnp.asarray([2, 4])), True),
        (masks.lengths(jnp.asarray(3)) & masks.causal(), False),
        (masks.causal() & masks.lengths(jnp.asarray(3)), False),
    ],
)
def test_keys_only(mask, expected):
    assert mask.keys_only is expected


def test_a_mask_of_ones_own_needs_its_function_alone():
    class Even(masks.Mask):
        def __call__(self, query_index, key_index):
            return (query_index[:, None] + key_index[None, :]) % 2 == 0

    allowed = (Even() & masks.causal()).evaluate(jnp.arange(QUERIES), jnp.arange(KEYS), 0)
    expected = [[(i + j) % 2 == 0 and j <= i for j in range(KEYS)] for i in range(QUERIES)]
    np.testing.assert_array_equal(allowed, expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: masks.window(-1), r"window\(width=-1\): the width must be at least 0"),
        (lambda: masks.lengths(jnp.ones(2)), "lengths must be integers, got float32"),
        (lambda: masks.lengths(jnp.ones(2, bool)), "lengths must be integers, got bool"),
        (lambda: masks.dense(jnp.ones((5, 7))), r"boolean array .*got float32 of shape \(5, 7\)"),
        (lambda: masks.dense(jnp.ones((5, 7), int)), r"got int32 of shape \(5, 7\)"),
        (lambda: masks.dense(jnp.ones(7, bool)), r"boolean array .* got bool of shape \(7,\)"),
    ],
)
def test_what_is_no_mask_is_refused(make, message):
    with refused(message):
        make()
