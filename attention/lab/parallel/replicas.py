"""Replicas: runs that differ in their seed and a few numbers, trained by one program.

Every array of a replica has a leading replica axis, also where there is one replica. What is
computed is written for one replica, without the axis, and lifted by `over_replicas`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from attention.lab.settings import (
    OptimizerNumbers,
    OptimizerSettings,
    ReplicaSettings,
    Settings,
)
from attention.pytrees import register_dataclass

NUMBERS = tuple(OptimizerNumbers.model_fields)


@register_dataclass
@dataclass(frozen=True)
class Replica:
    """What sets a replica apart from the others.

    Attributes:
      seed: of all its randomness, an unsigned integer.
      learning_rate: at the peak.
      clip_norm: of the gradient.
      weight_decay: of adamw alone.
    """

    seed: PyTree
    learning_rate: PyTree
    clip_norm: PyTree
    weight_decay: PyTree

    def of(self, settings: OptimizerSettings) -> OptimizerSettings:
        """An optimizer's settings with the numbers of this replica, which jax may trace."""
        return settings.model_copy(update={name: getattr(self, name) for name in NUMBERS})


def all_replicas(settings: Settings) -> Replica:
    """All replicas of an experiment: each attribute has an axis of them."""
    optimizers = [member.optimizer for member in members(settings)]
    numbers = {
        name: np.asarray([getattr(optimizer, name) for optimizer in optimizers], np.float32)
        for name in NUMBERS
    }
    return Replica(seed=np.asarray(seeds(settings), np.uint32), **numbers)


def seeds(settings: Settings) -> list[int]:
    """The seed of each replica."""
    return [member.seed for member in members(settings)]


def members(settings: Settings) -> list[Settings]:
    """Each replica as an experiment of one replica."""
    if settings.replicas:
        return [
            settings.model_copy(
                update={
                    "seed": replica.seed,
                    "replicas": (),
                    "optimizer": settings.optimizer.model_copy(
                        update={name: getattr(replica, name) for name in NUMBERS}
                    ),
                }
            )
            for replica in settings.replicas
        ]
    first = settings.seed
    return [
        settings.model_copy(update={"seed": seed, "num_seeds": 1})
        for seed in range(first, first + settings.num_seeds)
    ]


def join(experiments: Sequence[Settings]) -> Settings:
    """One experiment, whose replicas are these: of one replica each, alike in what is `shared`."""
    if len(experiments) == 1:
        return experiments[0]
    replicas = [
        ReplicaSettings(seed=each.seed, **each.optimizer.model_dump(include=set(NUMBERS)))
        for each in experiments
    ]
    return experiments[0].model_copy(update={"replicas": tuple(replicas)})


def shared(settings: Settings) -> Settings:
    """What is the same in all experiments that `join` can put together with this one."""
    numbers = OptimizerNumbers().model_dump()
    optimizer = settings.optimizer.model_copy(update=numbers)
    return settings.model_copy(update={"seed": 0, "optimizer": optimizer})


def named(settings: Settings, numbers: Sequence[int]) -> str:
    """These replicas, in words: by their seeds if these tell them apart."""
    if settings.replicas:
        return f"replica {', '.join(map(str, numbers))}"
    return f"seed {', '.join(str(settings.seed + number) for number in numbers)}"


def over_replicas(
    function: Callable, mesh: Mesh, own: int = 1, unless: Callable | None = None
) -> Callable:
    """Lifts a function of one replica to all of them.

    One replica keeps the cores of a CPU busy, and `vmap` would only make its arrays too large
    for the caches: there replicas take turns. Elsewhere `vmap` fills the device.

    Args:
      function: of the arrays of one replica, which may differ, then of what all share.
      mesh: the devices, of `devices.make_mesh`; they share the replicas out among them.
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
        # An axis of one, left to the compiler, would make another program of it.
        by_hand = {"seed"} if mesh.shape["data"] > 1 else set(mesh.axis_names)
        specs = tuple(P("seed") if number < own else P() for number in range(len(arguments)))
        # Unchecked: the check would have every constant in a loop marked as differing by device.
        return jax.shard_map(
            share,
            mesh=mesh,
            in_specs=specs,
            out_specs=P("seed"),
            axis_names=by_hand,
            check_vma=False,
        )(*arguments)

    return lifted


def takes_turns() -> bool:
    """Whether the replicas on a device are computed one after another."""
    return jax.devices()[0].platform == "cpu"


def _count(tree: PyTree) -> int:
    return jax.tree.leaves(tree)[0].shape[0]
