"""Evaluation on held-out sequences: what the model produces unaided, and where it looks."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from attention.lab.analysis import metrics
from attention.lab.analysis.mean_sd import means, sds
from attention.lab.models.reconstructor import Reconstruction
from attention.lab.parallel import hosts
from attention.lab.parallel.devices import split_rows
from attention.lab.parallel.replicas import all_replicas, over_replicas, seeds
from attention.lab.tasks.batch import Batch
from attention.lab.tasks.task import Pixels
from attention.lab.training.build import Experiment, Parameters
from attention.lab.training.drawn import Draws, Watched, fingerprints, joined
from attention.lab.training.state import Status, TrainState, replicas_with
from attention.lab.training.streams import Stream, stream_key
from attention.lab.training.update import zeros

SPLITS = {"validation": Stream.VALIDATION, "test": Stream.TEST}

Report = dict[str, Any]
# The fields of a Batch, whose shapes allow no axis of replicas.
Examples = dict[str, np.ndarray | Array]


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
        self._seeds = all_replicas(experiment.settings).seed
        self._draws = Draws(experiment)
        self._watched: dict[tuple, list[Watched]] = {}
        self.reconstruct = jax.jit(self._reconstruct)
        self._look = jax.jit(over_replicas(self._look_at_all, experiment.mesh, of_replica=3))

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

          Of the sequences, those that training drew, too, are left out; `left_out` says how many.
          Where the settings have them counted, `trained_on` says how many they are.
        """
        drawn = self._drawn_in_training(state, split, lengths)
        mixed = self._metrics(state, split, None, drawn[None])
        of_length = {str(n): self._metrics(state, split, n, drawn[n]) for n in lengths}
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
        measured = [
            {name: replica[name] for name in ("all", "by_length")}
            for replica in replicas
            if not replica["failed"] or failed.all()
        ]
        deviations = {"sd": sds(measured)} if len(replicas) > 1 else {}
        return {**means(measured), **deviations, "replicas": replicas}

    def picture(self, state: TrainState, examples: int | None = None) -> Pixels | None:
        """Where the first replica that did not fail looks in its first validation examples.

        Args:
          state: the state of all replicas.
          examples: how many examples to show, at most as many as suit the task; None for these.

        Returns:
          The picture; None for a model that has one context for all target steps.
        """
        first = int(np.argmin(replicas_with(state, Status.FAILED)))
        drawn, rows = self._validation
        shown = min(examples or self._pictured, self._pictured, rows)
        # The program that counts tells the weights, too: for them there need be no other.
        only_first = np.zeros((len(self._seeds), self._total), bool)
        only_first[first, :shown] = True
        _, weights = self._look(state.parameters, drawn, only_first)
        if weights is None:
            return None
        batch = Batch(**jax.device_put(jax.tree.map(lambda leaf: leaf[first, :shown], drawn)))
        return self._experiment.task.picture(batch, hosts.fetch(weights)[first, :shown])

    def _metrics(
        self, state: TrainState, split: str, length: int | None, drawn: np.ndarray
    ) -> list[dict[str, Any]]:
        """The metrics of each replica; a failed replica is evaluated on no sequences."""
        is_validation = split == "validation" and length is None
        examples, rows = self._validation if is_validation else self._examples(split, length)
        failed = replicas_with(state, Status.FAILED)
        there = (np.arange(self._total) < rows) & ~failed[:, None]
        trained_on = there & drawn
        evaluated = there & ~trained_on if self._settings.leave_out_trained else there
        counts = hosts.fetch(self._look(state.parameters, examples, evaluated)[0])
        of_replica = [
            {name: np.asarray(count[number]) for name, count in counts.items()}
            for number in range(len(failed))
        ]
        return [
            metrics.ratios(sums)
            | self._experiment.task.ratios(sums)
            | {"trained_on": counted, "left_out": left_out}
            for sums, counted, left_out in zip(
                of_replica,
                np.sum(trained_on & evaluated, axis=1).tolist(),
                np.sum(trained_on & ~evaluated, axis=1).tolist(),
                strict=True,
            )
        ]

    def _drawn_in_training(
        self, state: TrainState, split: str, lengths: Sequence[int]
    ) -> dict[int | None, Bool[np.ndarray, "replicas rows"]]:
        """Which examples of each replica its training drew, by length; None stands for mixed."""
        steps, asked = hosts.fetch(state.step), (None, *lengths)
        if self._experiment.task.disjoint or not steps.any():
            return dict.fromkeys(asked, np.zeros((len(steps), self._total), bool))
        if (split, asked) not in self._watched:
            self._watched[split, asked] = self._watch(split, asked)
        return {
            length: np.stack(
                [
                    watched.are_drawn(length, step)
                    for watched, step in zip(
                        self._watched[split, asked], steps.tolist(), strict=True
                    )
                ]
            )
            for length in asked
        }

    def _watch(self, split: str, lengths: Sequence[int | None]) -> list[Watched]:
        """What watches the held-out examples of each replica; replicas of a seed have the same."""
        sets: dict[int, dict] = {int(seed): {} for seed in self._seeds}
        for length in lengths:
            examples, _ = self._examples(split, length)
            for number, seed in enumerate(self._seeds):
                of_seed = jax.tree.map(lambda leaf, n=number: leaf[n], examples)
                sets[int(seed)][length] = joined(fingerprints(of_seed))
        watched = {seed: Watched(self._draws, seed, asked) for seed, asked in sets.items()}
        return [watched[int(seed)] for seed in self._seeds]

    @cached_property
    def _validation(self) -> tuple[Examples, int]:
        """The validation examples of mixed lengths, which every evaluation in training asks for."""
        return self._examples("validation", None)

    def _examples(self, split: str, length: int | None) -> tuple[Examples, int]:
        """Held-out examples of each replica, padded to one shape for all lengths.

        Returns:
          The examples, with a leading axis of replicas, and how many examples of each replica
          count: the rows after them are padding.
        """
        most = self._settings.sequences

        # One by one, not by vmap, so that examples of any length are drawn by the same program.
        keys = [stream_key(seed, SPLITS[split]) for seed in self._seeds]
        drawn = [vars(self._experiment.task.held_out(split, key, most, length)) for key in keys]
        rows = drawn[0]["source"].shape[0]

        def padded(*leaves: Array) -> np.ndarray:
            stacked = np.stack(leaves)
            widths = [(0, 0), (0, self._total - rows)] + [(0, 0)] * (stacked.ndim - 2)
            return np.pad(stacked, widths)

        return jax.tree.map(padded, *drawn), rows

    @property
    def _total(self) -> int:
        """The rows of held-out examples, padding included: whole batches."""
        size = self._settings.batch_size
        return -(-self._settings.sequences // size) * size

    @property
    def _pictured(self) -> int:
        """The number of examples of which the weights are told: all come from the first batch."""
        return min(self._experiment.task.pictured, self._settings.batch_size)

    def _look_at_all(
        self, parameters: Parameters, examples: Examples, counted: Bool[Array, " rows"]
    ) -> tuple[metrics.Counts, Float[Array, "pictured heads time source_time"] | None]:
        """Counts of one replica, batch by batch, up to the last row that counts.

        Beside them stand the weights in the first examples; None where the model has none.
        """
        size = self._settings.batch_size
        rows = jnp.max(jnp.where(counted, jnp.arange(1, counted.shape[0] + 1), 0))

        def look(batch_number: Array) -> tuple[metrics.Counts, Array | None]:
            first = batch_number * size
            fields = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, size), examples)
            batch = Batch(**split_rows(fields))
            counts_row = jax.lax.dynamic_slice_in_dim(counted, first, size)
            output = self._reconstruct(parameters, batch)
            counts = metrics.count(output, batch, counts_row)
            counts |= self._experiment.task.count(output.tokens, batch, counts_row)
            return counts, None if output.weights is None else output.weights[: self._pictured]

        def add(number: Array, seen: PyTree) -> PyTree:
            (counts, weights), (before, first) = look(number), seen
            return (
                jax.tree.map(jnp.add, before, counts),
                jax.tree.map(lambda new, old: jnp.where(number == 0, new, old), weights, first),
            )

        return jax.lax.fori_loop(0, -(-rows // size), add, zeros(jax.eval_shape(look, 0)))


def parameters_of(state: TrainState, replica: int) -> Parameters:
    """The parameters of one replica, without the axis of replicas."""
    return jax.tree.map(lambda leaf: leaf[replica], state.parameters)
