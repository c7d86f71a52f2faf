"""Evaluation on held-out sequences: what the model produces on its own, and where it looks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass
from jaxtyping import Array, Bool, Float, Int

from attention.analysis.figures import Pixels, attention_maps
from attention.models.reconstructor import Reconstruction
from attention.tasks.batch import Batch
from attention.training.experiment import Experiment, Parameters
from attention.training.streams import Stream, stream_key

SPLITS = {"validation": Stream.VALIDATION, "test": Stream.TEST}

Report = dict[str, Any]


@register_dataclass
@dataclass(frozen=True)
class Counts:
    """What is counted, so that accuracies are exact ratios whatever the batches.

    Attributes:
      sequences: how many, and `exact`: how many are right to the last token, `END` included.
      tokens: how many target tokens, and `right`: how many the output has in their place.
      aligned: target tokens whose largest weight lies on the gold source token; first for
        the mean of the heads, then for each head. None for a model without alignment.
    """

    sequences: Int[Array, ""]
    exact: Int[Array, ""]
    tokens: Int[Array, ""]
    right: Int[Array, ""]
    aligned: Int[Array, " one_plus_heads"] | None

    def metrics(self) -> dict[str, Any]:
        """The ratios; null where there is nothing to count."""

        def share(count: Any, total: Any) -> float | None:
            return int(count) / int(total) if int(total) else None

        aligned = None if self.aligned is None else [share(n, self.tokens) for n in self.aligned]
        return {
            "sequences": int(self.sequences),
            "token_accuracy": share(self.right, self.tokens),
            "exact_match": share(self.exact, self.sequences),
            "alignment_accuracy": aligned and aligned[0],
            "alignment_accuracy_by_head": aligned and aligned[1:],
        }


class Evaluator:
    """Runs a model on held-out sequences.

    Args:
      experiment: whose model and task.
    """

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self._settings = experiment.settings.eval

        def reconstruct(parameters: Parameters, batch: Batch) -> Reconstruction:
            model = experiment.model(parameters)
            return model.reconstruct(batch.source, batch.source_length)

        self.reconstruct = jax.jit(reconstruct)

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

        None for a model that has one context for all steps.
        """
        batch, _ = self._chunks("validation", None)[0]
        weights = self.reconstruct(parameters, batch).weights
        if weights is None:
            return None
        return attention_maps(
            np.asarray(weights)[:examples],
            batch.alignment[:examples],
            batch.target_length[:examples],
        )

    def _metrics(self, parameters: Parameters, split: str, length: int | None) -> dict[str, Any]:
        counts = [
            _count(self.reconstruct(parameters, batch), batch, counts_row)
            for batch, counts_row in self._chunks(split, length)
        ]
        return jax.tree.map(lambda *leaves: sum(map(_on_host, leaves)), *counts).metrics()

    def _chunks(self, split: str, length: int | None) -> list[tuple[Batch, np.ndarray]]:
        key = stream_key(self._experiment.settings.seed, SPLITS[split])
        task = self._experiment.task
        examples = task.held_out(split, key, self._settings.sequences, length)
        return _pieces(examples, self._settings.batch_size)


def _on_host(array: Array) -> np.ndarray:
    """In 64 bits: the counts of a large evaluation overflow 32."""
    return np.asarray(array, np.int64)


def _pieces(examples: Batch, size: int) -> list[tuple[Batch, np.ndarray]]:
    """Pieces of one size, so that one compiled program serves, padded with empty rows.

    Beside each piece is a mask of the rows that count. There is at least one piece.
    """
    rows = examples.source.shape[0]
    total = max(-(-rows // size), 1) * size

    def pad(leaf: Array) -> np.ndarray:
        return np.pad(leaf, [(0, total - rows)] + [(0, 0)] * (leaf.ndim - 1))

    padded = jax.tree.map(pad, examples), np.arange(total) < rows
    return [
        jax.tree.map(lambda leaf, start=start: leaf[start : start + size], padded)
        for start in range(0, total, size)
    ]


@jax.jit
def _count(output: Reconstruction, batch: Batch, counts_row: Bool[Array, " batch"]) -> Counts:
    counts_token = batch.target_mask & counts_row[:, None]
    right = output.tokens == batch.target
    exact = jnp.all(right | ~batch.target_mask, axis=1) & counts_row
    aligned = None
    if output.weights is not None:
        looked_at = jnp.argmax(_with_mean(output.weights), axis=-1)
        on_gold = (looked_at == batch.alignment[:, None]) & counts_token[:, None]
        aligned = jnp.sum(on_gold, axis=(0, 2))
    return Counts(
        sequences=jnp.sum(counts_row),
        exact=jnp.sum(exact),
        tokens=jnp.sum(counts_token),
        right=jnp.sum(right & counts_token),
        aligned=aligned,
    )


def _with_mean(
    weights: Float[Array, "batch heads time time"],
) -> Float[Array, "batch one_plus_heads time time"]:
    return jnp.concatenate([jnp.mean(weights, axis=1, keepdims=True), weights], axis=1)
