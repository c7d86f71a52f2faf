"""Sizes: how large the problems are that are measured unless others are asked for."""

from collections.abc import Sequence

import jax

from attention.lab.benchmarks.problems import PROBLEMS

Size = tuple[int, int, int]  # batch, queries, keys
Case = tuple[str, Size]  # the name of a problem, and its size

SIZES: dict[str, list[Size]] = {
    "mlp": [(8, 256, 256), (1, 1024, 1024)],
    "dot": [(8, 256, 256), (1, 1024, 1024)],
    "own": [(1, 512, 512), (1, 4096, 4096)],
    "linear": [(1, 1, 10**power) for power in (3, 4, 5, 6)],
}
SIZES |= {name: [(1, 4096, 4096)] for name in PROBLEMS if name.startswith(("dot_", "mlp_"))}
GPU_SIZES: dict[str, list[Size]] = {"mlp": [(16, 1024, 1024), (1, 32768, 32768)]}  # in addition
SCORES = tuple(SIZES)
USUAL = ("mlp", "dot", "own", "linear")  # of the scores, those measured unless others are asked for


def cases(scores: Sequence[str], sizes: Sequence[Size] | None) -> list[Case]:
    """The problems of some scores, in the order of `PROBLEMS`.

    The score `linear` makes two problems of a size. It ignores the query, so of the queries that
    are asked for there is a single one in the first problem, and one a key in the second.

    Args:
      scores: some of `SCORES`.
      sizes: None for those in `SIZES` and, on a GPU, in `GPU_SIZES`.
    """
    found: list[Case] = []
    for name in scores:
        more = GPU_SIZES.get(name, []) if jax.default_backend() == "gpu" else []
        for batch, queries, keys in sizes or [*SIZES[name], *more]:
            if name == "linear":
                found += [(name, (batch, 1, keys)), ("linear, causal", (batch, keys, keys))]
            else:
                found.append((name, (batch, queries, keys)))
    return sorted(found, key=lambda case: list(PROBLEMS).index(case[0]))


def lengths() -> list[int]:
    """The lengths of the plot: powers of two."""
    longest = 12 if jax.default_backend() == "gpu" else 10
    return [2**power for power in range(6, longest + 1)]
