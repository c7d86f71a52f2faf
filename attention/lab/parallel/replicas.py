"""Replicas: runs that differ in their seed and a few numbers, trained by one program.

Every array of the training state has a leading axis of replicas, also where there is but one
replica. Computations are written for a single replica, without that axis, and `over_replicas`
lifts them to all.
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
      seed: of all the randomness of the replica, an unsigned integer.
      learning_rate: the learning rate at its peak.
      clip_norm: the global norm to which gradients are clipped.
      weight_decay: the decay that adamw applies.
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
    """One experiment whose replicas are these experiments.

    Args:
      experiments: each of one replica, and alike in all that `shared` keeps.
    """
    if len(experiments) == 1:
        return experiments[0]
    replicas = [
        ReplicaSettings(seed=each.seed, **each.optimizer.model_dump(include=set(NUMBERS)))
        for each in experiments
    ]
    return experiments[0].model_copy(update={"replicas": tuple(replicas)})


def shared(settings: Settings) -> Settings:
    """The settings without what `join` lets differ: equal for experiments that it can join."""
    numbers = OptimizerNumbers().model_dump()
    optimizer = settings.optimizer.model_copy(update=numbers)
    return settings.model_copy(update={"seed": 0, "optimizer": optimizer})


def named(settings: Settings, numbers: Sequence[int]) -> str:
    """Some replicas, in words: by their seeds if the seeds tell them apart.

    Args:
      settings: of the experiment.
      numbers: of the replicas, from 0.
    """
    if settings.replicas:
        return f"replica {', '.join(map(str, numbers))}"
    return f"seed {', '.join(str(settings.seed + number) for number in numbers)}"


def over_replicas(
    function: Callable, mesh: Mesh, of_replica: int = 1, unless: Callable | None = None
) -> Callable:
    """Lifts a function of one replica to all of them.

    One replica keeps the cores of a CPU busy, and `vmap` would only make its arrays too large
    for the caches: there replicas take turns. Elsewhere `vmap` fills the device.

    Args:
      function: its first arguments are arrays of one replica, without the axis of replicas; its
        last arguments are the same for all replicas.
      mesh: the devices, of `devices.make_mesh`, among which the replicas are shared out.
      of_replica: the number of first arguments, which belong to a replica.
      unless: takes the arguments of `function`, and returns whether to leave the replica out, and
        what to return in the place of the result.

    Returns:
      A function whose first `of_replica` arguments have a leading axis of replicas, for use inside
      `jax.jit`; all that it returns has that axis.
    """

    def share(*arguments: Any) -> Any:
        """What each device does, with its share of the replicas."""
        mine, shared = arguments[:of_replica], arguments[of_replica:]
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
            # No cond under vmap: it would copy what is shared to every replica, and give each
            # replica its own number of turns in every loop, so that every turn would have to
            # select between old and new for every array.
            return jax.tree.map(lambda a, b: jnp.where(left_out, a, b), instead, run())

        if is_lone:  # a loop of one turn, or an axis of one, compiles to slower programs
            lone = one(jax.tree.map(lambda leaf: leaf[0], mine))
            return jax.tree.map(lambda leaf: leaf[None], lone)
        return jax.lax.map(one, mine) if in_turn else jax.vmap(one)(mine)

    def lifted(*arguments: Any) -> Any:
        # An axis of one, left to the compiler, would make another program of it.
        by_hand = {"seed"} if mesh.shape["data"] > 1 else set(mesh.axis_names)
        specs = tuple(P("seed") if number < of_replica else P() for number in range(len(arguments)))
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
