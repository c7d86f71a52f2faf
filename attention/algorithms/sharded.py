"""Sequence parallelism: keys too many for one device, in equal shares on all along a mesh axis.

Every device streams over its own keys, of which it makes a context `o_d` and the logarithm of
a normalizer `L_d`. These are merged exactly, as Ring Attention merges blocks (arXiv 2310.01889),
but all at once, for the queries are on every device:

    L = log Σ_d exp L_d        o = Σ_d exp(L_d − L) o_d

A device holds its share of the keys and values, all queries, and what pairs share. Only
contexts and a few numbers for every query cross between devices, never keys. Since a single program
serves all devices, it skips a tile only where no device needs it: a causal mask saves next to
nothing.
"""

import functools
import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, PyTree

from attention.algorithms import streaming
from attention.algorithms.request import Request
from attention.algorithms.tiles import block_sizes, cut
from attention.biases import Bias
from attention.forms import Form, KeyOnly, as_pytree, size_of
from attention.masks import Mask
from attention.normalizers import Sigmoid, Softmax, normalizer_name
from attention.pytrees import field_names, register_dataclass, static

NORMALIZERS = ("softmax", "sigmoid")


@register_dataclass
@dataclass(frozen=True)
class Share:
    """Which of the keys a device has: the last of its keys may not exist.

    Attributes:
      first: the index of the device's first key among the keys of all devices.
      size: how many keys the device has; all devices have equally many.
      num_keys: how many keys exist on all devices together.
    """

    first: Int[Array, ""]
    size: int = static()
    num_keys: int = static()

    def exist(self, key_index: Int[Array, " m"]) -> Bool[Array, " m"]:
        return self.first + key_index < self.num_keys

    def index(self, key_index: Int[Array, " m"]) -> Int[Array, " m"]:
        """Indices among all keys. No mask and no bias is asked for a key that does not exist."""
        return jnp.minimum(self.first + key_index, self.num_keys - 1)

    def ranges(self, keys: range) -> list[range]:
        """These keys of a device as indices among all keys, for every device that has any."""
        starts = range(0, self.num_keys, self.size)
        ranges = [
            range(start + keys.start, min(start + keys.stop, self.num_keys)) for start in starts
        ]
        return [keys for keys in ranges if keys]


@register_dataclass
@dataclass(frozen=True)
class ShareOfMask(Mask):
    """A mask of all keys, or None, for the keys of a device; keys that do not exist are masked."""

    mask: Mask | None
    share: Share

    def __call__(
        self, query_index: Int[Array, " n"], key_index: Int[Array, " m"]
    ) -> Bool[Array, "*lead #n m"]:
        exist = self.share.exist(key_index)
        if self.mask is None:
            return exist[None, :]
        allowed = self.mask(query_index, self.share.index(key_index))
        return allowed & jnp.expand_dims(exist, tuple(range(allowed.ndim - 1)))

    def reaches(self, queries: range, keys: range) -> bool:
        """All devices run a single program: it has the tiles that any device needs."""
        ranges = self.share.ranges(keys)
        return any(self.mask is None or self.mask.reaches(queries, keys) for keys in ranges)


@register_dataclass
@dataclass(frozen=True)
class ShareOfBias:
    """A bias of all keys, for the keys of a device."""

    bias: Bias
    share: Share

    def __call__(
        self, query_index: Int[Array, " n"], key_index: Int[Array, " m"]
    ) -> Float[Array, "*lead n m"]:
        return self.bias(query_index, self.share.index(key_index))


def obstacle(request: Request) -> str | None:
    """Contexts of some keys and of others must merge: of softmax and sigmoid it is known how."""
    if isinstance(request.normalizer, Softmax | Sigmoid):
        return None
    return (
        f"normalizer={normalizer_name(request.normalizer)!r} cannot be merged over devices;"
        f" choose {', '.join(NORMALIZERS)}"
    )


