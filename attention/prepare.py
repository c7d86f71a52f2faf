"""From what a user gives to a request that every algorithm can read."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from attention import biases, masks, score_mods
from attention.algorithms.request import Request, check
from attention.biases import Bias
from attention.dropout import Dropout
from attention.forms import Form, SquaredDistance, by_key
from attention.masks import Mask
from attention.normalizers import Normalizer, find_normalizer
from attention.reach import reachable_keys, replaced
from attention.score_mods import ScoreMod


class Positions(NamedTuple):
    """Where queries and keys stand: `[n]`, or `[*batch, n]`; None for 0, 1, and so on."""

    queries: Int[Array, "*#batch queries"] | None = None
    keys: Int[Array, "*#batch keys"] | None = None

    def of(self, shape: tuple[int, ...]) -> "Positions":
        """The positions as arrays, for scores `[*lead, queries, keys]`; None stays None.

        Raises:
          ValueError: they are no integers, or do not fit the scores.
        """
        *lead, num_queries, num_keys = shape
        return Positions(
            _checked("query_positions", self.queries, num_queries, len(lead)),
            _checked("key_positions", self.keys, num_keys, len(lead)),
        )


def _checked(name: str, positions: Array | None, size: int, lead: int) -> Array | None:
    if positions is None:
        return None
    positions = jnp.asarray(positions)
    fits = 1 <= positions.ndim <= lead + 1 and positions.shape[-1] == size
    if not fits or not jnp.issubdtype(positions.dtype, jnp.integer):
        raise ValueError(
            f"{name} must be integers [{size}] or [batch, {size}], got {positions.dtype} of shape"
            f" {positions.shape}"
        )
    return positions


def prepared(
    form: Form,
    values: Array,
    mask: Any,
    bias: Any,
    score_mod: Any,
    normalizer: str | Normalizer,
    dropout: Dropout | None,
    positions: Positions,
) -> Request:
    """The request of a call of `attend`, whose arguments these are.

    Raises:
      ValueError: an argument is not what it has to be, or does not fit the others.
    """
    request = Request(form, values, None, None, find_normalizer(normalizer), dropout=dropout)
    check(request)
    mask, bias, score_mod = pair_functions(mask, bias, score_mod, positions, request.shape)
    return dataclasses.replace(request, mask=mask, bias=bias, score_mod=score_mod)


def cleaned(request: Request) -> Request:
    """The request, with keys and values that no query may attend to replaced by others."""
    if request.is_empty:
        return request
    reachable = reachable_keys(request.mask, request.bias, request.shape)
    form, values = only_reachable(request.form, request.values, reachable)
    return dataclasses.replace(request, form=form, values=values)


def pair_functions(
    mask: Any, bias: Any, score_mod: Any, positions: Positions, shape: tuple[int, ...]
) -> tuple[Mask | None, Bias | None, ScoreMod | None]:
    """Mask, bias and score_mod as pytrees that algorithms can evaluate, for scores of a shape."""
    mask, bias = masks.as_mask(mask, shape), biases.as_bias(bias, shape)
    score_mod = score_mods.as_score_mod(score_mod)
    where, lead = positions.of(shape), len(shape) - 2
    return (
        None if mask is None else mask.at(*where),
        biases.at(bias, *where, lead),
        score_mods.at(score_mod, *where, lead),
    )


def only_reachable(form: Form, values: Any, reachable: Array | None) -> tuple[Form, Any]:
    """A form and values whose keys that no query may attend to are copies of others.

    A squared distance becomes an inner product on the way, for its center is that of keys that
    count.
    """
    if reachable is not None:
        form = dataclasses.replace(form, **replaced(by_key(form), reachable))
        values = replaced(values, reachable)
    if isinstance(form, SquaredDistance):
        form = form.centered(reachable)
    return form, values
