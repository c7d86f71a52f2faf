from collections import Counter

import jax.numpy as jnp
import numpy as np
import pytest

from attention.lab.analysis.dependence import departures


@pytest.mark.parametrize(
    ("looked_at", "expected"),
    [
        ([4, 4, 4], (0, 2)),  # static
        ([4, 0, 2], (2, 2)),  # each elsewhere
        ([4, 0, 4, 1, 0], (3, 4)),
        ([4], (0, 0)),
        ([], (0, 0)),
    ],
)
def test_queries_depart_from_the_commonest_key(looked_at, expected):
    padded = jnp.array([looked_at + [7] * (11 - len(looked_at))])
    counts = jnp.arange(11)[None] < len(looked_at)
    assert tuple(int(n[0]) for n in departures(padded, counts)) == expected


def test_departures_equal_counting_one_by_one():
    rng = np.random.default_rng(0)
    looked_at, counts = rng.integers(0, 5, (31, 7)), rng.random((31, 7)) < 0.7
    departing, comparable = departures(jnp.asarray(looked_at), jnp.asarray(counts))
    for n in range(31):
        seen = Counter(looked_at[n, counts[n]].tolist())
        most = max(seen.values(), default=0)
        assert (int(departing[n]), int(comparable[n])) == (
            seen.total() - most,
            max(seen.total() - 1, 0),
        )
