"""Normalizers: from scores to weights, over the last axis.

A normalizer is a function `(scores, where=None) -> weights`. Of a plain function, such as
`sparsemax`, nothing more is known, and so it is served by algorithms that hold all scores of a
query at once. `Softmax` and `Sigmoid` are classes, for more is known of them: by their type an
algorithm sees that keys can be taken tile by tile, or device by device.

All normalizers here share a contract. `where` broadcasts against the scores; a key it rules out
might as well be absent: its weight and its gradient are zero. A row with no allowed key has
weights zero and gradient zero. Half precision is widened to float32 inside, and the weights
have the dtype of the scores.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from attention.forms import name_of

Normalizer = Callable[..., Array]
Scores = Float[Array, "*lead keys"]
Weights = Float[Array, "*lead keys"]
Where = Bool[Array, "*#lead #keys"] | None


@dataclass(frozen=True)
class Softmax:
    """`exp(s_j) / Σ exp(s_j)`.

    Contexts of some keys and of others can be merged by the logarithms of their sums: that is
    how `streaming`, `prefix` and `sharded` go through the keys part by part.
    """

    def __call__(self, scores: Scores, where: Where = None) -> Weights:
        return _over_allowed(jax.nn.softmax, scores, where)


@dataclass(frozen=True)
class Sigmoid:
    """`σ(s_j − log n)` for `n` allowed keys (arXiv 2409.04431).

    Each key is weighed by itself: the weights of a row do not sum to one, though thanks to
    `log n` they come near it at scores near zero. So contexts of some keys and of others can be
    added, once `n` is known: `among` takes it from whoever has counted.
    """

    def __call__(self, scores: Scores, where: Where = None) -> Weights:
        allowed = jnp.broadcast_to(True if where is None else where, scores.shape)
        num_keys = jnp.sum(allowed, axis=-1, keepdims=True)
        return _over_allowed(lambda s: self.among(s, num_keys), scores, where)

    def among(self, scores: Scores, num_keys: Shaped[Array, "*#lead 1"]) -> Weights:
        """`σ(s_j − log n)` with `n` given, for whoever sees a part of the keys; `n = 0` will do."""
        return jax.nn.sigmoid(scores - jnp.log(jnp.maximum(num_keys, 1).astype(scores.dtype)))


softmax = Softmax()
sigmoid = Sigmoid()


def sparsemax(scores: Scores, where: Where = None) -> Weights:
    """`[s_j − τ]₊`, with `τ` such that they sum to one (arXiv 1602.02068).

    It is the point of the simplex nearest to the scores, and often on its boundary: keys
    far enough below the best have weight zero.
    """
    return _over_allowed(_sparsemax, scores, where)


def entmax15(scores: Scores, where: Where = None) -> Weights:
    """`[s_j/2 − τ]₊²`, with `τ` such that they sum to one (arXiv 1905.05702).

    Tsallis entmax with α = 3/2, halfway between softmax (1) and sparsemax (2).
    """
    return _over_allowed(lambda s: jnp.square(_entmax15_roots(s)), scores, where)


def _over_allowed(function: Callable[[Array], Array], scores: Scores, where: Where) -> Weights:
    """The contract above, for a `function` of finite scores, at least float32, without mask."""
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise ValueError(f"scores must be floating, got {scores.dtype} of shape {scores.shape}")
    wide = scores.astype(jnp.float32) if jnp.finfo(scores.dtype).bits < 32 else scores
    if where is None:
        return function(wide).astype(scores.dtype)
    where = jnp.broadcast_to(where, scores.shape)
    # The lowest finite number, not −inf: a row of −inf would be NaN, forward or backward.
    weights = function(jnp.where(where, wide, jnp.finfo(wide.dtype).min))
    return jnp.where(where, weights, 0.0).astype(scores.dtype)


@jax.custom_jvp
def _sparsemax(scores: Scores) -> Weights:
    x = _below_best(scores)

    def rise(state: tuple[Array, Array]) -> tuple[Array, Array]:
        threshold, _ = state
        above = (x > threshold).astype(x.dtype)
        total, count = (jnp.sum(a, axis=-1, keepdims=True) for a in (x * above, above))
        higher = jnp.maximum(threshold, (total - 1) / count)
        return higher, jnp.any(higher > threshold)

    # Michelot (1986): of the keys above a threshold that is too low, the threshold is higher, but
    # not too high; it is right when no key falls out. A few such turns cost far less than a sort.
    lowest = jnp.full_like(x[..., :1], -1)
    threshold, _ = jax.lax.while_loop(lambda state: state[1], rise, (lowest, jnp.array(True)))
    return jnp.maximum(x - threshold, 0)


@_sparsemax.defjvp
def _sparsemax_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """`dp_j = ds_j − (mean of ds over the support)`, on the support."""
    weights = _sparsemax(*primals)
    return weights, _less_mean(*tangents, (weights > 0).astype(weights.dtype))


@jax.custom_jvp
def _entmax15_roots(scores: Scores) -> Weights:
    """The square roots `[s_j/2 − τ]₊` of the weights: unlike a root, a square is smooth at 0."""
    x = _below_best(scores / 2)
    # τ(k) = mean − √((1 − scatter) / k) solves (x₁ − τ)² + … + (x_k − τ)² = 1. The threshold
    # is the greatest of those that leave their k keys above them.
    best, counts = jnp.sort(x, axis=-1, descending=True), _counts(x)
    mean = jnp.cumsum(best, axis=-1) / counts
    scatter = jnp.cumsum(best**2, axis=-1) - counts * mean**2
    thresholds = mean - jnp.sqrt(jnp.maximum(1 - scatter, 0) / counts)
    threshold = jnp.max(thresholds, -1, keepdims=True, initial=-1, where=thresholds <= best)
    # The scatter has suffered from cancellation: one step of Newton's method repairs that.
    roots = jnp.maximum(x - threshold, 0)
    slope = 2 * jnp.sum(roots, axis=-1, keepdims=True)
    excess = jnp.sum(roots**2, axis=-1, keepdims=True) - 1
    return jnp.maximum(x - threshold - excess / slope, 0)


@_entmax15_roots.defjvp
def _entmax15_roots_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """`2 dr_j = ds_j − (mean of ds, weighted by the roots)`, on the support."""
    roots = _entmax15_roots(*primals)
    return roots, _less_mean(*tangents, roots) / 2


def _less_mean(tangent: Array, measure: Array) -> Array:
    """The tangent less its mean under `measure`, where that is positive; zero elsewhere."""
    mean = jnp.average(tangent, axis=-1, weights=measure, keepdims=True)
    return jnp.where(measure > 0, tangent - mean, 0)


def _below_best(x: Scores) -> Scores:
    """`x` less its maximum. What falls below −1 becomes −1: `τ` is no less, its weight zero."""
    return jnp.maximum(x - jnp.max(x, axis=-1, keepdims=True, initial=-jnp.inf), -1)


def _counts(x: Scores) -> Scores:
    """1, 2, … along the last axis."""
    return jax.lax.broadcasted_iota(x.dtype, x.shape, x.ndim - 1) + 1


NORMALIZERS: dict[str, Normalizer] = {
    "softmax": softmax,
    "sigmoid": sigmoid,
    "sparsemax": sparsemax,
    "entmax15": entmax15,
}
SPARSE = (sparsemax, entmax15)  # whose weights can be zero, and then pass on no gradient


@dataclass(frozen=True)
class Guarded:
    """A user's own normalizer, made to keep the contract of this module under every mask.

    Whatever the function returns for a masked key becomes a weight of zero, with gradient zero.

    Attributes:
      function: from scores, in float32 or better, and a mask of the same shape to weights. The
        scores of masked keys arrive as the lowest finite number. A row with no allowed key
        arrives as a row that allows all its keys, so that no sum over allowed keys is empty.
    """

    function: Normalizer

    def __call__(self, scores: Scores, where: Where = None) -> Weights:
        allowed = jnp.broadcast_to(True if where is None else where, scores.shape)
        shown = allowed | ~jnp.any(allowed, axis=-1, keepdims=True)

        def weigh(scores: Array) -> Array:
            weights = self.function(scores, where=shown)
            if weights.shape != scores.shape:
                raise ValueError(
                    f"a normalizer must return one weight for each score, shape {scores.shape};"
                    f" {name_of(self.function)} returned shape {weights.shape}"
                )
            return weights

        return _over_allowed(weigh, scores, where)


def find_normalizer(
    normalizer: str | Normalizer, choices: Iterable[str] | None = None
) -> Normalizer:
    """The normalizer of a name, or a user's own function with a guard around it.

    Args:
      normalizer: a key of `NORMALIZERS`; a normalizer of this module; or the user's own
        hashable function `(scores, where) -> weights` over the last axis, see `Guarded`. A
        function that is made anew for every call is compiled anew for every call.
      choices: the names that the message lists where this name is unknown; None for all.

    Raises:
      ValueError: the name is unknown, or what is no name cannot be called or hashed.
    """
    if isinstance(normalizer, str):
        if normalizer not in NORMALIZERS:
            choices = ", ".join(choices or NORMALIZERS)
            raise ValueError(f"normalizer={normalizer!r} is unknown; choose {choices}")
        normalizer = NORMALIZERS[normalizer]
    if not callable(normalizer):
        raise ValueError(
            f"normalizer={normalizer!r} is neither a name nor a function (scores, where) -> weights"
        )
    try:
        hash(normalizer)
        inspect.signature(normalizer).bind(None, where=None)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"normalizer={getattr(normalizer, '__qualname__', normalizer)} must be hashable, and be"
            f" called as (scores, where=…) -> weights: {error}"
        ) from error
    guards_itself = isinstance(normalizer, (Softmax, Sigmoid, Guarded))
    if guards_itself or normalizer in (sparsemax, entmax15):
        return normalizer
    return Guarded(normalizer)


def normalizer_name(normalizer: Normalizer) -> str:
    """The key in `NORMALIZERS` of a normalizer, or the name that its author gave it."""
    function = normalizer.function if isinstance(normalizer, Guarded) else normalizer
    names = (name for name, known in NORMALIZERS.items() if known == function)
    return next(names, name_of(function))
