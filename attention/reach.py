"""Keys that no query may attend to: whatever they hold must reach neither a value nor a gradient.

A weight of zero is not enough for that, since zero times NaN is NaN, and since what a score makes
of an infinite key may have no derivative. So such keys are replaced before anything is computed.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, PyTree

from attention.biases import Bias, is_finite
from attention.masks import Mask
from attention.pairs import align_right
from attention.pytrees import register_dataclass, static


@register_dataclass
@dataclass(frozen=True)
class Finite(Mask):
    """Query i may attend to key j where a bias is above −∞.

    Attributes:
      bias: of positions.
      lead: how many leading axes the scores have.
    """

    bias: Bias
    lead: int = static()

    def __call__(
        self, query_index: Int[Array, " n"], key_index: Int[Array, " m"]
    ) -> Bool[Array, "*lead #n #m"]:
        return align_right(self.bias(query_index, key_index) > -jnp.inf, self.lead + 2)


def reachable_keys(
    mask: Mask | None, bias: Bias | None, shape: tuple[int, ...]
) -> Bool[Array, "*lead keys"] | None:
    """Which keys some query may attend to; None for all.

    Args:
      mask: which query may attend to which key.
      bias: what positions add to the scores; −∞ means that the query may not attend to the key.
      shape: of all scores, `(*lead, queries, keys)`. The leading axes of the result may be of
        size 1.
    """
    if bias is not None and not is_finite(bias):
        finite = Finite(bias, len(shape) - 2)
        mask = finite if mask is None else mask & finite
    return None if mask is None else mask.reachable(shape)


def replaced(
    tree: PyTree, reachable: Bool[Array, "*lead keys"] | None, *, by_copies: bool = True
) -> PyTree:
    """Arrays in which every row that is not reachable is a copy of the first that is.

    A copy, for of a row of zeros a score need not have a derivative. Where no row is reachable, all
    are ones.

    Args:
      tree: arrays `[*lead, keys, …]`.
      reachable: which rows some query may attend to; axes of size 1 stand for any size. None
        for all.
      by_copies: whether to take copies; if not, all rows out of reach are ones. To find a row
        among keys that several devices share would take all of them together.
    """
    if reachable is None:
        return tree
    axis = reachable.ndim - 1
    first = jnp.argmax(reachable, axis=axis, keepdims=True)
    some = jnp.any(reachable, axis=axis, keepdims=True)

    def replace(leaf: Array) -> Array:
        def beside(array: Array) -> Array:
            return jnp.expand_dims(array, tuple(range(axis + 1, leaf.ndim)))

        instead = jnp.ones((), leaf.dtype)
        if by_copies:
            row = lax.stop_gradient(jnp.take_along_axis(leaf, beside(first), axis=axis))
            instead = jnp.where(beside(some), row, instead)
        return jnp.where(beside(reachable), leaf, instead)

    return jax.tree.map(replace, tree)
