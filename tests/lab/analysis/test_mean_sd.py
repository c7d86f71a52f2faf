import math

from attention.lab.analysis.mean_sd import MeanSd, mean_sd, means, sds

REPORTS = [
    {"all": {"exact": 0.5, "heads": [1.0, 0.2]}, "by_length": {"3": {"exact": None}}},
    {"all": {"exact": 1.0, "heads": [0.0, None]}, "by_length": {"3": {"exact": 0.3}}},
    {"all": {"exact": 0.9, "heads": [0.5, None]}, "by_length": {"3": {"exact": None}}},
]


def test_the_mean_of_each_number_is_over_the_reports_that_have_it():
    assert means(REPORTS) == {
        "all": {"exact": 0.8, "heads": [0.5, 0.2]},
        "by_length": {"3": {"exact": 0.3}},
    }


def test_the_standard_deviation_is_that_of_a_sample():
    exact = math.sqrt((0.3**2 + 0.2**2 + 0.1**2) / 2)
    found = sds(REPORTS)
    assert math.isclose(found["all"]["exact"], exact)
    assert found["all"]["heads"] == [0.5, None]
    assert found["by_length"] == {"3": {"exact": None}}


def test_the_mean_of_one_is_that_one_to_the_last_bit():
    report = {"share": 1 / 3, "sequences": 7, "none": None}
    assert means([report]) == report
    assert isinstance(means([report])["sequences"], int)


def test_mean_and_sd_by_hand():
    assert mean_sd([1.0, None, 2.0, 6.0]) == MeanSd(3.0, math.sqrt(7))
    assert mean_sd([0.25]) == MeanSd(0.25, 0.0)
    assert not mean_sd([None]).is_known


def test_a_mean_is_written_alone_where_all_values_agree():
    written = [str(mean_sd(values)) for values in ([1.0, 2.0, 6.0], [0.5, 0.5], [0.25], [])]
    assert written == ["3.0000 ± 2.6458", "0.5000", "0.2500", "—"]
    assert mean_sd([9.0, 9.6]).written(1) == "9.3 ± 0.4"
    assert [mean_sd([9.0, 9.05]).written(digits) for digits in (1, 2)] == ["9.0", "9.03 ± 0.04"]
