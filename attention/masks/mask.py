"""A mask, and what masks are composed to."""

import functools
import math
import operator
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Integer

from attention.pairs import Shape, align_left
from attention.pytrees import register_dataclass

QueryIndex = Integer[Array, "*batch n"]
KeyIndex = Integer[Array, "*other m"]
Allowed = Bool[Array, "*lead #n #m"]
QueryPositions = Integer[Array, "*batch queries"] | None
KeyPositions = Integer[Array, "*other keys"] | None

PAIRS_AT_ONCE = 2**20  # evaluated to find the keys that some query may attend to


class Mask:
    """A boolean function of a query index and a key index.

    Attributes:
      keys_only: whether the query index plays no part, so that one evaluation serves
        every query.
      keeps_diagonal: whether every query may attend to the key of its own index.
    """

    keys_only: ClassVar[bool] = False
    keeps_diagonal: ClassVar[bool] = False
    __array_ufunc__: ClassVar[None] = None  # NumPy's arrays leave `array & mask` to the mask

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        rules = [base.__name__ for base in cls.__mro__ if "__call__" in vars(base)]
        if len(rules) > 2:  # its own and that of `Mask`
            raise TypeError(
                f"{rules[0]} has another rule than {rules[1]} and would inherit what is known of"
                " that rule: derive it from Mask"
            )

    def __call__(self, query_index: QueryIndex, key_index: KeyIndex) -> Allowed:
        """Whether these queries may attend to these keys. The last two axes may be of size 1."""
        raise NotImplementedError

    def evaluate(self, query_index: QueryIndex, key_index: KeyIndex, lead: int) -> Allowed:
        """`__call__`, with singleton axes inserted so that there are `lead` leading axes."""
        allowed = self(query_index, key_index)
        if allowed.ndim - 2 > lead:
            raise ValueError(
                f"a mask with {allowed.ndim - 2} leading axes cannot be used on scores with {lead};"
                f" the mask has shape {allowed.shape}"
            )
        return align_left(allowed, lead)

    def on_keys(self, num_keys: int, lead: int) -> Bool[Array, "*lead keys"]:
        """What a mask on keys alone allows to every query."""
        keys = jnp.arange(num_keys, dtype=jnp.int32)
        allowed = self.evaluate(jnp.zeros(1, keys.dtype), keys, lead)[..., 0, :]
        return jnp.broadcast_to(allowed, (*allowed.shape[:-1], num_keys))

    def reaches(self, queries: range, keys: range) -> bool:
        """Could any of these queries attend to any of these keys? If not, they may be skipped.

        Decided before any array is known, and so generously.
        """
        return bool(queries and keys)

    def fills(self, queries: range, keys: range) -> bool:
        """Must all of these queries be allowed to attend to all of these keys?

        Decided before any array is known, and so only where it is sure.
        """
        return not (queries and keys)

    def reachable(self, shape: Shape) -> Bool[Array, "*lead keys"] | None:
        """Which keys some query may attend to, exactly; None for all, where that is sure.

        Args:
          shape: of the scores. The leading axes of the result may be of size 1.
        """
        num_queries, num_keys = shape[-2:]
        if self.keeps_diagonal and num_queries >= num_keys:
            return None
        if num_queries == 0:
            return jnp.zeros((*[1] * (len(shape) - 2), num_keys), bool)
        if self.keys_only:
            return self.on_keys(num_keys, len(shape) - 2)
        return _any_query(self, shape)

    def at(self, query_positions: QueryPositions, key_positions: KeyPositions) -> "Mask":
        """The same mask, told where queries and keys stand; None where that is their index.

        Masks that compare positions count from these: `causal`, `window` and plain functions.
        Other masks stay as they are.
        """
        return self

    def check(self, shape: Shape) -> None:
        """Refuses scores that this mask was not made for.

        Raises:
          ValueError: naming both shapes.
        """

    def aligned(self, shape: Shape) -> "Mask":
        """The same mask for scores of this shape, where what it means depends on that."""
        return self

    def __and__(self, other: "Mask") -> "Mask":
        return Both(self, _mask(other))

    def __or__(self, other: "Mask") -> "Mask":
        return Either(self, _mask(other))

    def __rand__(self, other: Any) -> "Mask":
        return Both(_mask(other), self)

    def __ror__(self, other: Any) -> "Mask":
        return Either(_mask(other), self)

    def __invert__(self) -> "Mask":
        return Not(self)


@dataclass(frozen=True)
class _Two(Mask):
    """What two masks have in common."""

    left: Mask
    right: Mask

    @property
    def keys_only(self) -> bool:  # type: ignore[override]
        return self.left.keys_only and self.right.keys_only

    def _aligned(self, query_index: QueryIndex, key_index: KeyIndex) -> tuple[Array, Array]:
        left, right = self.left(query_index, key_index), self.right(query_index, key_index)
        lead = max(left.ndim, right.ndim) - 2
        return align_left(left, lead), align_left(right, lead)

    def at(self, query_positions: QueryPositions, key_positions: KeyPositions) -> Mask:
        positions = query_positions, key_positions
        return type(self)(self.left.at(*positions), self.right.at(*positions))

    def check(self, shape: Shape) -> None:
        self.left.check(shape)
        self.right.check(shape)

    def aligned(self, shape: Shape) -> Mask:
        return type(self)(self.left.aligned(shape), self.right.aligned(shape))


