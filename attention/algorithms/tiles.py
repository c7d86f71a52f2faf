"""Problems cut into tiles: some queries against some keys, at a memory that does not grow."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import PyTreeDef
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PyTree

from attention.algorithms import additive, dense
from attention.algorithms.dense import collapse
from attention.algorithms.request import Request
from attention.biases import Bias, is_finite
from attention.dropout import Dropout
from attention.forms import Additive, Form, InnerProduct, KeyOnly, Pairwise, accumulator, size_of
from attention.masks import Mask
from attention.pytrees import field_names, register_dataclass
from attention.score_mods import ScoreMod

# Pairs in a tile, all leading axes together. What a Pairwise score computes on the way may
# be a long vector a pair, so its tiles are smaller.
TILE_SIZE = 2**20
PAIRWISE_TILE_SIZE = 2**16
LARGEST_BLOCK = 1024


@register_dataclass
@dataclass(frozen=True)
class Tile:
    """Some queries against some keys. All leading axes have become a single axis, the batch.

    Attributes:
      scores: as the normalizer gets them, in float32 or better.
      allowed: which of the scores count; None for all. A score of −∞ does not count either.
      factors: what to multiply the weights with, by the dropout; None for nothing.
      key_index: of the columns.
      values: of these keys, if the problem has values.
    """

    scores: Float[Array, "batch queries keys"]
    allowed: Bool[Array, "batch queries keys"] | None
    factors: Float[Array, "batch queries keys"] | None
    key_index: Int[Array, " keys"]
    values: Float[Array, "batch keys value_dim"] | None

    def mix(self, weights: Float[Array, "batch queries keys"]) -> Array:
        """The values, mixed by these weights less those that the dropout drops."""
        assert self.values is not None
        return dense.mixed(self.kept(weights), self.values)

    def kept(self, weights: Float[Array, "batch queries keys"]) -> Array:
        """The weights less those that the dropout drops."""
        return weights if self.factors is None else weights * self.factors


@dataclass(frozen=True)
class Tiles:
    """How a problem is cut: all that is known of it before its arrays are.

    Attributes:
      form: which form, and its static fields.
      lead: the leading axes.
      num_queries, num_keys: in all.
      query_block, key_block: size of a tile. The last tiles may jut out.
      pairs: the blocks of queries and of keys that meet.
      structure: of the arrays.
      is_float: which of the arrays have derivatives. They are kept apart from the others,
        as a `custom_jvp` wants it.
      value_dim: of the values, if there are any.
      may_score_infinity: whether finite arrays can lead to scores of −∞.
      dtype: to compute and to add up in.
    """

    form: tuple[type, tuple[tuple[str, Any], ...]]
    lead: tuple[int, ...]
    num_queries: int
    num_keys: int
    query_block: int
    key_block: int
    pairs: tuple[tuple[int, int], ...]
    structure: PyTreeDef
    is_float: tuple[bool, ...]
    value_dim: int
    may_score_infinity: bool
    dtype: np.dtype

    def tile(self, floats: list[Array], others: list[Array], pair: Int[Array, "2"]) -> Tile:
        """The tile of a pair of blocks."""
        sources = {True: iter(floats), False: iter(others)}
        arrays = jax.tree.unflatten(self.structure, [next(sources[kind]) for kind in self.is_float])
        by_query, by_key = (
            jax.tree.map(lambda leaf, block=block: leaf[block], arrays[name])
            for name, block in zip(("by_query", "by_key"), pair, strict=True)
        )
        values = by_key.pop("values")
        kind, static = self.form
        form = kind(**by_query, **by_key, **arrays["shared"], **dict(static))
        scores = _scores(form).astype(self.dtype)
        query_index = pair[0] * self.query_block + _indices(self.query_block)
        key_index = pair[1] * self.key_block + _indices(self.key_block)
        # Nothing is asked for what does not exist.
        inside = (
            jnp.minimum(query_index, self.num_queries - 1),
            jnp.minimum(key_index, self.num_keys - 1),
        )
        if arrays["bias"] is not None:
            scores = scores + self._collapsed(arrays["bias"](*inside)).astype(self.dtype)
        if arrays["score_mod"] is not None:
            whole = scores.reshape(*self.lead, *scores.shape[1:])
            scores = arrays["score_mod"](whole, *inside).reshape(scores.shape).astype(self.dtype)
        allowed = None
        if arrays["mask"] is not None:
            allowed = self._collapsed(arrays["mask"].evaluate(*inside, len(self.lead)))
        if self.num_keys % self.key_block:
            exists = jnp.broadcast_to((key_index < self.num_keys)[None, None, :], scores.shape)
            allowed = exists if allowed is None else allowed & exists
        factors = None
        if arrays["dropout"] is not None:
            factors = self._collapsed(arrays["dropout"].factors(self.lead, *inside))
            factors = factors.astype(self.dtype)
        return Tile(scores, allowed, factors, key_index, values)

    def scan(
        self,
        update: Callable[[PyTree, Tile], PyTree],
        initial: PyTree,
        floats: list[Array],
        others: list[Array],
    ) -> PyTree:
        """Folds every tile into what is held for its queries, which begins as `initial`."""

        def turn(held: PyTree, pair: Array) -> tuple[PyTree, None]:
            rows = jax.tree.map(lambda leaf: leaf[pair[0]], held)
            rows = update(rows, self.tile(floats, others, pair))
            return jax.tree.map(lambda leaf, row: leaf.at[pair[0]].set(row), held, rows), None

        return lax.scan(turn, initial, self.index)[0]

    @property
    def index(self) -> Int[Array, "tiles 2"]:
        """The pairs of blocks, to scan over."""
        return jnp.asarray(self.pairs, jnp.int32).reshape(-1, 2)

    def full(self, value: float | int, *rest: int, dtype: DTypeLike | None = None) -> Array:
        """An array that holds `value`, of shape `rest`, for every query, cut into blocks."""
        dtype = self.dtype if dtype is None else dtype
        blocks = -(-self.num_queries // self.query_block)
        return jnp.full((blocks, math.prod(self.lead), self.query_block, *rest), value, dtype)

    def join(self, held: Array) -> Array:
        """What blocks hold for every query, as a single array: `[*lead, queries, …]`."""
        array = jnp.moveaxis(held, 0, 1)
        array = array.reshape(*self.lead, -1, *array.shape[3:])
        return lax.slice_in_dim(array, 0, self.num_queries, axis=len(self.lead))

    def _collapsed(self, array: Array) -> Array:
        array = jnp.broadcast_to(array, (*self.lead, self.query_block, self.key_block))
        return array.reshape(-1, self.query_block, self.key_block)


def cut(request: Request) -> tuple[Tiles, list[Array], list[Array]]:
    """A problem cut into tiles: the plan, its arrays with derivatives, and the others."""
    return cut_problem(
        request.form,
        request.values,
        request.lead,
        mask=request.mask,
        bias=request.bias,
        score_mod=request.score_mod,
        dropout=request.dropout,
    )


def cut_problem(
    form: Form,
    values: Float[Array, "*lead keys value_dim"] | None,
    lead: tuple[int, ...],
    *,
    mask: Mask | None = None,
    bias: Bias | None = None,
    score_mod: ScoreMod | None = None,
    dropout: Dropout | None = None,
) -> tuple[Tiles, list[Array], list[Array]]:
    """`cut`, for a problem that need not have values."""
    num_queries, num_keys = size_of(form, len(lead))
    shape = (*lead, num_queries, num_keys)
    query_block, key_block = block_sizes(form, shape, has_array_of_pairs=_has_array(bias, shape))
    data, static = (
        {name: getattr(form, name) for name in field_names(type(form), static=static)}
        for static in (False, True)
    )
    if isinstance(form, KeyOnly):
        static["num_queries"] = query_block
    by_query = {name: data.pop(name) for name in form.per_query}
    by_key = {name: data.pop(name) for name in form.per_key} | {"values": values}
    arrays = {
        "by_query": _in_blocks(collapse(by_query, lead), query_block),
        "by_key": _in_blocks(collapse(by_key, lead), key_block),
        "shared": collapse(data, lead),
        "mask": mask,
        "bias": bias,
        "score_mod": score_mod,
        "dropout": dropout,
    }
    leaves, structure = jax.tree.flatten(arrays)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    is_float = tuple(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves)
    floats = [leaf for leaf, is_one in zip(leaves, is_float, strict=True) if is_one]
    others = [leaf for leaf, is_one in zip(leaves, is_float, strict=True) if not is_one]
    tiles = Tiles(
        form=(type(form), tuple(static.items())),
        lead=lead,
        num_queries=num_queries,
        num_keys=num_keys,
        query_block=query_block,
        key_block=key_block,
        pairs=tuple(
            (i, j)
            for i, queries in enumerate(_ranges(num_queries, query_block))
            for j, keys in enumerate(_ranges(num_keys, key_block))
            if mask is None or mask.reaches(queries, keys)
        ),
        structure=structure,
        is_float=is_float,
        value_dim=0 if values is None else values.shape[-1],
        may_score_infinity=score_mod is not None
        or not (bias is None or is_finite(bias))
        or not (isinstance(form, Additive) or _has_no_bias(form)),
        dtype=accumulator(*(leaf.dtype for leaf in floats)),
    )
    return tiles, floats, others


def _has_no_bias(form: Form) -> bool:
    return isinstance(form, InnerProduct) and form.query_bias is form.key_bias is None


def _indices(size: int) -> Int[Array, " size"]:
    return jnp.arange(size, dtype=jnp.int32)


def _scores(form: Form) -> Float[Array, "batch queries keys"]:
    if isinstance(form, Additive):
        return additive.scores(form)
    return dense.scores(form)


def block_sizes(
    form: Form, shape: tuple[int, ...], *, has_array_of_pairs: bool = False
) -> tuple[int, int]:
    """How many queries and how many keys a tile has, of scores of this shape."""
    *lead, num_queries, num_keys = shape
    pairs = PAIRWISE_TILE_SIZE if isinstance(form, Pairwise) else TILE_SIZE
    pairs = max(1, pairs // max(1, math.prod(lead)))
    key_block = max(1, min(num_keys, LARGEST_BLOCK, math.isqrt(pairs)))
    # The turn of a tile holds its piece of such an array, too, and the gradient of the piece.
    pairs = pairs // 2 if has_array_of_pairs else pairs
    query_block = max(1, min(num_queries, LARGEST_BLOCK, pairs // key_block))
    return query_block, key_block


def _has_array(bias: Bias | None, shape: tuple[int, ...]) -> bool:
    """Whether a bias holds an array with an entry for each query and key."""
    return any(np.shape(leaf)[-2:] == shape[-2:] for leaf in jax.tree.leaves(bias))


def _ranges(size: int, block: int) -> list[range]:
    return [range(start, min(start + block, size)) for start in range(0, size, block)]


def _in_blocks(tree: PyTree, block: int) -> PyTree:
    """`[batch, n, …]` as `[blocks, batch, block, …]`, the last block padded by zeros."""

    def cut(leaf: Array) -> Array:
        batch, size, *rest = leaf.shape
        padding = [(0, 0), (0, -size % block), *((0, 0) for _ in rest)]
        return jnp.moveaxis(jnp.pad(leaf, padding).reshape(batch, -1, block, *rest), 1, 0)

    return jax.tree.map(cut, tree)
