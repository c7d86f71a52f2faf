"""Biases: what positions alone add to a score, whichever score it is.

A bias is a function of query indices (`[n]`) and key indices (`[m]`). It returns an array of
axes `[n, m]` or `[heads, n, m]`, which is broadcast against the scores as NumPy does. Any pytree
that is such a function will do: it is evaluated tile by tile, never as an array of all pairs of
positions, and its learned parameters get their gradient. Locality is a mask, `masks.window`.

`attend` takes plain functions of two positions and arrays of all pairs, too: see `as_bias`. A bias
of −∞ masks its pair.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Integer

from attention.forms import accumulator, name_of
from attention.pairs import ARRAYS, Shape, align_right, aligned, entries, positions_of
from attention.plain_functions import OfPairs, Value, is_pytree, of_pairs, value_of
from attention.promises import promises
from attention.pytrees import register_dataclass, static
from attention.sizes import check_size

Bias = Callable[[Array, Array], Array]

# What `attend` takes for a bias.
GivenBias = Callable[..., Any] | jax.Array | np.ndarray | Sequence[Any] | None


class Alibi(nnx.Module):
    """`−slope_h |i − j|`, without parameters (Press et al., arXiv 2108.12409).

    For heads that are a power of two, the slopes are a geometric sequence that ends at `2⁻⁸` and
    begins at its own ratio, `2^(−8 / heads)`. The paper says so of any number of heads; its
    authors' code does not, and what was published is trained with the code, which is followed
    here: from the greatest power of two below, it takes all slopes; those that are missing are
    every second slope of twice that power, beginning with the first.

    Args:
      heads: number of heads.
      rngs: not used; every bias is made with it.
    """

    finite: ClassVar[bool] = True

    def __init__(self, heads: int, *, rngs: nnx.Rngs):
        del rngs  # nothing is learned
        check_size("heads", heads)
        self.heads = heads

    def __call__(
        self, query_index: Int[Array, " n"], key_index: Int[Array, " m"]
    ) -> Float[Array, "heads n m"]:
        """What to add to the score of each query and key, at these positions."""
        slopes = jnp.asarray(_slopes(self.heads), jnp.float32)
        distance = jnp.abs(key_index[None, :] - query_index[:, None])
        return -slopes[:, None, None] * distance[None].astype(jnp.float32)


def _slopes(heads: int) -> list[float]:
    power = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * (h + 1) / power) for h in range(power)]
    return slopes if power == heads else slopes + _slopes(2 * power)[::2][: heads - power]


class RelativePosition(nnx.Module):
    """A learned scalar for each distance `j − i` and head (Shaw et al., arXiv 1803.02155).

    Args:
      heads: number of heads.
      clip: distances beyond ±clip count as ±clip, in positions.
      rngs: not used: all scalars are zero at the start.

    Raises:
      ValueError: the clip is negative.
    """

    finite: ClassVar[bool] = True

    def __init__(self, heads: int, *, clip: int = 16, rngs: nnx.Rngs):
        del rngs  # all scalars start at zero: no distance is preferred
        if clip < 0:
            raise ValueError(f"clip={clip}: must be at least 0")
        self.clip = clip
        self.table = nnx.Param(jnp.zeros((heads, 2 * clip + 1)))

    def __call__(
        self, query_index: Int[Array, " n"], key_index: Int[Array, " m"]
    ) -> Float[Array, "heads n m"]:
        """What to add to the score of each query and key, at these positions."""
        distance = key_index[None, :] - query_index[:, None]
        return self.table[...][:, jnp.clip(distance, -self.clip, self.clip) + self.clip]


BIASES: dict[str, Callable[..., Bias]] = {"alibi": Alibi, "relative": RelativePosition}


@register_dataclass
@dataclass(frozen=True)
class Dense:
    """An array of what to add to each pair, for queries and keys by their indices.

    An axis of size 1 holds for all queries, or for all keys.
    """

    added: Float[Array, "*lead queries keys"]

    def __call__(
        self, query_index: Int[Array, " n"], key_index: Int[Array, " m"]
    ) -> Float[Array, "*lead #n #m"]:
        return entries(self.added, query_index, key_index)


@register_dataclass
@dataclass(frozen=True)
class Sum:
    """What several biases add together."""

    parts: tuple[Bias, ...]

    @property
    def finite(self) -> bool:
        return all(map(is_finite, self.parts))

    def __call__(self, query_index: Int[Array, " n"], key_index: Int[Array, " m"]) -> Array:
        arrays = [part(query_index, key_index) for part in self.parts]
        dtype, ndim = accumulator(*(a.dtype for a in arrays)), max(a.ndim for a in arrays)
        return functools.reduce(jnp.add, (align_right(a.astype(dtype), ndim) for a in arrays))


@register_dataclass
@dataclass(frozen=True)
class Located:
    """A bias of positions, where a position is not an index.

    Attributes:
      bias: called with the positions of a block of queries, and of keys.
      query_positions: where the queries stand, or None where they stand at their indices.
      key_positions: where the keys stand, or None.
      lead: how many leading axes the scores have; those of positions are the first of them.
    """

    bias: Bias
    query_positions: Integer[Array, "*batch queries"] | None
    key_positions: Integer[Array, "*other keys"] | None
    lead: int = static()

    @property
    def finite(self) -> bool:
        return is_finite(self.bias)

    def __call__(self, query_index: Int[Array, " n"], key_index: Int[Array, " m"]) -> Array:
        positions = self.query_positions, self.key_positions
        queries, keys = positions_of(positions, query_index, key_index)
        batch, bias = queries.ndim - 1, self.bias
        for _ in range(batch):
            bias = jax.vmap(bias)
        added = bias(queries, keys)
        missing = self.lead - (added.ndim - 2)
        if missing < 0:
            raise ValueError(
                f"positions with {batch} leading axes and a bias with {added.ndim - 2 - batch} do"
                f" not fit scores with {self.lead}"
            )
        return jnp.expand_dims(added, tuple(range(batch, batch + missing)))


def as_bias(bias: GivenBias, shape: Shape) -> Bias | None:
    """A bias for scores of this shape, from whatever people give for it.

    Args:
      bias: a bias of this module, or the user's own; a plain function `(i, j) -> number` of the
        positions of a single query and a single key, which is traced and may close over arrays; an
        array that broadcasts to the scores, `[..., queries, keys]`; several of these, which are
        added; or None.
      shape: of the scores, `(*lead, queries, keys)`.

    Raises:
      ValueError: it is none of these, or does not fit the scores.
    """
    if bias is None:
        return None
    if isinstance(bias, ARRAYS):
        return _dense(bias, shape)
    if callable(bias):
        return _of_function(bias, shape)
    if not isinstance(bias, Sequence) or isinstance(bias, str):
        raise ValueError(
            f"bias={bias!r:.40} is no bias: choose an array that broadcasts to {shape}, a bias of"
            " attention.biases, a function (i, j) -> number, or a list of these"
        )
    parts = [part for part in (as_bias(part, shape) for part in bias) if part is not None]
    return Sum(tuple(parts)) if len(parts) > 1 else parts[0] if parts else None


def at(
    bias: Bias | None,
    query_positions: Integer[Array, "*batch queries"] | None,
    key_positions: Integer[Array, "*other keys"] | None,
    lead: int,
) -> Bias | None:
    """The same bias, told where queries and keys stand.

    An array stays as it is: it has an entry for each query and key, wherever these stand.

    Args:
      bias: as `as_bias` returns it.
      query_positions: `[queries]` or `[batch, queries]`; None where a position is an index.
      key_positions: `[keys]` or `[batch, keys]`; None where a position is an index.
      lead: how many leading axes the scores have.
    """
    positions = query_positions, key_positions
    if bias is None or positions == (None, None) or isinstance(bias, Dense | Located):
        return bias
    if isinstance(bias, Sum):
        return Sum(tuple(at(part, *positions, lead) for part in bias.parts))
    return Located(bias, *positions, lead)


def is_finite(bias: Bias) -> bool:
    """Whether a bias promises never to be −∞, by an attribute `finite`."""
    part = bias.function if isinstance(bias, OfPairs) else bias
    is_its_own = "finite" in getattr(part, "__dict__", {}) or promises(type(part), "finite")
    return is_its_own and bool(getattr(part, "finite", False))


def _dense(bias: Any, shape: Shape) -> Bias:
    bias = jnp.asarray(bias)
    _check_number("bias", bias.shape, bias.dtype)
    if jnp.issubdtype(bias.dtype, jnp.integer):
        bias = bias.astype(jnp.float32)
    return Dense(aligned("bias", bias, shape))


def _of_function(bias: Callable[..., Any], shape: Shape) -> Bias:
    value, given = value_of("bias", bias), f"bias={name_of(bias)}"
    _check_number(given, value.shape, value.dtype)
    _check_axes(given, value, shape)
    if is_pytree(bias) and value.by_block:
        return bias
    integer = jnp.issubdtype(value.dtype, jnp.integer)
    return of_pairs(bias, value, jnp.float32 if integer else value.dtype)


def _check_number(given: str, shape: Shape, dtype: np.dtype) -> None:
    if jnp.issubdtype(dtype, jnp.bool_):
        raise ValueError(
            f"{given} of shape {shape} is of booleans: what may be attended to is a mask"
        )
    if not jnp.issubdtype(dtype, jnp.floating) and not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(f"{given} of shape {shape} must be of real numbers, got {dtype}")


def _check_axes(given: str, value: Value, shape: Shape) -> None:
    own, lead = value.shape, shape[:-2]
    of_heads = lead[len(lead) - len(own) :]
    fits = len(own) <= len(lead) and all(a in (1, b) for a, b in zip(own, of_heads, strict=True))
    if not fits:
        raise ValueError(
            f"{given} returns axes {own} before those of queries and keys, which do not broadcast"
            f" to the leading axes {lead} of the scores"
        )