@register_dataclass
@dataclass(frozen=True)
class Both(_Two):
    """What two masks both allow."""

    @property
    def keeps_diagonal(self) -> bool:  # type: ignore[override]
        return self.left.keeps_diagonal and self.right.keeps_diagonal

    def __call__(self, query_index: QueryIndex, key_index: KeyIndex) -> Allowed:
        left, right = self._aligned(query_index, key_index)
        return left & right

    def reaches(self, queries: range, keys: range) -> bool:
        return self.left.reaches(queries, keys) and self.right.reaches(queries, keys)

    def fills(self, queries: range, keys: range) -> bool:
        return self.left.fills(queries, keys) and self.right.fills(queries, keys)

    def reachable(self, shape: Shape) -> Bool[Array, "*lead keys"] | None:
        """As every mask; but those on keys alone need not be asked once more for every query."""
        parts = _parts(self)
        on_keys = [part for part in parts if part.keys_only]
        others = [part for part in parts if not part.keys_only]
        if not on_keys or not others:
            return super().reachable(shape)
        every = [*on_keys, functools.reduce(Both, others)]
        seen = [allowed for part in every if (allowed := part.reachable(shape)) is not None]
        return functools.reduce(operator.and_, seen) if seen else None


@register_dataclass
@dataclass(frozen=True)
class Either(_Two):
    """What at least one of two masks allows."""

    @property
    def keeps_diagonal(self) -> bool:  # type: ignore[override]
        return self.left.keeps_diagonal or self.right.keeps_diagonal

    def __call__(self, query_index: QueryIndex, key_index: KeyIndex) -> Allowed:
        left, right = self._aligned(query_index, key_index)
        return left | right

    def reaches(self, queries: range, keys: range) -> bool:
        return self.left.reaches(queries, keys) or self.right.reaches(queries, keys)

    def fills(self, queries: range, keys: range) -> bool:
        return self.left.fills(queries, keys) or self.right.fills(queries, keys)

    def reachable(self, shape: Shape) -> Bool[Array, "*lead keys"] | None:
        left, right = self.left.reachable(shape), self.right.reachable(shape)
        return None if left is None or right is None else left | right


@register_dataclass
@dataclass(frozen=True)
class Not(Mask):
    """What a mask does not allow."""

    mask: Mask

    @property
    def keys_only(self) -> bool:  # type: ignore[override]
        return self.mask.keys_only

    def __call__(self, query_index: QueryIndex, key_index: KeyIndex) -> Allowed:
        return ~self.mask(query_index, key_index)

    def reaches(self, queries: range, keys: range) -> bool:
        return not self.mask.fills(queries, keys)

    def fills(self, queries: range, keys: range) -> bool:
        return not self.mask.reaches(queries, keys)

    def at(self, query_positions: QueryPositions, key_positions: KeyPositions) -> Mask:
        return Not(self.mask.at(query_positions, key_positions))

    def check(self, shape: Shape) -> None:
        self.mask.check(shape)

    def aligned(self, shape: Shape) -> Mask:
        return Not(self.mask.aligned(shape))


def check_lead(what: str, own: Shape, shape: Shape) -> None:
    """Refuses leading axes, aligned from the left, that do not broadcast to those of the scores.

    Args:
      what: what has the axes, for the message.
      own: the sizes of the axes.
      shape: of the scores.
    """
    lead = shape[:-2]
    if len(own) > len(lead) or any(a not in (1, b) for a, b in zip(own, lead, strict=False)):
        raise ValueError(f"{what} of shape {own} do not fit the leading axes {lead} of the scores")


def _any_query(mask: Mask, shape: Shape) -> Bool[Array, "*lead keys"]:
    """Which keys some query may attend to; queries are asked in blocks where they are many."""
    *lead, num_queries, num_keys = shape
    keys = jnp.arange(num_keys, dtype=jnp.int32)

    def allowed(queries: Int[Array, " n"]) -> Allowed:
        return mask.evaluate(queries, keys, len(lead))

    def any_of(queries: Int[Array, " n"]) -> Bool[Array, "*lead keys"]:
        seen = jnp.any(allowed(queries), axis=-2)
        return jnp.broadcast_to(seen, (*seen.shape[:-1], num_keys))

    of_one = jax.eval_shape(allowed, keys[:1]).shape
    sizes = [size for size in of_one if isinstance(size, int)]  # in an export, some are symbols
    block = max(1, PAIRS_AT_ONCE // max(1, math.prod(sizes)))
    if not isinstance(num_queries, int) or num_queries <= block:
        return any_of(jnp.arange(num_queries, dtype=jnp.int32))

    def add(seen: Array, first: Array) -> tuple[Array, None]:
        queries = first + jnp.arange(block, dtype=jnp.int32)
        return seen | any_of(jnp.minimum(queries, num_queries - 1)), None

    initial = jnp.zeros((*of_one[:-2], num_keys), bool)
    return jax.lax.scan(add, initial, jnp.arange(0, num_queries, block, dtype=jnp.int32))[0]


def _parts(mask: Mask) -> list[Mask]:
    """The masks that a mask is the conjunction of."""
    return [*_parts(mask.left), *_parts(mask.right)] if isinstance(mask, Both) else [mask]


def _mask(other: Any) -> Mask:
    if not isinstance(other, Mask):
        raise ValueError(
            f"masks are combined with masks, not with {type(other).__name__}: wrap an array in"
            " masks.dense(…), and a function in masks.function(…)"
        )
    return other
