"""Metrics: counts of what a model's outputs get right, and the ratios made of the counts."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from attention.lab.analysis.dependence import departures
from attention.lab.models.reconstructor import Reconstruction
from attention.lab.tasks.batch import PAD, Batch

# Numbers by name; `aligned` is an array of them: for the mean of the heads, then for each head.
Counts = dict[str, Int[Array, "*each"]]


def count(output: Reconstruction, batch: Batch, counts_row: Bool[Array, " batch"]) -> Counts:
    """Counts over a batch; sums of them give exact accuracies, however examples are batched.

    Args:
      output: what the model made of the batch.
      batch: the examples.
      counts_row: which examples count.

    Returns:
      `sequences`: the examples that count. `exact`: the sequences that are right to the last
      token, `END` included. `tokens`: the target tokens. `right`: the target tokens that the
      output has in their place. Of several right targets, any will do: these three are about the
      target with the largest share of tokens right. Where the model has weights for each target
      step, also:
      `aligned`: target tokens whose largest weight lies on the gold source token, first for the
      mean of the heads, then for each head. `alignable`: the target tokens that have a gold
      source token. `departing` and `comparable`: see `departures`, of the mean of the heads,
      where the queries of a sequence are its target tokens.
    """
    counts_token = batch.target_mask & counts_row[:, None]
    right, tokens = _right_and_all(output.tokens, batch)
    counts = {
        "sequences": jnp.sum(counts_row),
        "exact": jnp.sum((right == tokens) & counts_row),
        "tokens": jnp.sum(jnp.where(counts_row, tokens, 0)),
        "right": jnp.sum(jnp.where(counts_row, right, 0)),
    }
    if output.weights is not None:
        looked_at = jnp.argmax(_with_mean(output.weights), axis=-1)
        on_gold = (looked_at == batch.alignment[:, None]) & counts_token[:, None]
        counts["aligned"] = jnp.sum(on_gold, axis=(0, 2))
        counts["alignable"] = jnp.sum(counts_token & (batch.alignment >= 0))
        departing, comparable = departures(looked_at[:, 0], counts_token)
        counts |= {"departing": jnp.sum(departing), "comparable": jnp.sum(comparable)}
    return counts


def ratios(counts: dict[str, Int[np.ndarray, "*each"]]) -> dict[str, Any]:
    """The ratios of summed counts; None where there is nothing to count.

    Args:
      counts: sums of what `count` returned.
    """

    def share(count: Any, total: Any) -> float | None:
        return int(count) / int(total) if int(total) else None

    tokens = counts["tokens"]
    aligned = [share(n, counts["alignable"]) for n in np.asarray(counts.get("aligned", []))]
    return {
        "sequences": int(counts["sequences"]),
        "token_accuracy": share(counts["right"], tokens),
        "exact_match": share(counts["exact"], counts["sequences"]),
        "alignment_accuracy": aligned[0] if aligned else None,
        "alignment_accuracy_by_head": aligned[1:] if aligned else None,
        "query_dependence": share(counts.get("departing", 0), counts.get("comparable", 0)),
    }


def _right_and_all(
    tokens: Int[Array, "batch time"], batch: Batch
) -> tuple[Int[Array, " batch"], Int[Array, " batch"]]:
    """How many target tokens an output has in their place, and how many there are."""
    if batch.references is None:
        return jnp.sum((tokens == batch.target) & batch.target_mask, axis=1), batch.target_length
    counts = batch.references != PAD
    right = jnp.sum((tokens[:, None] == batch.references) & counts, axis=2)
    total = jnp.sum(counts, axis=2)
    best = jnp.argmax(right / jnp.maximum(total, 1), axis=1)
    rows = jnp.arange(best.shape[0])
    return right[rows, best], total[rows, best]


def _with_mean(
    weights: Float[Array, "batch heads queries keys"],
) -> Float[Array, "batch one_plus_heads queries keys"]:
    return jnp.concatenate([jnp.mean(weights, axis=1, keepdims=True), weights], axis=1)
