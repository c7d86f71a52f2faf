"""What a task is: where batches come from, and all that the rest of the lab asks of it.

A task is a class, and a pytree: an argument of the training step. What a config can set about it
are its settings, from which `build` makes it; by default these are the static fields of its
dataclass. So a task of random symbols is a dozen lines, and nothing else in the lab knows it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from attention.lab.fields import Section, section_with, static_fields_of
from attention.lab.tasks.batch import END, PAD, RESERVED, Batch

Counts = dict[str, Int[Array, ""]]
Pixels = np.ndarray  # height × width × 3, UInt8


class TaskSettings(Section):
    """What a config says of a task.

    Attributes:
      name: a key of `TASKS`, or the dotted path of a user's own, `my_lab.tasks:MyTask`.
    """

    name: str
    if TYPE_CHECKING:

        @property
        def max_length(self) -> int:
            """The greatest length that is trained on: a field or a property of every task's."""


class Task(ABC):
    """Where batches come from.

    Attributes:
      any_length: whether sequences longer than all that are trained on can be drawn.
      encoder: name of the encoder for its sources, a key of `ENCODERS`.
      metrics: names of the metrics that only this task has, and their headings in tables.
      typed: what of it a person can type, such as `lines`; empty if its sources cannot be typed.
      pictured: the number of examples in a picture of what a model attends to.
    """

    any_length: ClassVar[bool] = False
    encoder: ClassVar[str] = "tokens"
    metrics: ClassVar[Mapping[str, str]] = {}
    typed: ClassVar[str] = ""
    pictured: ClassVar[int] = 3

    # How it is made.

    @classmethod
    def settings(cls) -> type[TaskSettings]:
        """The fields that a config has for it, with their types, ranges and defaults."""
        section: Any = section_with(TaskSettings, static_fields_of(cls))
        if "max_length" not in section.model_fields:
            section.max_length = property(lambda chosen: cls.build(chosen, None).max_length)
        return section

    @classmethod
    def source(cls, settings: Any) -> bytes | None:
        """The data that it reads, which travel with a run; None if it reads none.

        Raises:
          ValueError: they cannot be had; the message begins with the field that is to blame,
            `path='x': …`.
        """
        del settings
        return None

    @classmethod
    def build(cls, settings: Any, source: bytes | None) -> "Task":
        """The task of these settings and data.

        Raises:
          ValueError: they do not fit each other; the message begins with the field, as above.
        """
        del source
        return cls(**settings.model_dump(exclude={"name"}))

    # What it yields. No abstract properties, which would be in the way of a dataclass's fields.

    if TYPE_CHECKING:

        @property
        def max_length(self) -> int:
            """The greatest length that is trained on."""

        @property
        def vocabulary(self) -> int:
            """The number of tokens, the reserved ones among them."""

        @property
        def source_time(self) -> int:
            """The steps of every source, `END` and padding included."""

        @property
        def target_time(self) -> int:
            """The steps of every target, `END` and padding included."""

    @property
    def source_features(self) -> int:
        """What its encoder embeds: the number of tokens, or the size of a source's vectors."""
        return self.vocabulary

    @abstractmethod
    def sample(self, key: Key[Array, ""], size: int) -> Batch:
        """A training batch of `size` examples."""

    @abstractmethod
    def held_out(
        self, split: str, key: Key[Array, ""], size: int, length: int | None = None
    ) -> Batch:
        """At most `size` examples of a split, `validation` or `test`.

        Args:
          split: which.
          key: decides what is drawn, where the split is not a fixed one.
          size: the most examples.
          length: of each of them; None for mixed lengths.
        """

    # What it can show.

    def summary(self) -> str | None:
        """What to tell of its data before training starts."""
        return None

    def encode(self, typed: str) -> Batch:
        """What a person typed, as a batch of one whose target may be unknown.

        Raises:
          ValueError: it does not fit.
        """
        raise NotImplementedError(f"the sources of {type(self).__name__} cannot be typed")

    def decode(self, tokens: Int[np.ndarray, " time"]) -> str:
        """A source or a target as people write it, up to its `END`."""
        ends = np.flatnonzero(tokens == END)
        tokens = tokens[: ends[0]] if ends.size else tokens
        return " ".join(self.symbol(int(token)) for token in tokens)

    def symbol(self, token: int) -> str:
        """A token as people would name it."""
        return {PAD: "PAD", END: "END"}.get(token) or str(token - RESERVED)

    def picture(
        self, batch: Batch, weights: Float[np.ndarray, "examples heads queries keys"]
    ) -> Pixels:
        """What a model attends to in some examples.

        Args:
          batch: the examples.
          weights: the weights of each head.
        """
        from attention.lab.analysis.figures import attention_maps

        return attention_maps(
            weights,
            *map(np.asarray, (batch.alignment, batch.target_length, batch.source_length)),
        )

    @classmethod
    def count(
        cls, tokens: Int[Array, "batch time"], batch: Batch, counts_row: Bool[Array, " batch"]
    ) -> Counts:
        """What its own metrics count, summed over the examples that `counts_row` is `True` for.

        Args:
          tokens: what the model made of each source, up to `END`.
          batch: the examples.
          counts_row: which of them count.
        """
        del tokens, batch, counts_row
        return {}

    @classmethod
    def ratios(cls, counts: Mapping[str, Any]) -> dict[str, float | None]:
        """Its own metrics, made of the sums; null where there is nothing to count."""
        del counts
        return {}
