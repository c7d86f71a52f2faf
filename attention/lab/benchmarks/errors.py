"""Errors of a context and its gradients, against plain JAX in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attention.lab.benchmarks.jax_contenders import loss_and_gradient
from attention.lab.benchmarks.problems import BY_QUERY, PROBLEMS, Given, ignores_query

REFERENCE_TERMS = 2**24  # terms of scores, in float64, that are in memory at once

Truth = tuple[np.ndarray, list[np.ndarray]]  # the context, and the gradients


def reference(
    name: str, arrays: list[jax.Array], cotangent: jax.Array, given: Given | None = None
) -> Truth:
    """The context and the gradients of a problem by plain JAX in float64.

    Some queries at a time, for memory; the axis of queries is in the first array.
    """
    with jax.enable_x64(True):
        queries, *rest, weights = (
            jnp.asarray(np.asarray(array, np.float64)) for array in (*arrays, cotangent)
        )
        size = queries.shape[1]
        if not ignores_query(name):
            terms = queries.shape[0] * rest[0].shape[1] * queries.shape[2]
            size = max(1, REFERENCE_TERMS // terms)
        run, contexts, gradients = loss_and_gradient(PROBLEMS[name].plain), [], []
        for start in range(0, queries.shape[1], size):
            some = slice(start, start + size)
            block = [queries[:, some], *rest]
            beside = {
                key: each[some] if key in BY_QUERY else each for key, each in (given or {}).items()
            }
            contexts.append(PROBLEMS[name].plain(*block, **beside))
            gradients.append(run(block, weights[:, some], beside)[1])
        first, *others = zip(*gradients, strict=True)
        summed = [np.sum(parts, axis=0) for parts in others]
        return np.concatenate(contexts, axis=1), [np.concatenate(first, axis=1), *summed]


def error(result: Any, truth: np.ndarray) -> float:
    """The greatest error of an array of JAX or PyTorch, relative to max(1, |truth|)."""
    result = result.numpy(force=True) if hasattr(result, "numpy") else np.asarray(result)
    return float(np.max(np.abs(result - truth)) / max(1.0, np.max(np.abs(truth))))
