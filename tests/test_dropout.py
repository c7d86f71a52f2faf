import jax
import numpy as np
import pytest
from oracles import (
    BATCH,
    FEW_HIDDEN,
    HEADS,
    KEYS,
    QUERIES,
    VALUE_DIM,
    assert_close,
    jit,
    make_form,
    normal,
    refused,
)

from attention import Additive, InnerProduct, attend, attend_with_weights
from attention.dropout import dropout

pytestmark = pytest.mark.usefixtures("strict")

LEAD = (BATCH, HEADS)


factors_of = jit(lambda drop, *index: drop.factors(LEAD, *index))


def factors(rate, queries=QUERIES, keys=KEYS, first=0, seed=0, **options):
    drop = dropout(jax.random.key(seed), rate, **options)
    index = np.arange(queries, dtype=np.int32), np.arange(first, first + keys, dtype=np.int32)
    return np.asarray(factors_of(drop, *map(jax.device_put, index)))


def test_a_factor_is_zero_or_makes_up_for_those_that_are():
    drawn = factors(0.25, queries=101, keys=103)
    assert set(np.unique(drawn)) == {np.float32(0), np.float32(4 / 3)}
    # 62,418 draws: five standard deviations of their mean are 0.009.
    assert abs(np.mean(drawn == 0) - 0.25) < 0.009


def test_a_pair_is_dropped_by_its_own_indices():
    whole, part = factors(0.5), factors(0.5, keys=KEYS - 2, first=2)
    np.testing.assert_array_equal(whole[..., 2:], part)
    problems = whole.reshape(-1, QUERIES * KEYS)
    assert len({problem.tobytes() for problem in problems}) == BATCH * HEADS
    rows = whole.reshape(-1, KEYS)
    assert len(np.unique(rows, axis=0)) > len(rows) / 2
    assert (factors(0.5, seed=1) != whole).any()


def test_all_elements_may_drop_the_same_pairs():
    assert factors(0.5, broadcast=True).shape == (1, 1, QUERIES, KEYS)


def test_the_context_is_mixed_with_what_is_left_of_the_weights():
    form, values = make_form(InnerProduct, LEAD), normal(6, *LEAD, KEYS, VALUE_DIM)
    drop = dropout(jax.random.key(3), 0.4)
    both = jit(lambda drops: [attend_with_weights(form, values, dropout=drop) for drop in drops])
    (_, whole), (context, weights) = both([None, drop])
    assert_close(weights, whole * factors(0.4, seed=3))
    assert_close(context, np.asarray(weights) @ np.asarray(values))


def test_every_algorithm_drops_the_same():
    form, values = make_form(Additive, LEAD, hidden=FEW_HIDDEN), normal(6, *LEAD, KEYS, VALUE_DIM)
    drop = dropout(jax.random.key(3), 0.4)

    def pulled(implementation):
        def attended(form, values):
            return attend(form, values, dropout=drop, implementation=implementation)

        context, pullback = jax.vjp(attended, form, values)
        return context, pullback(normal(7, *context.shape))

    names = "dense", "additive", "streaming"
    expected, *actual = jit(lambda: [pulled(name) for name in names])()
    assert_close(actual, [expected, expected])


def test_a_rate_of_zero_is_no_dropout_and_a_rate_of_one_leaves_nothing():
    assert dropout(jax.random.key(0), 0.0) is None
    assert not factors(1.0).any()


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with refused(f"dropout_rate={rate}: must be a number from 0 to 1"):
        dropout(jax.random.key(0), rate)
