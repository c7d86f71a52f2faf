"""Which held-out examples training has drawn, too.

Where examples are drawn at random, short ones come again: with 64 symbols, every sequence of one
symbol is soon trained on. What training draws depends on nothing but the seed and the step. So it
is drawn once more here and compared with the held-out examples, which takes a small part of the
time of training, and leaves training and its checkpoints as they are.

Examples are compared by what a model is given, source and question, through a fingerprint of 64
bits: of 4,096 held-out and ten million drawn examples, two that differ have the same one with a
probability of 2e-9.
"""

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt32, UInt64

from attention.lab.parallel.devices import fast_to_compile
from attention.lab.training.build import Experiment
from attention.lab.training.streams import Stream, stream_key

ROWS_AT_ONCE = 2**16  # of fingerprints, that come from the device in one piece
MOST_KEPT = 2**22  # fingerprints, for the next set of held-out examples: 32 MB
NEVER = np.iinfo(np.int64).max

SALTS = (0x6A09E667, 0xBB67AE85)  # one for each half of a fingerprint
GOLDEN = np.uint32(0x9E3779B9)


class Draws:
    """The draws of training, made again.

    Args:
      experiment: what is trained.
    """

    def __init__(self, experiment: Experiment):
        self._task = experiment.task
        self._batch_size = experiment.settings.train.batch_size
        self._steps_at_once = max(1, ROWS_AT_ONCE // self._batch_size)
        self._kept: dict[int, list[np.ndarray]] = {}  # by seed, from the first step on
        self._room = MOST_KEPT
        self._program = jax.jit(
            self._of_steps, compiler_options=fast_to_compile(experiment.devices)
        )

    def between(self, seed: int, start: int, until: int) -> Iterator[tuple[np.ndarray, int]]:
        """The fingerprints of the examples drawn in some steps, in pieces, and their first steps.

        Args:
          seed: of the replica.
          start: the first step, from 0.
          until: the step after the last.
        """
        kept, known = self._kept.setdefault(seed, []), 0
        for piece in list(kept):
            begin, known = known, known + len(piece)
            first, end = max(start, begin), min(until, known)
            if first < end:
                yield piece[first - begin : end - begin], first
        for first in range(max(start, known), until, self._steps_at_once):
            count = min(self._steps_at_once, until - first)
            halves = self._program(self._task, np.uint32(seed), np.int32(first), np.int32(count))
            piece = joined(halves)[:count]
            if first == known and piece.size <= self._room:
                kept.append(piece)
                known += count
                self._room -= piece.size
            yield piece, first

    def _of_steps(
        self, task: Any, seed: Array, first: Array, count: Array
    ) -> UInt32[Array, "steps batch 2"]:
        key = stream_key(seed, Stream.TRAIN)

        def draw(number: Array, drawn: Array) -> Array:
            batch = task.sample(jax.random.fold_in(key, first + number), self._batch_size)
            return drawn.at[number].set(fingerprints(vars(batch), jnp))

        shape = (self._steps_at_once, self._batch_size, 2)
        return jax.lax.fori_loop(0, count, draw, jnp.zeros(shape, jnp.uint32))


class Watched:
    """Held-out examples of a seed, and the steps in which training first drew them.

    Args:
      draws: the draws of training.
      seed: of the replica whose training it is.
      sets: the fingerprints of the examples of each set, by what tells the sets apart.
    """

    def __init__(self, draws: Draws, seed: int, sets: Mapping[Any, UInt64[np.ndarray, " rows"]]):
        self._draws, self._seed, self._sets = draws, seed, sets
        self._known = np.unique(np.concatenate(list(sets.values())))
        self._first = np.full(self._known.shape, NEVER)
        self._until = 0

    def are_drawn(self, of: Any, until: int) -> Bool[np.ndarray, " rows"]:
        """Which examples of a set the first `until` updates were made with."""
        self._draw_until(until)
        return self._first[np.searchsorted(self._known, self._sets[of])] < until

    def _draw_until(self, until: int) -> None:
        for drawn, first in self._draws.between(self._seed, self._until, until):
            places = np.searchsorted(self._known, drawn).clip(max=self._known.size - 1)
            found = self._known[places] == drawn
            step = np.broadcast_to(first + np.arange(len(drawn))[:, None], drawn.shape)
            np.minimum.at(self._first, places[found], step[found])
        self._until = max(self._until, until)


def fingerprints(
    batch: Mapping[str, Any], xp: ModuleType = np
) -> UInt32[Array | np.ndarray, "batch 2"]:
    """The two halves of a fingerprint of what a model is given of each example.

    Args:
      batch: the fields of a `Batch`. How far the examples are padded does not matter.
      xp: `numpy`, or `jax.numpy` for use inside a program.
    """
    parts = [(batch["source"], batch["source_length"])]
    if batch["question"] is not None:
        parts.append((batch["question"], batch["target_length"]))
    return xp.stack([_half(parts, np.uint32(salt), xp) for salt in SALTS], axis=1)


def joined(halves: UInt32[Array | np.ndarray, "*rows 2"]) -> UInt64[np.ndarray, "*rows"]:
    """Whole fingerprints."""
    halves = np.asarray(halves)
    return halves[..., 0].astype(np.uint64) << np.uint64(32) | halves[..., 1]


def _half(
    parts: list[tuple[Any, Any]], salt: np.uint32, xp: ModuleType
) -> UInt32[Array | np.ndarray, " batch"]:
    total = xp.zeros(parts[0][0].shape[0], np.uint32)
    for tokens, length in parts:
        rows, time = tokens.shape[:2]
        places = xp.arange(tokens[0].size, dtype=np.uint32) * GOLDEN
        mixed = _mix(_mix(_bits(tokens).reshape(rows, -1) ^ salt) + places)
        counts = xp.arange(time)[None, :] < length[:, None]
        by_step = xp.sum(mixed.reshape(rows, time, -1), axis=2, dtype=np.uint32)
        summed = xp.sum(xp.where(counts, by_step, np.uint32(0)), axis=1, dtype=np.uint32)
        total = _mix(total + _mix(summed + length.astype(np.uint32)))
    return total


def _bits(tokens: Any) -> Any:
    """Numbers as unsigned integers: tokens as they are, real numbers by their bits."""
    if np.issubdtype(tokens.dtype, np.integer):
        return tokens.astype(np.uint32)
    return (tokens.astype(np.float32) + np.float32(0)).view(np.uint32)  # 0.0 for −0.0


def _mix(bits: UInt32[Array | np.ndarray, "*shape"]) -> UInt32[Array | np.ndarray, "*shape"]:
    """Spreads every bit over all 32, and maps no two numbers to one (MurmurHash3's finalizer)."""
    bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return bits ^ (bits >> np.uint32(16))