def attend(request: Request, mesh: Mesh, axis: str) -> Float[Array, "*lead queries value_dim"]:
    """The context of every query, on every device along `axis`, where there is no `obstacle`.

    Args:
      request: what to attend to.
      mesh: of devices.
      axis: the name of the mesh axis that shares the keys.
    """
    form, values, mask, bias = request.form, request.values, request.mask, request.bias
    lead, num_queries, num_keys = request.lead, request.num_queries, request.num_keys
    if isinstance(form, KeyOnly) and bias is None and (mask is None or mask.keys_only):
        form = replace(form, num_queries=1)  # all queries have the same context
    if bias is not None:  # what it has closed over must come with it
        size = -(-num_keys // mesh.shape[axis])
        blocks = block_sizes(form, math.prod(lead), num_queries, size)
        bias = as_pytree(bias, *map(jnp.arange, blocks))
    leaves, structure = jax.tree.flatten((form, values, mask, bias))

    def run(*leaves: Array) -> Array:
        return _attend(*jax.tree.unflatten(structure, leaves), request.normalizer, mesh, axis)

    if _has_explicit_axes(values):
        spec = P(*jax.typeof(values).sharding.spec[: len(lead)], None, None)
        run = jax.sharding.auto_axes(run, out_sharding=NamedSharding(mesh, spec))
    context = run(*leaves)
    return jnp.broadcast_to(context, (*lead, num_queries, context.shape[-1]))


@functools.partial(jax.jit, static_argnames=("normalizer", "mesh", "axis"))
def _attend(
    form: Form,
    values: Array,
    mask: Mask | None,
    bias: Bias | None,
    normalizer: Softmax | Sigmoid,
    mesh: Mesh,
    axis: str,
) -> Array:
    lead = values.shape[:-2]
    _, num_keys = size_of(form, len(lead))
    devices = mesh.shape[axis]
    size = -(-num_keys // devices)

    def attend_own(
        fields: dict[str, PyTree], values: Array, mask: Mask | None, bias: Bias | None
    ) -> Array:
        share = Share(lax.axis_index(axis) * size, size, num_keys)
        if mask is not None or size * devices > num_keys:
            mask = ShareOfMask(mask, share)
        if bias is not None:
            bias = ShareOfBias(bias, share)
        tiles, floats, others = cut(replace(form, **fields), values, mask, bias, lead)
        match normalizer:
            case Softmax():
                context = _merge(*streaming.softmax(tiles, floats, others), axis)
            case Sigmoid():
                num_allowed = lax.psum(streaming.count(tiles, floats, others), axis)
                part = streaming.sigmoid(normalizer, tiles, floats, others, num_allowed)
                context = lax.psum(part, axis)
            case other:
                raise TypeError(f"no rule to merge devices under {normalizer_name(other)}")
        return tiles.join(context).astype(values.dtype)

    def pad(leaf: Array) -> Array:
        """To equal shares, by copies of the last key: at zeros a score need not be finite."""
        padding = size * devices - num_keys
        widths = [(0, padding if i == len(lead) else 0) for i in range(leaf.ndim)]
        return jnp.pad(leaf, widths, mode="edge") if padding else leaf

    fields = {name: getattr(form, name) for name in field_names(type(form), static=False)}
    fields |= {name: jax.tree.map(pad, fields[name]) for name in form.per_key}
    along_keys = P(*[None] * len(lead), axis)
    specs = {name: along_keys if name in form.per_key else P() for name in fields}
    # Unchecked: the check would have every constant in a loop marked as differing by device.
    return jax.shard_map(
        attend_own,
        mesh=_in_context(mesh),
        in_specs=(specs, along_keys, P(), P()),
        out_specs=P(),
        axis_names={axis},
        check_vma=False,
    )(fields, pad(values), mask, bias)


def _merge(context: Array, log_total: Array, axis: str) -> Array:
    """The contexts over all keys, from the contexts over the keys of every device."""
    greatest = lax.pmax(lax.stop_gradient(log_total), axis)
    # The weight of a device without keys is zero where another device has some keys; where no
    # device has any, all contexts are zero, and weights are of no effect.
    weight = jnp.exp(log_total - greatest)
    total = lax.psum(weight, axis)
    return lax.psum((weight / total)[..., None] * context, axis)


def _has_explicit_axes(array: Array) -> bool:
    """Whether types say how arrays are sharded (on a mesh of `jax.make_mesh` they do)."""
    meshes = jax.typeof(array).sharding.mesh, jax.sharding.get_abstract_mesh()
    return any(AxisType.Explicit in mesh.axis_types for mesh in meshes)


def _in_context(mesh: Mesh) -> Mesh | AbstractMesh:
    """The mesh with axes that types do not speak of, for loops could not keep such types."""
    context = jax.sharding.get_abstract_mesh()
    return Mesh(mesh.devices, mesh.axis_names) if context.empty else context
