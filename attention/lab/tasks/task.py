"""What a task is: where batches come from, and all that the rest of the lab asks of it.

A task is a class, whose instances are pytrees: arguments of the compiled training program. What a
config can set about a task are its `settings`, from which `build` makes the task; unless the class
says otherwise, the settings are the static fields of its dataclass. So a task of random symbols
takes a dozen lines, and no other code needs to know its name.
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
      name: a key of `TASKS`, or the dotted path of a user's task, `my_lab.tasks:MyTask`.
    """

    name: str
    if TYPE_CHECKING:

        @property
        def max_length(self) -> int:
            """The greatest length that is trained on: a field or a property of all such classes."""


class Task(ABC):
    """Where batches come from.

    Attributes:
      any_length: whether sequences can be drawn that are longer than those of training.
      encoder: name of the encoder that suits the task's sources, a key of `ENCODERS`.
      metrics: names of the metrics that only this task has, and their headings in tables.
      classifier: whether every target is a single token, the class of its source. People then read
        one accuracy, where token accuracy and exact match would be the same number.
      typed: what kind of source a person can type, such as `lines`; empty if sources cannot be
        typed.
      pictured: the number of examples in a picture of what a model attends to.
    """

    any_length: ClassVar[bool] = False
    encoder: ClassVar[str] = "tokens"
    metrics: ClassVar[Mapping[str, str]] = {}
    classifier: ClassVar[bool] = False
    typed: ClassVar[str] = ""
    pictured: ClassVar[int] = 3

    # How a task is made.

    @classmethod
    def settings(cls) -> type[TaskSettings]:
        """The class of the task's settings: fields of a config with type, range and default."""
        fields = static_fields_of(cls)
        if "name" in fields:
            raise TypeError(f"{cls.__name__}.name: a config names the task by it; rename the field")
        section: Any = section_with(TaskSettings, fields)
        if "max_length" not in section.model_fields:
            section.max_length = property(lambda chosen: cls.build(chosen, None).max_length)
        return section

    @classmethod
    def source(cls, settings: Any) -> bytes | None:
        """The data that the task reads, of which every run keeps a copy; None if it reads none.

        Args:
          settings: an instance of the class that `settings()` returns.

        Raises:
          ValueError: the data cannot be had; the message begins with the field that is to
            blame, `path='x': …`.
        """
        del settings
        return None

    @classmethod
    def build(cls, settings: Any, source: bytes | None) -> "Task":
        """The task that has these settings and data.

        Args:
          settings: an instance of the class that `settings()` returns.
          source: the data, as `source()` returned them.

        Raises:
          ValueError: settings and data do not fit each other; the message begins with the field
            that is to blame, `path='x': …`.
        """
        del source
        return cls(**settings.model_dump(exclude={"name"}))

    # What a task yields. Abstract properties would be in the way of a dataclass's fields, so these
    # are declared for the type checker alone.

    if TYPE_CHECKING:

        @property
        def max_length(self) -> int:
            """The greatest length that is trained on."""

        @property
        def vocabulary(self) -> int:
            """The number of tokens, reserved tokens among them."""

        @property
        def source_time(self) -> int:
            """The steps of every source, `END` and padding included."""

        @property
        def target_time(self) -> int:
            """The steps of every target, `END` and padding included."""

    @property
    def source_features(self) -> int:
        """The number of tokens that sources are made of, or the size of a source's vectors."""
        return self.vocabulary

    @abstractmethod
    def sample(self, key: Key[Array, ""], size: int) -> Batch:
        """A training batch of `size` examples, drawn at random with this key."""

    @abstractmethod
    def held_out(
        self, split: str, key: Key[Array, ""], size: int, length: int | None = None
    ) -> Batch:
        """At most `size` examples of a split, `validation` or `test`.

        Args:
          split: `validation` or `test`.
          key: source of randomness, for tasks whose splits are not fixed sets of examples.
          size: the greatest number of examples.
          length: the length of every example, in the unit of the task; None for mixed lengths.
        """

    @property
    def disjoint(self) -> bool:
        """Whether training can draw no held-out example, by the way the task is made.

        Where that cannot be told, as with examples drawn at random, what training drew is looked
        for among the held-out examples.
        """
        return False

    # What a task can show.

    def summary(self) -> str | None:
        """A line about the task's data, shown before training starts; None for no line."""
        return None

    def encode(self, typed: str) -> Batch:
        """What a person typed, as a batch of one example, whose target may be unknown.

        Raises:
          ValueError: what was typed is no source of this task, or is too long.
          NotImplementedError: sources of this task cannot be typed.
        """
        raise NotImplementedError(f"the sources of {type(self).__name__} cannot be typed")

    def decode(self, tokens: Int[np.ndarray, " time"]) -> str:
        """A source or a target as people would write it, up to its `END`."""
        ends = np.flatnonzero(tokens == END)
        tokens = tokens[: ends[0]] if ends.size else tokens
        return " ".join(self.symbol(int(token)) for token in tokens)

    def symbol(self, token: int) -> str:
        """A token as people would name it."""
        return {PAD: "PAD", END: "END"}.get(token) or str(token - RESERVED)

    def picture(
        self, batch: Batch, weights: Float[np.ndarray, "examples heads queries keys"]
    ) -> Pixels:
        """A picture of what a model attends to in some examples.

        Args:
          batch: the examples.
          weights: the attention weights of each head.
        """
        from attention.lab.analysis.figures import attention_maps  # takes Pillow, which takes time

        return attention_maps(
            weights,
            *map(np.asarray, (batch.alignment, batch.target_length, batch.source_length)),
        )

    @classmethod
    def count(
        cls, tokens: Int[Array, "batch time"], batch: Batch, counts_row: Bool[Array, " batch"]
    ) -> Counts:
        """Counts for the metrics that only this task has, summed over examples.

        Args:
          tokens: what the model made of each source, up to `END`.
          batch: the examples.
          counts_row: which examples count.
        """
        del tokens, batch, counts_row
        return {}

    @classmethod
    def ratios(cls, counts: Mapping[str, Any]) -> dict[str, float | None]:
        """The metrics that only this task has; None where there is nothing to count.

        Args:
          counts: sums of what `count` returned, and the number of `sequences`.
        """
        del counts
        return {}


class ClosedTask(Task):
    """A task whose sources and targets have up to `max_length` symbols, and then `END`."""

    @property
    def source_time(self) -> int:
        """Steps of every source: symbols and `END`."""
        return self.max_length + 1

    @property
    def target_time(self) -> int:
        """Steps of every target: symbols and `END`."""
        return self.max_length + 1
