import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attention.lab.analysis import metrics
from attention.lab.models.reconstructor import Reconstruction
from attention.lab.tasks.batch import END, PAD, Batch

A, B, C = 2, 3, 4
TIME, REFERENCES = 5, 3


def counts_of(outputs, references, counts_row=None):
    """Counts of outputs, each a list of tokens, of which any of several references is right."""
    closed = [[_closed(r) for r in each] for each in references]
    none = [[PAD] * TIME]
    padded = jnp.array([each + none * (REFERENCES - len(each)) for each in closed])
    target = padded[:, 0]
    batch = Batch(
        source=target,
        source_length=jnp.full(len(outputs), TIME),
        target=target,
        target_length=jnp.sum(target != PAD, axis=1),
        alignment=jnp.full_like(target, -1),
        references=padded,
    )
    tokens = jnp.array([_closed(output) for output in outputs])
    rows = jnp.array([True] * len(outputs) if counts_row is None else counts_row)
    counts = jax.jit(metrics.count)(Reconstruction(tokens, None), batch, rows)
    return {name: int(count) for name, count in counts.items()}


def _closed(symbols):
    return ([*symbols, END] + [PAD] * TIME)[:TIME]


@pytest.mark.parametrize(
    ("output", "right", "tokens", "exact"),
    [
        ([A, B], 3, 3, 1),  # the first
        ([C], 2, 2, 1),  # the second
        ([C, C, C], 1, 2, 0),  # half of the second
        ([A, C], 2, 3, 0),  # two thirds of the first
        ([], 0, 3, 0),
    ],
)
def test_any_reference_is_right(output, right, tokens, exact):
    counts = counts_of([output], [[[A, B], [C]]])
    assert counts == {"sequences": 1, "exact": exact, "tokens": tokens, "right": right}


def test_rows_that_do_not_count_count_for_nothing():
    counts = counts_of([[C], [A]], [[[A, B], [C]], [[A]]], [False, True])
    assert counts == {"sequences": 1, "exact": 1, "tokens": 2, "right": 2}


def test_the_share_is_that_of_the_best_reference():
    """Against a loop over examples and references."""
    rng = np.random.default_rng(0)
    outputs = [rng.integers(2, 4, rng.integers(0, 4)).tolist() for _ in range(101)]
    references = [
        [rng.integers(2, 4, rng.integers(0, 4)).tolist() for _ in range(1 + n % REFERENCES)]
        for n in range(101)
    ]
    right = tokens = exact = 0
    for output, wanted in zip(outputs, references, strict=True):
        said = _closed(output)
        shares = [
            (sum(said[t] == token for t, token in enumerate([*r, END])), len(r) + 1) for r in wanted
        ]
        best = max(shares, key=lambda share: share[0] / share[1])  # the first of equal ones
        right, tokens, exact = right + best[0], tokens + best[1], exact + (best[0] == best[1])
    counts = counts_of(outputs, references)
    assert counts == {"sequences": 101, "exact": exact, "tokens": tokens, "right": right}
    assert 0 < exact < 101
