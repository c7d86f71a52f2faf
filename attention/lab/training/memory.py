"""The memory that an experiment takes at the least, counted from shapes before anything is made.

What is certain is refused where the devices have less: the state and its copies, the batch, the
held-out sequences, and the largest array that a pass over a batch must have as a whole. What a
gradient keeps of a batch is an estimate, since the compiler may compute some of it again; so that
is refused only where it is far more than there is.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr
from jaxtyping import PyTree

from attention.algorithms.request import keeps_pairs
from attention.attend import ALGORITHMS, SCOPE
from attention.lab.choices import NO_ATTENTION, score_options
from attention.lab.errors import UsageError
from attention.lab.parallel.capacity import memory_of
from attention.lab.parallel.replicas import takes_turns
from attention.lab.settings import Settings, decoder_of
from attention.lab.tasks.batch import Batch
from attention.lab.training.arrays import bytes_of, largest_array, scopes
from attention.lab.training.build import Experiment
from attention.lab.training.state import abstract_state
from attention.lab.training.update import cross_entropy

# What a gradient keeps of a batch was 3 to 50 times the largest array, in the configs of this
# project: so where that is a smaller part of the memory than one in this, there is no need to look.
SURELY_LARGER_THAN_KEPT = 128
# The estimate of what a gradient keeps was 0.5 to 1.3 times of what XLA took.
FAR_MORE = 2

Parts = dict[str, int]  # bytes, by what they are for


def check_memory(experiment: Experiment) -> None:
    """Refuses an experiment whose training or evaluation takes more memory than there is.

    Raises:
      UsageError: naming the size that is largest beside its default, and the bytes.
    """
    memory = _Memory(experiment)
    memory.check("training", memory.of_training())
    memory.check("training", memory.kept_of_batch(), times=FAR_MORE)
    check_evaluation_memory(experiment, experiment.settings.eval.lengths)


def check_evaluation_memory(
    experiment: Experiment, lengths: Sequence[int], asked_by: str = "config.eval.lengths"
) -> None:
    """Refuses an evaluation that takes more memory than there is.

    Args:
      experiment: what is evaluated.
      lengths: the lengths to evaluate beside the mixture.
      asked_by: the flag or field that lists the lengths, for the error message.

    Raises:
      UsageError: as of `check_memory`.
    """
    memory = _Memory(experiment, lengths, asked_by)
    longest = max(lengths, default=0)
    # Up to the greatest length of training, all sequences are padded to that.
    for length in (None, longest) if longest > experiment.task.max_length else (None,):
        memory.check("evaluation", memory.of_evaluation(length))


def sizes_of(experiment: Experiment) -> str:
    """How many parameters an experiment has, and what it takes of the memory, in a line."""
    memory, settings = _Memory(experiment), experiment.settings
    each = f" in each of {settings.num_replicas} replicas" if settings.num_replicas > 1 else ""
    least = in_words(sum(memory.of_training().values()))
    capacity = "" if memory.capacity is None else f" of {in_words(memory.capacity)}"
    parts = [
        f"{experiment.num_parameters:,} parameters{each}",
        f"at least {least}{capacity} of memory",
    ]
    if settings.score.name != NO_ATTENTION:
        parts.append(_scores(experiment))
    kept = sum(memory.kept_of_batch().values())
    if memory.capacity is not None and 2 * kept > memory.capacity:
        parts.append(f"a gradient keeps about {in_words(kept)} of a batch")
    return "; ".join(parts)


def in_words(size: int) -> str:
    """Bytes as people write them: three digits and a unit."""
    number, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"):
        if number < 999.5:
            break
        number, unit = number / 1000, larger
    return f"{number:.3g} {unit}"


def _scores(experiment: Experiment) -> str:
    """How large all scores of a training batch are, and whether they are kept for the gradient."""
    settings, task = experiment.settings, experiment.task
    shape = (
        settings.train.batch_size,
        settings.model.heads,
        decoder_of(settings).num_queries(task.target_time),
        task.source_time,
    )
    size = in_words(int(np.prod(shape, dtype=object)) * np.dtype(np.float32).itemsize)
    used = {name.removeprefix(SCOPE) for name in scopes(experiment.forward) if SCOPE in name}
    kept = any(keeps_pairs(ALGORITHMS[name]) for name in used & ALGORITHMS.keys()) or not used
    how = "kept for the gradient" if kept else "not kept whole"
    # Without blanks, at which a line could be broken.
    return f"scores of a batch {'×'.join(map(str, shape))}, about {size}, {how}"


class _Memory:
    """What an experiment takes of a device, or of all devices that share a machine's memory.

    Args:
      experiment: what is trained or evaluated.
      lengths: those that are evaluated beside the mixture.
      asked_by: the flag or field that lists them.

    Attributes:
      capacity: what there is, in bytes; None where nobody says.
    """

    def __init__(
        self,
        experiment: Experiment,
        lengths: Sequence[int] = (),
        asked_by: str = "config.eval.lengths",
    ):
        self._experiment, self._settings = experiment, experiment.settings
        self._lengths, self._asked_by = lengths, asked_by
        mesh, here = experiment.mesh, jax.process_index()
        devices = [device for device in mesh.devices.flat if device.process_index == here]
        self._device = devices[0]
        self._sharing = len(devices) if self._device.platform == "cpu" else 1
        self._at_once = 1 if takes_turns() else self._settings.num_replicas // mesh.shape["seed"]
        known = [memory for memory in map(memory_of, devices) if memory is not None]
        self.capacity = min(known, default=None)

    def check(self, what: str, parts: Parts, times: int = 1) -> None:
        """Refuses parts that are together more than `times` the memory there is."""
        total = sum(parts.values())
        if self.capacity is None or total <= times * self.capacity:
            return
        listed = ", ".join(f"{name} {in_words(size)}" for name, size in parts.items())
        least = "at least" if times == 1 else "about"
        raise UsageError(
            f"{self._most_unusual()}: {what} takes {least} {in_words(total)} of memory ({listed}),"
            f" and {self._device.device_kind} has {in_words(self.capacity)}"
        )

    def of_training(self) -> Parts:
        """What an update takes at the least."""
        shapes = self._experiment.shapes
        gradient = bytes_of(shapes) // (self._sharers if self._is_split else 1)
        batch = jax.eval_shape(lambda key: vars(self._draw(key)), _key())
        state = self._state()
        return state | {
            "the copy that is saved": sum(state.values()),
            "gradient": self._each(gradient),
            "batch": self._each(bytes_of(batch) // self._sharers),
            "its largest array": self._largest(self._experiment.forward),
        }

    def kept_of_batch(self) -> Parts:
        """What a gradient keeps of a batch, if that may come near the memory there is."""
        likely = self._largest(self._experiment.forward) * SURELY_LARGER_THAN_KEPT
        if self.capacity is None or likely < self.capacity:
            return {}

        def kept(parameters: PyTree, key: PyTree) -> PyTree:
            batch = self._draw(key)

            def loss(parameters: PyTree) -> PyTree:
                return cross_entropy(self._experiment.model(parameters).logits(batch), batch)

            return jax.vjp(loss, parameters)[1]

        size = bytes_of(jax.eval_shape(kept, self._experiment.shapes, _key()))
        return {"what a gradient keeps of a batch": self._each(size // self._sharers)}

    def of_evaluation(self, length: int | None) -> Parts:
        """What an evaluation takes at the least, at a length or, if that is None, at mixed ones."""
        task, settings = self._experiment.task, self._settings.eval

        def draw(key: PyTree) -> dict[str, PyTree]:
            return vars(task.held_out("test", key, settings.sequences, length))

        program, fields = jax.make_jaxpr(draw, return_shape=True)(_key())
        rows = max(fields["source"].shape[0], 1)
        total = -(-settings.sequences // settings.batch_size) * settings.batch_size
        drawn = max(bytes_of(fields) * total // rows, largest_array(program))

        def reconstruct(parameters: PyTree, fields: dict[str, PyTree]) -> PyTree:
            model, batch = self._experiment.model(parameters), Batch(**fields)
            time = batch.target.shape[1]
            return model.reconstruct(batch.source, batch.source_length, time, batch.question)

        rows_of_batch = jax.tree.map(lambda leaf: _with_rows(leaf, settings.batch_size), fields)
        output = jax.make_jaxpr(reconstruct)(self._experiment.shapes, rows_of_batch)
        return self._state() | {
            "held-out sequences": drawn * self._settings.num_replicas,
            "the largest array of a batch": self._largest(output),
        }

    @property
    def _is_split(self) -> bool:
        return self._settings.train.shard_parameters

    @property
    def _sharers(self) -> int:
        return self._experiment.mesh.shape["data"]

    def _draw(self, key: PyTree) -> Batch:
        return self._experiment.task.sample(key, self._settings.train.batch_size)

    def _each(self, size: int) -> int:
        """What all replicas that are computed at once take, if each takes so much."""
        return size * self._at_once * self._sharing

    def _largest(self, program: ClosedJaxpr) -> int:
        return self._each(largest_array(program) // self._sharers)

    def _state(self) -> Parts:
        state = abstract_state(self._experiment)
        return {
            "parameters": self._kept(state.parameters),
            "optimizer": self._kept(state.optimizer),
        }

    def _kept(self, arrays: PyTree) -> int:
        """The bytes of arrays of all replicas, on the devices that count here."""
        shares = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.sharding.shard_shape(leaf.shape), leaf.dtype),
            arrays,
        )
        return bytes_of(shares) * self._sharing

    def _most_unusual(self) -> str:
        """The size that is largest beside its default: that which most likely is a mistake."""
        sizes = list(_sizes(self._settings))
        if self._lengths:
            longest = max(self._lengths)
            sizes.append((self._asked_by, longest, self._settings.task.max_length))
        field, value, _ = max(sizes, key=lambda size: size[1] / size[2])
        return f"{field}={value}"


def _sizes(settings: Settings) -> Iterator[tuple[str, int, int]]:
    """The fields that memory depends on, their values and their defaults."""
    yield "config.num_seeds", settings.num_replicas, 1
    fields: dict[str, tuple[Any, Any]] = {}
    for name in ("task", "model", "train", "eval"):
        section = getattr(settings, name)
        fields |= {
            f"{name}.{field}": (getattr(section, field), info.default)
            for field, info in type(section).model_fields.items()
        }
    choices = score_options(settings.score.name)
    for option, value in settings.score.options.items():
        fields[f"score.options.{option}"] = value, choices[option].default
    for field, (value, default) in fields.items():
        section, _, name = field.partition(".")
        counts = section != "train" or name == "batch_size"
        if counts and type(value) is int and type(default) is int and default > 0:
            yield f"config.{field}", value, default


def _with_rows(leaf: PyTree, rows: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype)


def _key() -> PyTree:
    """The shape of a random key."""
    return jax.eval_shape(lambda: jax.random.key(0))
