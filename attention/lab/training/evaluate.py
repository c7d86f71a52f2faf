"""Evaluation on held-out sequences: what the model produces unaided, and where it looks."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Integer

from attention.lab.analysis import metrics
from attention.lab.analysis.mean_sd import means, sds
from attention.lab.models.reconstructor import Reconstruction
from attention.lab.parallel import hosts
from attention.lab.parallel.devices import split_rows
from attention.lab.parallel.replicas import all_replicas, over_replicas, seeds
from attention.lab.tasks.batch import Batch
from attention.lab.tasks.task import Pixels
from attention.lab.training.build import Experiment, Parameters
from attention.lab.training.state import Status, TrainState, replicas_with
from attention.lab.training.streams import Stream, stream_key

SPLITS = {"validation": Stream.VALIDATION, "test": Stream.TEST}

Report = dict[str, Any]
Examples = dict[str, Array]  # the fields of a Batch, whose shapes allow no axis of replicas


class Evaluator:
    """Runs a model on held-out sequences.

    Args:
      experiment: the experiment whose model is evaluated, on sequences of its task.

    Attributes:
      reconstruct: a compiled function of parameters (of one replica) and a batch, which returns
        the model's output, a `Reconstruction`.
    """

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self._settings = experiment.settings.eval

        self.reconstruct = jax.jit(self._reconstruct)
        self._counts = jax.jit(over_replicas(self._count_all, experiment.mesh, of_replica=3))

    def _reconstruct(self, parameters: Parameters, batch: Batch) -> Reconstruction:
        model = self._experiment.model(parameters)
        time = batch.target.shape[1]
        return model.reconstruct(batch.source, batch.source_length, time, batch.question)

    def report(self, state: TrainState, split: str, lengths: Sequence[int] = ()) -> Report:
        """The metrics of a split.

        Args:
          state: the state of all replicas.
          split: `validation` or `test`.
          lengths: lengths to evaluate beside the mixture, in the unit of the task.

        Returns:
          A dictionary. Under `replicas` it lists, for every replica, the `seed`, the `step`,
          whether the replica `failed`, the metrics on sequences of mixed lengths (`all`), and
          for every one of `lengths` the metrics on sequences of exactly that length
          (`by_length`). Beside `replicas` stand another `all` and `by_length`: the means over
          the replicas that did not fail. Where there are several replicas, `sd` holds their
          standard deviations.
        """
        mixed = self._metrics(state, split, None)
        of_length = {str(n): self._metrics(state, split, n) for n in lengths}
        steps, failed = hosts.fetch(state.step), replicas_with(state, Status.FAILED)
        replicas = [
            {
                "seed": seed,
                "step": int(steps[number]),
                "failed": bool(failed[number]),
                "all": mixed[number],
                "by_length": {n: at_length[number] for n, at_length in of_length.items()},
            }
            for number, seed in enumerate(seeds(self._experiment.settings))
        ]
        measured = [{name: replica[name] for name in ("all", "by_length")} for replica in replicas]
        deviations = {"sd": sds(measured)} if len(replicas) > 1 else {}
        return {**means(measured), **deviations, "replicas": replicas}

    def picture(self, state: TrainState, examples: int | None = None) -> Pixels | None:
        """Where the first replica that did not fail looks in its first validation examples.

        Args:
          state: the state of all replicas.
          examples: how many examples to show; None for as many as suit the task.

        Returns:
          The picture; None for a model that has one context for all target steps.
        """
        first = int(np.argmin(replicas_with(state, Status.FAILED)))
        task = self._experiment.task
        padded, rows = self._examples("validation", None)
        shown = min(examples or task.pictured, rows)
        batch = Batch(**jax.tree.map(lambda leaf: leaf[first, :shown], padded))
        weights = self.reconstruct(parameters_of(state, first), batch).weights
        return None if weights is None else task.picture(batch, np.asarray(weights))

    def _metrics(self, state: TrainState, split: str, length: int | None) -> list[dict[str, Any]]:
        """The metrics of each replica; a failed replica is evaluated on no sequences."""
        examples, rows = self._examples(split, length)
        evaluated = np.where(replicas_with(state, Status.FAILED), 0, rows)
        counts = hosts.fetch(self._counts(state.parameters, examples, evaluated))
        of_replica = [
            {name: np.asarray(count[number]) for name, count in counts.items()}
            for number in range(len(evaluated))
        ]
        return [metrics.ratios(sums) | self._experiment.task.ratios(sums) for sums in of_replica]

    def _examples(self, split: str, length: int | None) -> tuple[Examples, int]:
        """Held-out examples of each replica, padded to one shape for all lengths.

        Returns:
          The examples, with a leading axis of replicas, and how many examples of each replica
          count: the rows after them are padding.
        """
        most, size = self._settings.sequences, self._settings.batch_size

        def draw(seed: Integer[Array, ""]) -> Examples:
            key = stream_key(seed, SPLITS[split])
            return vars(self._experiment.task.held_out(split, key, most, length))

        examples = jax.vmap(draw)(all_replicas(self._experiment.settings).seed)
        rows = examples["source"].shape[1]
        total = -(-most // size) * size

        def pad(leaf: Array) -> Array:
            widths = [(0, 0), (0, total - rows)] + [(0, 0)] * (leaf.ndim - 2)
            return jnp.asarray(np.pad(leaf, widths))

        return jax.tree.map(pad, examples), rows

    def _count_all(
        self, parameters: Parameters, examples: Examples, rows: Int[Array, ""]
    ) -> metrics.Counts:
        """Counts of one replica, batch by batch: one program serves any number of rows."""
        size = self._settings.batch_size

        def count(batch_number: Array) -> metrics.Counts:
            first = batch_number * size
            fields = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, size), examples)
            batch = Batch(**split_rows(fields))
            counts_row = first + jnp.arange(size) < rows
            output = self._reconstruct(parameters, batch)
            counts = metrics.count(output, batch, counts_row)
            return counts | self._experiment.task.count(output.tokens, batch, counts_row)

        start = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(count, 0)
        )
        return jax.lax.fori_loop(
            0, -(-rows // size), lambda n, counts: jax.tree.map(jnp.add, counts, count(n)), start
        )


def parameters_of(state: TrainState, replica: int) -> Parameters:
    """The parameters of one replica, without the axis of replicas."""
    return jax.tree.map(lambda leaf: leaf[replica], state.parameters)
