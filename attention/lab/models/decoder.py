"""What a decoder is, and all that the rest of the lab asks of it.

A decoder is made by `Decoder(score, vocabulary, time, dim, *, rngs, **options)`. What a config can
set about it are its keyword arguments that have a default, beside those of the score; its limits
are class attributes. So a decoder is one class, and nothing else in the lab knows it by name.
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

    Each has two ways to run: `logits` is for training and may see the target (teacher forcing);
    `greedy` is for evaluation and may not.

    Attributes:
      defaults: of other settings of the model, in a config that is made for this decoder.
      needs_attention: whether it cannot do without a score.
      answers_questions: whether both ways to run take `question`, what each target step asks with.
      turns_positions: whether it can turn queries and keys by their positions, which
        `positions=rotary` asks for.
    """

    defaults: ClassVar[Mapping[str, Any]] = {}
    needs_attention: ClassVar[bool] = True
    answers_questions: ClassVar[bool] = False
    turns_positions: ClassVar[bool] = False

    @classmethod
    def any_length(cls, options: Mapping[str, Any]) -> bool:
        """Whether no parameter belongs to a position, with these settings of the model."""
        del options
        return True

    @abstractmethod
    def logits(self, memory: Memory, length: Lengths, target: Tokens) -> Logits:
        """Scores of every next token.

        Args:
          memory: the encoded source.
          length: how many vectors of the memory count.
          target: the right tokens, of which each step may see those before it.
        """

    @abstractmethod
    def greedy(self, memory: Memory, length: Lengths, time: int) -> tuple[Tokens, Weights | None]:
        """The likeliest tokens of `time` steps, and the weights they came with, if any.

        Args:
          memory: the encoded source.
          length: how many vectors of the memory count.
          time: the number of steps.
        """
