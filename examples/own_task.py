"""A task of one's own, in twenty lines: the source, rotated by so many places.

    python examples/own_task.py

The lab trains on it by its path, from the root of the repository:

    python train.py --config configs/copy.py --config.task.name=examples.own_task:Rotate \
        --config.task.places=3 --workdir runs/rotate
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from attention.lab.tasks.batch import rearrangement
from attention.lab.tasks.symbols import RandomSymbols
from attention.pytrees import register_dataclass, static


@register_dataclass
@dataclass(frozen=True)
class Rotate(RandomSymbols):
    """The target is the source, so many places on."""

    places: int = static(default=1)

    def _batch(self, symbols, length):
        order = (jnp.arange(self.max_length)[None, :] + self.places) % length[:, None]
        return rearrangement(symbols, length, order, length)


def main() -> None:
    """Shows two training examples."""
    task = Rotate(symbols=9, max_length=6, places=2)
    batch = task.sample(jax.random.key(0), 2)
    for row in range(2):
        source, target = (
            task.decode(np.asarray(side[row])) for side in (batch.source, batch.target)
        )
        print(f"source {source:12} target {target:12} from {batch.alignment[row]}")


if __name__ == "__main__":
    main()
