"""What a decoder is, and all that the rest of the lab asks of it.

A decoder is made by `Decoder(score, vocabulary, time, dim, *, rngs, **options)`. A setting that
every model has, such as `heads`, has the name and meaning that it has there. Keyword arguments
that have a default become fields of a config, beside the options of the score. What a decoder can
do is said by class attributes. So a new decoder is a single class, and no other code needs to know
its name.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from flax import nnx
from jaxtyping import Array, Float, Int

Memory = Float[Array, "batch source_time dim"]
Lengths = Int[Array, " batch"]
Tokens = Int[Array, "batch time"]
Questions = Float[Array, "batch time dim"]
Logits = Float[Array, "batch time vocabulary"]
Weights = Float[Array, "batch heads time source_time"]


class Decoder(nnx.Module):
    """From the memory to the target, through attention.

    Every decoder can run in two ways: `logits` is for training and may see the target (teacher
    forcing); `greedy` is for evaluation and may not see it.

    Attributes:
      defaults: values of other settings of the model that suit this decoder; a config that is
        made for this decoder starts from them.
      needs_attention: whether the decoder cannot do without a score.
      answers_questions: whether `logits` and `greedy` take a further argument `question`, a
        vector for each target step that says what the step asks for.
      turns_positions: whether the decoder can turn queries and keys by their positions, for
        encoders that leave positions to it.
    """

    defaults: ClassVar[Mapping[str, Any]] = {}
    needs_attention: ClassVar[bool] = True
    answers_questions: ClassVar[bool] = False
    turns_positions: ClassVar[bool] = False

    @classmethod
    def any_length(cls, options: Mapping[str, Any]) -> bool:
        """Whether the decoder can produce targets of any length.

        It can if none of its parameters belongs to a position.

        Args:
          options: the settings of the model.
        """
        del options
        return True

    @classmethod
    def num_queries(cls, time: int) -> int:
        """How many queries are asked for a target of `time` steps: one a step, for most."""
        return time

    @abstractmethod
    def logits(self, memory: Memory, length: Lengths, target: Tokens) -> Logits:
        """Scores of every token at every target step.

        Args:
          memory: the encoded source.
          length: how many vectors of the memory count.
          target: the right tokens; a step may see the tokens before it, no others.
        """

    @abstractmethod
    def greedy(self, memory: Memory, length: Lengths, time: int) -> tuple[Tokens, Weights | None]:
        """The likeliest tokens of `time` steps, and the attention weights of each step, if any.

        Args:
          memory: the encoded source.
          length: how many vectors of the memory count.
          time: the number of steps.
        """
