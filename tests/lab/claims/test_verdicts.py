import math

import pytest

from attention.lab.analysis.mean_sd import MeanSd
from attention.lab.claims.verdicts import crossing, is_better, reach, verdict


@pytest.mark.parametrize(
    ("value", "other", "better"),
    [
        ((0.9, 0.1), (0.5, 0.1), True),  # four deviations
        ((0.9, 0.1), (0.5, 0.3), False),  # the larger deviation counts
        ((1.0, 0.0), (0.995, 0.0), False),  # too small a difference
        ((0.5, 0.0), (0.9, 0.0), False),
        ((math.nan, 0.0), (0.5, 0.0), False),
    ],
)
def test_better_is_more_than_chance(value, other, better):
    assert is_better(MeanSd(*value), MeanSd(*other)) == better


def test_a_verdict_names_its_cases():
    assert verdict({"copy": True, "sort": True}) == "holds on all of copy, sort"
    assert verdict({"copy": False}, "for") == "does not hold for any of copy"
    assert verdict({"copy": True, "sort": False}) == "depends: holds on copy; not on sort"


def test_the_crossing_point_is_where_it_stays_better():
    without = {n: MeanSd(0.5) for n in (4, 8, 16)}

    def found(*means):
        return crossing({n: MeanSd(m) for n, m in zip((4, 8, 16), means, strict=True)}, without)

    assert found(0.5, 0.9, 0.9) == 8
    assert found(0.9, 0.5, 0.9) == 16  # better at 4 as well, but not from there on
    assert found(0.9, 0.9, 0.5) is None


def test_the_reach_ends_before_the_first_failure():
    assert reach({2: MeanSd(1.0), 4: MeanSd(0.99)}) == 4
    assert reach({2: MeanSd(0.9), 4: MeanSd(1.0)}) == 0
