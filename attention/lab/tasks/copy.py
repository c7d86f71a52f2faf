"""Copy: reproduce a random sequence.

With three symbols a, b, c and `max_length` 4, one example is

    source     b a c END PAD
    target     b a c END PAD
    alignment  0 1 2  3   −1
"""

from dataclasses import dataclass

from jaxtyping import Array, Int

from attention.lab.tasks.batch import Batch, reconstruction
from attention.lab.tasks.symbols import RandomSymbols
from attention.pytrees import register_dataclass


@register_dataclass
@dataclass(frozen=True)
class Copy(RandomSymbols):
    """The target is the source, symbol by symbol."""

    any_length = True

    def _batch(self, symbols: Int[Array, "size time"], length: Int[Array, " size"]) -> Batch:
        return reconstruction(symbols, length)
