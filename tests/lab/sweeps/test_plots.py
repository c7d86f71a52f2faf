"""Of `attention.lab.sweeps.plots`."""

import pytest

from attention.lab.sweeps.plots import coordinates


def test_coordinates_are_heights_on_an_axis():
    assert coordinates([1, 3, 2]) == [0, 1, 0.5]
    assert coordinates([1e-4, 1e-2, 1e-1]) == [0, pytest.approx(2 / 3), 1]  # by the logarithm
    assert coordinates([0, 50, 100]) == [0, 0.5, 1]
    assert coordinates(["mlp", "dot", "rbf", "dot"]) == [0.5, 0, 1, 0]
    assert coordinates([True, False]) == [1, 0]
    assert coordinates([3, 3]) == [0.5, 0.5]
