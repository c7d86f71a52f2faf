"""Streams: one seed gives several sources of randomness that are independent of each other."""

from enum import IntEnum

import jax
import numpy as np
from jaxtyping import Array, Integer, Key


class Stream(IntEnum):
    """What randomness is used for. The numbers are part of every result: do not change them."""

    PARAMETERS = 0
    TRAIN = 1
    DROPOUT = 2
    VALIDATION = 3
    TEST = 4


def stream_key(seed: int | np.integer | Integer[Array, ""], stream: Stream) -> Key[Array, ""]:
    """The key of a stream. For a single draw, fold in what tells it apart: a step or a length."""
    return jax.random.fold_in(jax.random.key(seed), int(stream))
