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
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, PyTree

from attention.algorithms import streaming
from attention.algorithms.request import Request
from attention.algorithms.tiles import cut_problem
from attention.biases import Bias, is_finite
from attention.dropout import Dropout
from attention.forms import Form, KeyOnly, size_of
from attention.masks import Mask
from attention.normalizers import Sigmoid, Softmax, SoftmaxWithSink, normalizer_name, softmax
from attention.prepare import only_reachable
from attention.pytrees import field_names, register_dataclass, static
from attention.reach import reachable_keys
from attention.score_mods import ScoreMod

NORMALIZERS = ("softmax", "softmax_one", "sigmoid")


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

    @property
    def finite(self) -> bool:
        """Whether the bias is never −∞."""
        return is_finite(self.bias)

    def __call__(
        self, query_index: Int[Array, " n"], key_index: Int[Array, " m"]
    ) -> Float[Array, "*lead n m"]:
        return self.bias(query_index, self.share.index(key_index))


@register_dataclass
@dataclass(frozen=True)
class ShareOfScoreMod:
    """What is made of the scores of all keys, for the keys of a device."""

    score_mod: ScoreMod
    share: Share

    def __call__(
        self,
        scores: Float[Array, "*lead n m"],
        query_index: Int[Array, " n"],
        key_index: Int[Array, " m"],
    ) -> Float[Array, "*lead n m"]:
        return self.score_mod(scores, query_index, self.share.index(key_index))


@register_dataclass
@dataclass(frozen=True)
class ShareOfDropout:
    """A dropout of all keys, for the keys of a device: it drops the same pairs."""

    dropout: Dropout
    share: Share

    def factors(
        self, lead: tuple[int, ...], query_index: Int[Array, " n"], key_index: Int[Array, " m"]
    ) -> Float[Array, "*lead n m"]:
        return self.dropout.factors(lead, query_index, self.share.index(key_index))


def obstacle(request: Request) -> str | None:
    """Contexts of some keys and of others must merge: of softmax and sigmoid it is known how."""
    if not request.has_fixed_sizes:
        return f"every size must be a number to share keys out by, not {request.shape}"
    if isinstance(request.normalizer, Softmax | SoftmaxWithSink | Sigmoid):
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
    form, mask, lead = request.form, request.mask, request.lead
    if isinstance(form, KeyOnly) and not (
        request.depends_on_pairs
        or isinstance(request.normalizer, SoftmaxWithSink)
        or not (mask is None or mask.keys_only)
    ):
        form = replace(form, num_queries=1)  # all queries have the same context
    pairs = _Pairs(mask, request.bias, request.score_mod, request.dropout)
    leaves, structure = jax.tree.flatten((form, request.values, pairs))
    is_sigmoid = isinstance(request.normalizer, Sigmoid)

    def run(*leaves: Array) -> tuple[Array, Array]:
        form, values, pairs = jax.tree.unflatten(structure, leaves)
        normalizer = request.normalizer if is_sigmoid else softmax
        return _attend(form, values, pairs, normalizer, mesh, axis)

    if _has_explicit_axes(request.values):
        rows = jax.typeof(request.values).sharding.spec[: len(lead)]
        places = [NamedSharding(mesh, P(*rows, None, None)), NamedSharding(mesh, P(*rows, None))]
        run = jax.sharding.auto_axes(run, out_sharding=tuple(places))
    context, log_total = run(*leaves)
    if isinstance(request.normalizer, SoftmaxWithSink):
        context = context * request.normalizer.share(log_total)[..., None]
    context = context.astype(request.values.dtype)
    return jnp.broadcast_to(context, (*lead, request.num_queries, context.shape[-1]))


@register_dataclass
@dataclass(frozen=True)
class _Pairs:
    """What indices do to pairs of all keys."""

    mask: Mask | None
    bias: Bias | None
    score_mod: ScoreMod | None
    dropout: Dropout | None

    def of(self, share: Share, *, ragged: bool) -> dict[str, Any]:
        """For the keys of a device; `ragged` where some of its keys may not exist."""
        masked = ragged or self.mask is not None
        return {
            "mask": ShareOfMask(self.mask, share) if masked else None,
            "bias": None if self.bias is None else ShareOfBias(self.bias, share),
            "score_mod": None if self.score_mod is None else ShareOfScoreMod(self.score_mod, share),
            "dropout": None if self.dropout is None else ShareOfDropout(self.dropout, share),
        }


@functools.partial(jax.jit, static_argnames=("normalizer", "mesh", "axis"))
def _attend(
    form: Form,
    values: Array,
    pairs: _Pairs,
    normalizer: Softmax | Sigmoid,
    mesh: Mesh,
    axis: str,
) -> tuple[Array, Array]:
    """The contexts, and the logarithms of the normalizers: for sigmoid, zeros."""
    lead = values.shape[:-2]
    num_queries, num_keys = size_of(form, len(lead))
    devices = mesh.shape[axis]
    size = -(-num_keys // devices)

    def attend_own(fields: dict[str, PyTree], values: Array, pairs: _Pairs) -> tuple[Array, Array]:
        share = Share(lax.axis_index(axis) * size, size, num_keys)
        of_device = pairs.of(share, ragged=size * devices > num_keys)
        shape = (*lead, num_queries, size)
        # On each device by itself: even the center of its keys may be another.
        reachable = reachable_keys(of_device["mask"], of_device["bias"], shape)
        own, values = only_reachable(replace(form, **fields), values, reachable)
        tiles, floats, others = cut_problem(own, values, lead, **of_device)
        match normalizer:
            case Softmax():
                context, log_total = _merge(*streaming.softmax(tiles, floats, others), axis)
            case Sigmoid():
                num_allowed = lax.psum(streaming.count(tiles, floats, others), axis)
                part = streaming.sigmoid(normalizer, tiles, floats, others, num_allowed)
                context = lax.psum(part, axis)
                log_total = jnp.zeros_like(context[..., 0])
            case other:
                raise TypeError(f"no rule to merge devices under {normalizer_name(other)}")
        return tiles.join(context), tiles.join(log_total)

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
        in_specs=(specs, along_keys, P()),
        out_specs=(P(), P()),
        axis_names={axis},
        check_vma=False,
    )(fields, pad(values), pairs)


def _merge(context: Array, total: streaming.Total, axis: str) -> tuple[Array, Array]:
    """Over all keys, from the contexts and totals over the keys of every device."""
    # The maximum of a device without keys is zero, which must not count.
    own = jnp.where(total.sum > 0, total.max, -jnp.inf)
    greatest = lax.pmax(lax.stop_gradient(own), axis)
    greatest = jnp.where(greatest > -jnp.inf, greatest, 0.0)
    own_sum = jnp.exp(own - greatest) * total.sum
    all_sums = lax.psum(own_sum, axis)
    merged = streaming.Total(greatest, all_sums)
    part = own_sum / jnp.where(all_sums > 0, all_sums, 1.0)
    return lax.psum(part[..., None] * context, axis), merged.logarithm()


def _has_explicit_axes(array: Array) -> bool:
    """Whether types say how arrays are sharded (on a mesh of `jax.make_mesh` they do)."""
    meshes = jax.typeof(array).sharding.mesh, jax.sharding.get_abstract_mesh()
    return any(AxisType.Explicit in mesh.axis_types for mesh in meshes)


def _in_context(mesh: Mesh) -> Mesh | AbstractMesh:
    """The mesh with axes that types do not speak of, for loops could not keep such types."""
    context = jax.sharding.get_abstract_mesh()
    return Mesh(mesh.devices, mesh.axis_names) if context.empty else context
