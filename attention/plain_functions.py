"""A plain function of a single query and a single key, for all pairs, with the arrays it needs."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr
from jax.typing import DTypeLike
from jaxtyping import Array, Int

from attention.forms import name_of
from attention.pairs import grid
from attention.pytrees import register_dataclass, static

Function = Callable[..., Any]

INDEX = jax.ShapeDtypeStruct((), jnp.int32)
# The sizes of a block to try a function on.
QUERIES, KEYS = 2, 3
BLOCK = [jax.ShapeDtypeStruct((size,), jnp.int32) for size in (QUERIES, KEYS)]

# What becomes of an array that is taken for one of Python's or NumPy's while it is traced.
NOT_TRACEABLE = (
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.TracerArrayConversionError,
)


class _NothingError(Exception):
    """A function returned None."""


@register_dataclass
@dataclass(frozen=True)
class Closed:
    """A traced function, and all arrays that it has closed over.

    A function that has closed over a traced array must not outlive that trace, as the rule of a
    derivative does; and of such arrays, `jax.closure_convert` leaves integers and booleans behind.
    """

    program: Jaxpr = static()
    arrays: list[Any]

    def __call__(self, *arguments: Array) -> Array:
        # A constant comes out as a number of NumPy's.
        return jnp.asarray(jax.core.eval_jaxpr(self.program, self.arrays, *arguments)[0])


def closed(function: Function, *examples: jax.ShapeDtypeStruct) -> Closed:
    """A function from arrays to an array that may enter a transformation with all that it needs.

    Args:
      function: what to call.
      examples: the shapes and dtypes of all arguments that it will get.
    """
    traced = jax.make_jaxpr(to_array(function))(*examples)
    return Closed(traced.jaxpr, traced.consts)


def is_pytree(function: Function) -> bool:
    """Whether a function brings its arrays along, as a module does."""
    return not jax.tree_util.all_leaves([function])


@register_dataclass
@dataclass(frozen=True)
class OfPairs:
    """A function of the indices of a single query and a single key, called with those of many.

    Attributes:
      function: a pytree.
      ndim: how many axes has what it returns for a pair.
      dtype: to return.
    """

    function: Function
    ndim: int = static()
    dtype: np.dtype = static()

    def __call__(
        self, query_index: Int[Array, "*batch n"], key_index: Int[Array, "*other m"]
    ) -> Array:
        """Axes of the batch, of what the function returns, of queries and of keys."""
        axes = ",".join(f"axis{k}" for k in range(self.ndim))
        lifted = jnp.vectorize(to_array(self.function), signature=f"(),()->({axes})")
        values = lifted(*grid(query_index, key_index))
        first = values.ndim - self.ndim - 2
        return jnp.moveaxis(values, (first, first + 1), (-2, -1)).astype(self.dtype)


class Value(NamedTuple):
    """What a function returns for a pair, and whether it takes blocks and not single pairs."""

    shape: tuple[int, ...]
    dtype: np.dtype
    by_block: bool


def value_of(argument: str, function: Function) -> Value:
    """What a function of indices returns for a pair.

    Args:
      argument: the name of the argument that the function was given for.
      function: from numbers i and j to a value, or from arrays `[n]` and `[m]` to `[..., n, m]`.

    Raises:
      ValueError: it is no such function.
    """
    with traceable(argument, function, "(i, j)"):
        value, by_block = result_of(function, [INDEX, INDEX], BLOCK)
    if not by_block:
        return Value((), value.dtype, by_block)
    sides = value.shape[-2:]
    if len(sides) < 2 or sides[0] not in (1, QUERIES) or sides[1] not in (1, KEYS):
        raise ValueError(
            f"{argument}={name_of(function)} must return a single value, shape (), for numbers"
            f" i and j; for arrays {[QUERIES]} and {[KEYS]} it returned shape {value.shape}"
        )
    return Value(value.shape[:-2], value.dtype, by_block)


def of_pairs(function: Function, value: Value, dtype: DTypeLike) -> OfPairs:
    """A function that returns such a value, as a pytree to call with the indices of many pairs."""

    def by_pair(query_index: Array, key_index: Array) -> Any:
        if not value.by_block:
            return function(query_index, key_index)
        return jnp.asarray(function(query_index[None], key_index[None]))[..., 0, 0]

    keep = is_pytree(function) and not value.by_block
    traced = function if keep else closed(by_pair, INDEX, INDEX)
    return OfPairs(traced, len(value.shape), np.dtype(dtype))


@contextlib.contextmanager
def traceable(argument: str, function: Function, arguments: str) -> Iterator[None]:
    """Says in a line what a plain function must do to be traced.

    Args:
      argument: the name of the argument that the function was given for.
      function: what is about to be traced.
      arguments: the names of its arguments, in parentheses.

    Raises:
      ValueError: it takes other arguments, treats them as Python's numbers, or returns nothing.
    """
    given = f"{argument}={name_of(function)}"
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some functions written in C have none
        signature = None
    if signature is not None:
        try:
            signature.bind(*arguments.split(","))
        except TypeError:
            raise ValueError(f"{given} must take {arguments}, and takes {signature}") from None
    try:
        yield
    except _NothingError:
        raise ValueError(f"{given} returned None, and no value") from None
    except NOT_TRACEABLE as error:
        raise ValueError(
            f"{given} is traced: write & | ~ for and, or, not; jnp.where(…) for if; and"
            " jnp.asarray(table)[i] for the table[i] of NumPy"
        ) from error


def result_of(
    function: Function, single: list[jax.ShapeDtypeStruct], block: list[jax.ShapeDtypeStruct]
) -> tuple[jax.ShapeDtypeStruct, bool]:
    """What a function returns for a single pair, or else for a block; and whether for a block.

    Args:
      function: of the arguments of a pair, to a number; or of those of a block.
      single: the arguments of a pair.
      block: the arguments of a block.
    """
    try:
        value = jax.eval_shape(to_array(function), *single)
    except (IndexError, TypeError, ValueError) as error:  # of numbers indexed as arrays are
        if isinstance(error, NOT_TRACEABLE):
            raise
        try:
            return jax.eval_shape(to_array(function), *block), True
        except (IndexError, TypeError, ValueError):
            if isinstance(error, IndexError):
                raise  # of a function of blocks
            raise error from None
    return (jax.eval_shape(to_array(function), *block), True) if value.shape else (value, False)


def to_array(function: Function) -> Callable[..., Array]:
    """A function that returns an array where the function returns a number of Python's."""

    def call(*arguments: Array) -> Array:
        returned = function(*arguments)
        if returned is None:
            raise _NothingError
        return jnp.asarray(returned)

    return call
