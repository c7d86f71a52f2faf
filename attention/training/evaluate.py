"""Evaluation on held-out sequences: what the model produces on its own, and where it looks."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from attention.analysis.error_rates import error_counts
from attention.analysis.figures import Pixels, attention_maps, pooling_maps
from attention.models.reconstructor import Reconstruction
from attention.tasks.batch import Batch
from attention.tasks.digits import Digits
from attention.training.experiment import Experiment, Parameters
from attention.training.streams import Stream, stream_key

SPLITS = {"validation": Stream.VALIDATION, "test": Stream.TEST}

Report = dict[str, Any]
Counts = dict[str, Int[Array, "*each"]]


class Evaluator:
    """Runs a model on held-out sequences.

    Args:
      experiment: whose model and task.
    """

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self._settings = experiment.settings.eval

        self.reconstruct = jax.jit(self._reconstruct)
        self._counts = jax.jit(self._count_all)

    def _reconstruct(self, parameters: Parameters, batch: Batch) -> Reconstruction:
        model = self._experiment.model(parameters)
        return model.reconstruct(batch.source, batch.source_length)

    def report(self, parameters: Parameters, split: str, lengths: Sequence[int] = ()) -> Report:
        """The metrics of a split, `validation` or `test`.

        Returns:
          The metrics of mixed lengths under `all`, and of sequences of exactly each of
          `lengths` under `by_length`.
        """
        return {
            "all": self._metrics(parameters, split, None),
            "by_length": {str(n): self._metrics(parameters, split, n) for n in lengths},
        }

    def attention_maps(self, parameters: Parameters, examples: int = 3) -> Pixels | None:
        """Where the model looks in the first validation examples.

        Of images, thrice as many. None for a model that has one context for all steps.
        """
        task = self._experiment.task
        if isinstance(task, Digits):
            return self._pooling_maps(parameters, task, 3 * examples)
        padded, rows = self._examples("validation", None)
        batch = jax.tree.map(lambda leaf: leaf[: min(examples, rows)], padded)
        weights = self.reconstruct(parameters, batch).weights
        if weights is None:
            return None
        drawn = weights, batch.alignment, batch.target_length, batch.source_length
        return attention_maps(*map(np.asarray, drawn))

    def _pooling_maps(self, parameters: Parameters, task: Digits, examples: int) -> Pixels:
        batch = task.held_out("validation", jax.random.key(0), examples)
        weights = self.reconstruct(parameters, batch).weights
        assert weights is not None
        patches = weights[:, :, 0].reshape(*weights.shape[:2], *task.grid)
        return pooling_maps(np.asarray(task.images(batch.source)), np.asarray(patches))

    def _metrics(self, parameters: Parameters, split: str, length: int | None) -> dict[str, Any]:
        examples, rows = self._examples(split, length)
        return _metrics(self._counts(parameters, examples, rows))

    def _examples(self, split: str, length: int | None) -> tuple[Batch, int]:
        """Held-out examples, padded to one shape for all lengths, and how many count."""
        key = stream_key(self._experiment.settings.seed, SPLITS[split])
        most, size = self._settings.sequences, self._settings.batch_size
        examples = self._experiment.task.held_out(split, key, most, length)
        rows = examples.source.shape[0]
        total = -(-most // size) * size

        def pad(leaf: Array) -> Array:
            return jnp.asarray(np.pad(leaf, [(0, total - rows)] + [(0, 0)] * (leaf.ndim - 1)))

        return jax.tree.map(pad, examples), rows

    def _count_all(self, parameters: Parameters, examples: Batch, rows: Int[Array, ""]) -> Counts:
        """Batch by batch, in one program for any number of rows."""
        size = self._settings.batch_size

        def count(batch_number: Array) -> Counts:
            first = batch_number * size
            batch = jax.tree.map(
                lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, first, size), examples
            )
            counts_row = first + jnp.arange(size) < rows
            return _count(self._reconstruct(parameters, batch), batch, counts_row)

        start = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(count, 0)
        )
        return jax.lax.fori_loop(
            0, -(-rows // size), lambda n, counts: jax.tree.map(jnp.add, counts, count(n)), start
        )


def _count(output: Reconstruction, batch: Batch, counts_row: Bool[Array, " batch"]) -> Counts:
    """What is counted, so that accuracies are exact ratios whatever the batches.

    Returns:
      `sequences`, and how many of them are `exact`: right to the last token, `END`
      included. `tokens`, the target tokens, and how many of them are `right`: the output
      has them in their place. `aligned`, where the model has an alignment: target tokens
      whose largest weight lies on the gold source token, first for the mean of the heads,
      then for each head; `alignable`, the target tokens that have a gold source token. And
      the `error_counts`, where there are references.
    """
    counts_token = batch.target_mask & counts_row[:, None]
    right = output.tokens == batch.target
    exact = jnp.all(right | ~batch.target_mask, axis=1) & counts_row
    counts = {
        "sequences": jnp.sum(counts_row),
        "exact": jnp.sum(exact),
        "tokens": jnp.sum(counts_token),
        "right": jnp.sum(right & counts_token),
    }
    if output.weights is not None:
        looked_at = jnp.argmax(_with_mean(output.weights), axis=-1)
        on_gold = (looked_at == batch.alignment[:, None]) & counts_token[:, None]
        counts["aligned"] = jnp.sum(on_gold, axis=(0, 2))
        counts["alignable"] = jnp.sum(counts_token & (batch.alignment >= 0))
    if batch.references is not None:
        counts |= error_counts(output.tokens, batch.references, counts_row)
    return counts


def _metrics(counts: Counts) -> dict[str, Any]:
    """The ratios of the counts; null where there is nothing to count."""

    def share(count: Any, total: Any) -> float | None:
        return int(count) / int(total) if int(total) else None

    tokens = counts["tokens"]
    aligned = [share(n, counts["alignable"]) for n in np.asarray(counts.get("aligned", []))]
    metrics = {
        "sequences": int(counts["sequences"]),
        "token_accuracy": share(counts["right"], tokens),
        "exact_match": share(counts["exact"], counts["sequences"]),
        "alignment_accuracy": aligned[0] if aligned else None,
        "alignment_accuracy_by_head": aligned[1:] if aligned else None,
    }
    if "edits" in counts:
        metrics["phoneme_error_rate"] = share(counts["edits"], counts["reference_symbols"])
        metrics["word_error_rate"] = share(counts["missed"], counts["sequences"])
    return metrics


def _with_mean(
    weights: Float[Array, "batch heads queries keys"],
) -> Float[Array, "batch one_plus_heads queries keys"]:
    return jnp.concatenate([jnp.mean(weights, axis=1, keepdims=True), weights], axis=1)
