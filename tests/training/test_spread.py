import math

from attention.training.spread import mean, sd

REPORTS = [
    {"all": {"exact": 0.5, "heads": [1.0, 0.2]}, "by_length": {"3": {"exact": None}}},
    {"all": {"exact": 1.0, "heads": [0.0, None]}, "by_length": {"3": {"exact": 0.3}}},
    {"all": {"exact": 0.9, "heads": [0.5, None]}, "by_length": {"3": {"exact": None}}},
]


def test_the_mean_of_each_number_is_over_the_reports_that_have_it():
    assert mean(REPORTS) == {
        "all": {"exact": 0.8, "heads": [0.5, 0.2]},
        "by_length": {"3": {"exact": 0.3}},
    }


def test_the_standard_deviation_is_that_of_a_sample():
    exact = math.sqrt((0.3**2 + 0.2**2 + 0.1**2) / 2)
    found = sd(REPORTS)
    assert math.isclose(found["all"]["exact"], exact)
    assert found["all"]["heads"] == [0.5, None]
    assert found["by_length"] == {"3": {"exact": None}}


def test_the_mean_of_one_is_that_one_to_the_last_bit():
    report = {"share": 1 / 3, "sequences": 7, "none": None}
    assert mean([report]) == report
    assert isinstance(mean([report])["sequences"], int)
