"""Replicas: runs that differ in nothing that has a shape, trained by one program.

Every array of a replica has a leading replica axis, also where there is one replica. What is
computed is written for one replica, without the axis, and lifted by `over_replicas`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from attention.pytrees import register_dataclass
from attention.training.settings import Settings


@register_dataclass
@dataclass(frozen=True)
class Replica:
    """What sets a replica apart from the others.

    Attributes:
      seed: of all its randomness, an unsigned integer.
    """

    seed: PyTree


def replicas(settings: Settings) -> Replica:
    """All replicas of an experiment: the first has its seed, each other the next one."""
    return Replica(np.asarray(seeds(settings), np.uint32))


def seeds(settings: Settings) -> range:
    """The seed of each replica."""
    return range(settings.seed, settings.seed + settings.num_seeds)


def sharding(count: int) -> NamedSharding:
    """Where arrays of so many replicas lie: in equal shares on as many devices as allow it."""
    devices = jax.devices()
    return NamedSharding(Mesh(devices[: math.gcd(count, len(devices))], "seed"), P("seed"))


def over_replicas(function: Callable, own: int = 1, unless: Callable | None = None) -> Callable:
    """Lifts a function of one replica to all of them.

    One replica keeps the cores of a CPU busy, and `vmap` would only make its arrays too large
    for the caches: there replicas take turns. Elsewhere `vmap` fills the device.

    Args:
      function: of the arrays of one replica, which may differ, then of what all share.
      own: number of arguments that have a replica axis.
      unless: of the same arguments: whether a replica is to be left out, and what to return
        for it then.

    Returns:
      The function of arrays with a replica axis, for use inside `jax.jit`; all that it
      returns has the axis.
    """

    def share(*arguments: Any) -> Any:
        """What one device does."""
        mine, shared = arguments[:own], arguments[own:]
        is_lone = _count(mine) == 1
        in_turn = is_lone or takes_turns()

        def one(mine: tuple) -> Any:
            def run() -> Any:
                return function(*mine, *shared)

            if unless is None:
                return run()
            left_out, instead = unless(*mine, *shared)
            if in_turn:
                return jax.lax.cond(left_out, lambda: instead, run)
            # What vmap makes of a cond copies what is shared to every replica, and gives each a
            # number of turns of its own in every loop: then every turn selects every array.
            return jax.tree.map(lambda a, b: jnp.where(left_out, a, b), instead, run())

        if is_lone:  # a loop of one turn, or an axis of one, compiles to slower programs
            lone = one(jax.tree.map(lambda leaf: leaf[0], mine))
            return jax.tree.map(lambda leaf: leaf[None], lone)
        return jax.lax.map(one, mine) if in_turn else jax.vmap(one)(mine)

    def lifted(*arguments: Any) -> Any:
        place = sharding(_count(arguments[:own]))
        specs = tuple(P("seed") if number < own else P() for number in range(len(arguments)))
        # Unchecked: the check would have every constant in a loop marked as differing by device.
        return jax.shard_map(
            share, mesh=place.mesh, in_specs=specs, out_specs=P("seed"), check_vma=False
        )(*arguments)

    return lifted


def takes_turns() -> bool:
    """Whether the replicas on a device are computed one after another."""
    return jax.devices()[0].platform == "cpu"


def _count(tree: PyTree) -> int:
    return jax.tree.leaves(tree)[0].shape[0]
