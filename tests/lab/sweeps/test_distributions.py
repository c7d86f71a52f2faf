"""Of `attention.lab.sweeps.distributions`."""

import math

import pytest

from attention.lab.sweeps.distributions import log_uniform, uniform

FRACTIONS = [number / 101 for number in range(101)]


def test_floats_are_spread_evenly_or_evenly_in_their_logarithm():
    assert [uniform(1.0, 3.0).at(fraction) for fraction in (0.0, 0.25, 0.5)] == [1.0, 1.5, 2.0]
    logarithmic = log_uniform(1e-4, 1e-1)
    found = [logarithmic.at(fraction) for fraction in (0.0, 1 / 3, 0.5)]
    assert found == [1e-4, 1e-3, 0.003162]  # of four digits


def test_integers_have_their_ends():
    found = [uniform(3, 7).at(fraction) for fraction in FRACTIONS]
    assert {type(value) for value in found} == {int}
    assert [found.count(value) for value in range(3, 8)] == [21, 20, 20, 20, 20]
    found = [log_uniform(1, 7).at(fraction) for fraction in FRACTIONS]
    # Below 2, 3, … lies log₈ of them.
    lies_below = [sum(value < limit for value in found) / 101 for limit in range(2, 9)]
    assert lies_below == pytest.approx([math.log(x, 8) for x in range(2, 9)], abs=0.01)


def test_rounding_does_not_leave_the_range():
    for ends in ((0.123456, 0.123457), (1, 1.00001)):
        assert ends[0] <= uniform(*ends).at(0.0) <= uniform(*ends).at(0.999) <= ends[1]


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ((3, 3), "the lower first"),
        ((0, math.inf), "finite"),
        ((math.nan, 1), "finite"),
        ((2, 1.0), r"uniform\(2, 1.0\): give two"),
    ],
)
def test_bad_ends_are_refused(ends, told):
    with pytest.raises(ValueError, match=told):
        uniform(*ends)


@pytest.mark.parametrize("low", [0, -1.0])
def test_a_logarithm_needs_numbers_above_zero(low):
    with pytest.raises(ValueError, match="both ends must be above 0"):
        log_uniform(low, 1.0)
