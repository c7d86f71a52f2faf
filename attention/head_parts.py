"""What belongs to the heads of a layer, made from whatever a user gives: scores, biases, more."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import Partial, all_leaves
from jaxtyping import Array, PyTree

from attention.forms import Form, form_of, name_of
from attention.names import find_named
from attention.pytrees import register_dataclass
from attention.score_mods import GivenScoreMod, OfScores, ScoreMod, as_score_mod
from attention.scores import check_score, find_score


def score_of(score: str | Callable[..., Any]) -> Callable[..., Any]:
    """A score class, factory or plain function: as it was given, or by its name.

    Raises:
      ValueError: the name is unknown, or what is given is none of these.
    """
    if isinstance(score, str):
        return find_score(score)
    if isinstance(score, nnx.Module):
        raise ValueError(
            f"score is an instance of {type(score).__name__}; pass the class, so that each"
            " head can make its own"
        )
    if not callable(score):
        raise ValueError(f"score={score!r}: must be a name, a class or a function")
    return score


def is_factory(made: Callable[..., Any]) -> bool:
    """Whether a call makes what is wanted: that of a class, or of a function that takes `rngs`."""
    inner = made.func if isinstance(made, functools.partial) else made
    return isinstance(inner, type) or "rngs" in _signature(made).parameters


def make_scores(
    score: Callable[..., Any],
    query_dim: int,
    key_dim: int,
    heads: int,
    rngs: nnx.Rngs,
    options: Mapping[str, Any],
) -> Any:
    """The heads' scores as one module whose parameters have a leading head axis.

    Raises:
      ValueError: the score cannot be made, or what is made changes itself when called.
    """
    _check_call("score", score, query_dim, key_dim, rngs=rngs, **options)

    def make(key: Array) -> Any:
        made = score(query_dim, key_dim, rngs=nnx.Rngs(key), **options)
        if not callable(made) or all_leaves([made]):
            raise ValueError(
                f"score {_name(score)} must make a module that is called with a query and a key,"
                f" got {made!r}"
            )
        return made

    made = jax.vmap(make)(jax.random.split(rngs.params(), heads))
    check_score(made)
    return made


def share_function(score: Callable[..., Any], options: Mapping[str, Any]) -> Partial:
    """A plain score function that all heads share, as a pytree without leaves.

    Raises:
      ValueError: the function cannot be called with a query, a key and the options.
    """
    _check_call("score", score, None, None, **options)
    return Partial(_WithOptions(score, options) if options else score)


def form_of_head(score: Callable[..., Any], queries: PyTree, keys: PyTree) -> Form:
    """The scores of a head's pairs, by a score of `make_scores` or `share_function`."""
    return form_of(score.func if isinstance(score, Partial) else score, queries, keys)


def make_part(
    name: str, part: Any, choices: Mapping[str, Callable[..., Any]], heads: int, rngs: nnx.Rngs
) -> Any:
    """A bias or score_mod for a module to hold.

    Args:
      name: of the argument, for messages.
      part: a class or factory, called with `(heads, rngs=…)`; the name of one; or what is made
        already: a pytree, an array or a plain function.
      choices: what the names stand for.
      heads: number of heads.
      rngs: source of initial parameters.

    Raises:
      ValueError: the name is unknown, or the class is not made so.
    """
    if isinstance(part, str):
        part = find_named(name, choices, part)
    if callable(part) and is_factory(part):
        _check_call(name, part, heads, rngs=rngs)
        part = part(heads, rngs=rngs)
    return held(part)


def chained(*parts: GivenScoreMod) -> ScoreMod | None:
    """A score_mod that applies one after another; None where all are None."""
    score_mods = [each for part in parts if (each := as_score_mod(part)) is not None]
    if len(score_mods) < 2:
        return score_mods[0] if score_mods else None
    return OfScores(_Chain(tuple(score_mods)), by_block=True, dtype=None)


@register_dataclass
@dataclass(frozen=True)
class _Chain:
    """Score mods of the scores of a block, applied one after another."""

    parts: tuple[ScoreMod, ...]

    def __call__(self, scores: Array, query_index: Array, key_index: Array) -> Array:
        for part in self.parts:
            scores = part(scores, query_index, key_index)
        return scores


def held(part: Any) -> Any:
    """An attribute of a module: arrays and pytrees are its data, a plain function is not."""
    if isinstance(part, np.ndarray):
        part = jnp.asarray(part)
    return part if callable(part) and all_leaves([part]) else nnx.data(part)


def options_of(score: Callable[..., Any]) -> str:
    """The options of a score, in the words of a message."""
    # The first two are query and key, or their sizes.
    names = [name for name, _ in _named(score)[2:] if name != "rngs"]
    return f"options of {_name(score)}: {', '.join(names) or 'none'}"


def unknown_options(score: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that a score does not take."""
    parameters = _signature(score).parameters
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return {}
    known = dict(_named(score))
    return {name: value for name, value in options.items() if name not in known}


def _check_call(kind: str, called: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
    try:
        _signature(called).bind(*args, **kwargs)
    except TypeError as error:
        what = "made" if is_factory(called) else "called"
        raise ValueError(f"the {kind} {_name(called)} cannot be {what}: {error}") from None


def _name(function: Callable[..., Any]) -> str:
    return name_of(function.func if isinstance(function, functools.partial) else function)


def _named(function: Callable[..., Any]) -> list[tuple[str, inspect.Parameter]]:
    """The arguments that can be given by name."""
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = _signature(function).parameters.items()
    return [(name, each) for name, each in parameters if each.kind in kinds]


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    if isinstance(function, functools.partial):
        # `inspect` tells what is left of the arguments of something with the inner signature.
        def inner(*args: Any, **kwargs: Any) -> None: ...

        inner.__signature__ = _signature(function.func)  # type: ignore[attr-defined]
        return inspect.signature(functools.partial(inner, *function.args, **function.keywords))
    if isinstance(function, type):
        # The metaclass of nnx modules hides the arguments of `__init__`.
        signature = inspect.signature(function.__init__)  # type: ignore[misc]
        return signature.replace(parameters=list(signature.parameters.values())[1:])
    try:
        return inspect.signature(function)
    except ValueError:  # not written in Python
        return inspect.signature(lambda *args, **kwargs: None)


@dataclass(frozen=True)
class _WithOptions:
    """A plain score function and its options, which are no parameters.

    Unlike those of `functools.partial`, two of the same function and options are equal: so are the
    structures of their layers.
    """

    function: Callable[..., Any]
    options: Mapping[str, Any]

    @property
    def __name__(self) -> str:
        return name_of(self.function)

    def __hash__(self) -> int:
        return hash(self.function)

    def __call__(self, query: PyTree, key: PyTree) -> Array:
        return self.function(query, key, **self.options)
