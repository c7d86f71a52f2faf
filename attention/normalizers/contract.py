"""The contract of `attention.normalizers`, kept on behalf of a function that knows no mask."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from attention.forms import accumulator

Normalizer = Callable[..., Array]
Scores = Float[Array, "*lead keys"]
Weights = Float[Array, "*lead keys"]
Where = Bool[Array, "*#lead #keys"] | None


def over_allowed(function: Callable[[Array], Array], scores: Scores, where: Where) -> Weights:
    """The weights that a function gives, of scores that are −inf where a key is masked.

    Minus infinity, for the lowest finite number may be the score of an allowed key.

    Args:
      function: from scores, at least float32, to weights that are zero, and pass on no gradient,
        where a score is −inf; in a row of nothing else too.
      scores: of any floating dtype, which the weights will have.
      where: which keys are allowed; None for all whose score is not −inf.
    """
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise ValueError(f"scores must be floating, got {scores.dtype} of shape {scores.shape}")
    wide = scores.astype(accumulator(scores.dtype))
    if where is not None:
        wide = jnp.where(jnp.broadcast_to(where, scores.shape), wide, -jnp.inf)
    return function(wide).astype(scores.dtype)


def over_rows_with_keys(function: Callable[[Array], Array], scores: Scores) -> Weights:
    """The weights that a function gives, zero in each row that is −inf alone.

    Args:
      function: from scores to weights, which may fail in such a row: it arrives as zeros.
      scores: −inf where masked.
    """
    some = jnp.any(scores != -jnp.inf, axis=-1, keepdims=True)
    return jnp.where(some, function(jnp.where(some, scores, 0.0)), 0.0)


def count_allowed(scores: Scores) -> Float[Array, "*lead 1"]:
    """How many keys of a row are allowed: those with a score above −inf, or with NaN."""
    return jnp.sum(scores != -jnp.inf, axis=-1, keepdims=True, dtype=jnp.int32).astype(scores.dtype)


def beside(parameter: Array, name: str, shape: tuple[int, ...], behind: int = 1) -> Array:
    """A parameter, with axes that broadcast against those of an array.

    Args:
      parameter: an array whose axes are the last of those before the last `behind` axes of the
        array; none, for a number.
      name: of the parameter, for the error message.
      shape: of the array, such as `(batch, heads, queries, keys)`.
      behind: how many axes of the array the parameter does without, at the end.

    Raises:
      ValueError: the array has no such axes.
    """
    before = len(shape) - behind - parameter.ndim
    axes = (*(1,) * before, *parameter.shape, *(1,) * behind)
    if before < 0 or any(own not in (1, size) for own, size in zip(axes, shape, strict=True)):
        raise ValueError(f"{name} of shape {parameter.shape} does not fit scores of shape {shape}")
    return parameter.reshape(axes)
