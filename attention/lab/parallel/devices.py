"""Devices: one mesh, with the replicas along its axis `seed` and each batch along `data`.

The axis `seed` is split by hand (`replicas.over_replicas`), since replicas have nothing to do
with each other. The axis `data` is left to the compiler: the program is that of one device,
which says where rows and parameters lie, so its numbers are the same but for rounding.
"""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree


def make_mesh(devices: Sequence[jax.Device], num_replicas: int, batch_size: int) -> Mesh:
    """The mesh of the most devices that can have equal shares of the replicas and of a batch.

    Args:
      devices: those there are.
      num_replicas: to share out along the axis `seed`.
      batch_size: of the batch of a replica, to share out along the axis `data`.
    """
    available = range(1, len(devices) + 1)
    shares = [
        (seed, data)
        for seed in available
        if num_replicas % seed == 0
        for data in available[: len(devices) // seed]
        if batch_size % data == 0
    ]
    # Of two meshes of equal size, the one with more along `seed`: replicas need not communicate.
    seed, data = max(shares, key=lambda share: (math.prod(share), share))
    return Mesh(np.array(devices[: seed * data]).reshape(seed, data), ("seed", "data"))


def described(mesh: Mesh, available: int) -> str:
    """How the replicas and batches are shared out, and how many devices are left out, in a line.

    Args:
      mesh: the devices in use.
      available: the number of devices there are.
    """
    left_out = available - mesh.size
    return f"devices: replicas over {mesh.shape['seed']}, each batch over {mesh.shape['data']}" + (
        f"; {left_out} of {available} left out, the sizes do not divide" if left_out else ""
    )


def fast_to_compile(devices: Sequence[jax.Device]) -> dict[str, int]:
    """Options of `jax.jit` for a program that takes longer to compile than to run.

    On a CPU, XLA then spends less on code that runs fast; what the code computes stays the same, to
    the last bit.

    Args:
      devices: those that the program runs on.
    """
    is_fast_anyway = jax.config.values["jax_disable_most_optimizations"]
    on_cpu = devices[0].platform == "cpu"
    return {"xla_backend_optimization_level": 1} if on_cpu and not is_fast_anyway else {}


def split_rows(batch: PyTree) -> PyTree:
    """Shares the rows of arrays out along the axis `data`: in equal shares, or not at all.

    For use inside a program, on arrays that belong to one replica.
    """
    return jax.tree.map(lambda leaf: _split(leaf, 0), batch)


def split_parameters(parameters: PyTree) -> PyTree:
    """Shares each array out along the axis `data`, cut along the largest axis that divides.

    For use inside a program, on arrays that belong to one replica. An array of which no axis
    divides stays whole on every device.
    """
    return jax.tree.map(lambda leaf: _split(leaf, _widest(leaf.shape, _sharers())), parameters)


def places(like: PyTree, mesh: Mesh, *, split: bool) -> PyTree:
    """On which devices arrays with a leading axis of replicas lie.

    Args:
      like: arrays, or their shapes.
      mesh: the devices.
      split: whether the arrays of a replica are cut as `split_parameters` cuts them; if not, each
        device of the replica has them whole.
    """

    def place(leaf: PyTree) -> NamedSharding:
        axis = _widest(leaf.shape[1:], mesh.shape["data"]) if split else None
        return NamedSharding(mesh, P("seed", *_along(axis)))

    return jax.tree.map(place, like)


def can_split(parameters: PyTree, mesh: Mesh) -> bool:
    """Whether `split_parameters` would split anything."""
    axes = [_widest(leaf.shape, mesh.shape["data"]) for leaf in jax.tree.leaves(parameters)]
    return any(axis is not None for axis in axes)


def _split(leaf: jax.Array, axis: int | None) -> jax.Array:
    sharers = _sharers()
    if axis is None or sharers == 1 or leaf.shape[axis] % sharers:
        return leaf
    return jax.lax.with_sharding_constraint(leaf, P(*_along(axis)))


def _along(axis: int | None) -> list[str | None]:
    return [] if axis is None else [None] * axis + ["data"]


def _widest(shape: tuple[int, ...], sharers: int) -> int | None:
    """The largest axis whose size the sharers divide, the first of several; None without any."""
    axes = [axis for axis, size in enumerate(shape) if size % sharers == 0]
    return max(axes, key=lambda axis: shape[axis]) if axes else None


def _sharers() -> int:
    """The number of devices that share the batch of a replica, in the program being traced."""
    return jax.sharding.get_abstract_mesh().shape.get("data", 1)
