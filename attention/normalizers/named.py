"""Normalizers by name, and from what a user gives to what `attend` can call."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import jax
from flax import nnx
from jaxtyping import PyTree

from attention.forms import name_of
from attention.names import find_named
from attention.normalizers.adaptive import ASEntmax, ScaledEntmax
from attention.normalizers.contract import Normalizer
from attention.normalizers.own import Guarded
from attention.normalizers.sinks import LearnedSink, SoftmaxWithSink
from attention.normalizers.smooth import Sigmoid, Softmax, sigmoid, softmax
from attention.normalizers.sparse import entmax15, sparsemax

# Normalizers, and classes that are made for a layer, see `make_normalizer`.
NORMALIZERS: dict[str, Normalizer | Callable[..., Any]] = {
    "softmax": softmax,
    "sigmoid": sigmoid,
    "sparsemax": sparsemax,
    "entmax15": entmax15,
    "softmax_one": SoftmaxWithSink(),
    "softmax_sink": LearnedSink,
    "asentmax": ASEntmax,
}
SPARSE = (sparsemax, entmax15)  # whose weights can be zero, and then pass on no gradient
KEEPING_THE_CONTRACT = (Softmax, Sigmoid, SoftmaxWithSink, ScaledEntmax, Guarded)


def find_normalizer(
    normalizer: str | Normalizer, choices: Iterable[str] | None = None
) -> Normalizer:
    """The normalizer of a name, or a user's own function with a guard around it.

    Args:
      normalizer: a key of `NORMALIZERS`; a normalizer of this package; or the user's own function
        `(scores, where) -> weights` over the last axis, see `Guarded`: a pytree, such as an
        `nnx.Module`, or else hashable. A function that is made anew for every call is compiled
        anew for every call.
      choices: the names that the message lists where this name is unknown; None for all that
        need not be made.

    Raises:
      ValueError: the name is unknown; it is that of a class, which must be made first, and read
        the queries; or what is no name cannot be called or hashed.
    """
    if choices is None:
        choices = [name for name, known in NORMALIZERS.items() if not _is_made(known)]
    found = _named(normalizer, choices)
    if _is_made(found):
        raise ValueError(
            f"normalizer={_shown(normalizer)} stands for a class, and attend takes an instance:"
            " Attention makes one, or attention.normalizers.make_normalizer(normalizer, query_dim,"
            " heads, rngs)"
        )
    if hasattr(found, "reading"):
        raise ValueError(
            f"normalizer={_shown(normalizer)} must read the queries first: Attention has it do so,"
            " or attention.normalizers.read_normalizer(normalizer, queries)"
        )
    _check(found)
    if isinstance(found, KEEPING_THE_CONTRACT) or found in (sparsemax, entmax15):
        return found
    return Guarded(found)


def make_normalizer(
    normalizer: str | Normalizer | Callable[..., Any], query_dim: int, heads: int, rngs: nnx.Rngs
) -> Any:
    """The normalizer of a layer: made where it has parameters, and checked before any call.

    Args:
      normalizer: what `find_normalizer` takes; or what makes such a normalizer when it is called
        with `(query_dim, heads, rngs=…)`: a name of `NORMALIZERS`, a class, a
        `functools.partial` of one with its options; or the path of any of these, `module:Name`.
      query_dim: size of a query.
      heads: number of heads.
      rngs: source of initial parameters.

    Returns:
      what `read_normalizer` takes, in each call of the layer.

    Raises:
      ValueError: there is no such normalizer, or it cannot be made.
    """
    found = _named(normalizer, NORMALIZERS)
    if _is_made(found):
        fault = _fault_of_maker(found)
        if fault is not None:
            raise ValueError(
                f"normalizer={_shown(normalizer)} is a class, and must be made by (query_dim,"
                f" heads, rngs=…), else pass an instance: {fault}"
            )
        found = found(query_dim, heads, rngs=rngs)
    if not hasattr(found, "reading"):
        _check(found)
    return found


def read_normalizer(normalizer: Any, queries: PyTree) -> Normalizer:
    """What `make_normalizer` returned, as `attend` takes it.

    A normalizer whose parameters must be put beside the scores, or that looks at the query, has a
    method `reading(queries)`, which returns a normalizer without parameters: a pytree whose
    leaves have the axes of the scores.

    Args:
      normalizer: of a layer.
      queries: as the layer is given them, `[*batch, queries, query_dim]`.
    """
    return normalizer.reading(queries) if hasattr(normalizer, "reading") else normalizer


def normalizer_name(normalizer: Normalizer) -> str:
    """The key in `NORMALIZERS` of a normalizer, or the name that its author gave it."""
    function = normalizer.function if isinstance(normalizer, Guarded) else normalizer
    names = {known: name for name, known in NORMALIZERS.items()}
    try:
        return names[function]
    except (KeyError, TypeError):  # a pytree of arrays cannot be hashed
        return name_of(function)


def _named(normalizer: Any, choices: Iterable[str]) -> Any:
    if not isinstance(normalizer, str):
        return normalizer
    if normalizer in NORMALIZERS or ":" in normalizer:
        return find_named("normalizer", NORMALIZERS, normalizer)
    raise ValueError(f"normalizer={normalizer!r} is unknown; choose {', '.join(choices)}")


def _is_made(found: Any) -> bool:
    """Whether it makes a normalizer, instead of being one."""
    if isinstance(_without_options(found), type):
        return True
    return _fault_of_maker(found) is None and _fault_of_normalizer(found) is not None


def _fault_of_maker(found: Any) -> str | None:
    """Why it cannot be called to make a normalizer, if it cannot."""
    try:
        _bind(found, None, None, rngs=None)
    except (TypeError, ValueError) as error:
        return str(error)
    return None


def _fault_of_normalizer(found: Any) -> str | None:
    """Why it cannot be called on scores, or be part of a compiled program's key, if it cannot."""
    try:
        _bind(found, None, where=None)
        if jax.tree_util.all_leaves([found]):
            hash(found)
    except (TypeError, ValueError) as error:
        return str(error)
    return None


def _bind(found: Any, *arguments: Any, **named: Any) -> None:
    """Raises a TypeError where a function, a class, or a partial of one, cannot be called so."""
    function = _without_options(found)
    if isinstance(found, functools.partial):
        arguments, named = (*found.args, *arguments), found.keywords | named
    if isinstance(function, type) and function.__init__ is not object.__init__:
        # The class of an `nnx.Module` tells the signature of its metaclass.
        function, arguments = function.__init__, (None, *arguments)
    inspect.signature(function).bind(*arguments, **named)


def _without_options(found: Any) -> Any:
    return found.func if isinstance(found, functools.partial) else found


def _check(normalizer: Any) -> None:
    if not callable(normalizer):
        raise ValueError(
            f"normalizer={normalizer!r} is neither a name nor a function (scores, where) -> weights"
        )
    fault = _fault_of_normalizer(normalizer)
    if fault is not None:
        raise ValueError(
            f"normalizer={_shown(normalizer)} must be hashable, or a pytree, and be called as"
            f" (scores, where=…) -> weights: {fault}"
        )


def _shown(normalizer: Any) -> str:
    """A normalizer in a message, which is one line however many arrays it has."""
    if isinstance(normalizer, str):
        return repr(normalizer)
    if isinstance(normalizer, nnx.Module):
        return type(normalizer).__name__
    return getattr(normalizer, "__qualname__", None) or " ".join(repr(normalizer).split())
