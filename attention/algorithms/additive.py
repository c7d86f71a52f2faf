"""The scores of the `Additive` form, without an array of `[queries, keys, hidden]`.

`s_ij = Σ_h readout_h · activation(q_ih + k_jh)` is computed in sweeps: a running sum to which
every turn adds a group of terms, none of which meets memory. Three things make them cheap:

- *tanh is a reciprocal in disguise*: `tanh(q + k) = 1 − 2r` with `r = 1 / (1 + e^2q e^2k)`. The
  exponentials are per row and per column, and two terms share one division, the slow
  operation: `1/a = b / ab` and `1/b = a / ab`. That is exact; `_centered` guards it from
  overflow.
- *the derivative needs no tanh either*: `d tanh = 4 (r − r²)`.
- *the cotangents of queries, keys and readout are summed in three sweeps.* `_tangent` is written
  as three sums, over keys, queries and readout, whose transposes add up whole arrays,
  elementwise. A single sum for all three would reduce over the last axis, which is slow wherever
  vectors are processed.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from attention.algorithms.dense import mix
from attention.algorithms.request import Request
from attention.forms import Activation, Additive, accumulator

KEEPS_PAIRS = True  # the scores and the weights, but no array of terms

# A pair takes so many times as long as in a whole array of terms that fits into the caches: more
# than in tiles, whose scores are computed by the loops of this file too, and less than in a whole
# array of terms beyond the caches.
PAIR_COST = 3.0

Pair = tuple[Array, Array]

# Terms that a turn of a loop adds up. On a CPU, XLA does not vectorize loops whose turns have
# fewer: they take five times as long.
GROUP = 16


def obstacle(request: Request) -> str | None:
    """Any request, as long as its form is `Additive` and its sizes are numbers."""
    if not isinstance(request.form, Additive):
        return f"the form must be Additive, not {type(request.form).__name__}"
    if not request.has_fixed_sizes:
        return f"every size must be a number to choose an axis by, not {request.shape}"
    return None


def cost(request: Request, platform: str) -> float:
    """That of every pair, whatever the number of its terms, which all algorithms have to add up."""
    return PAIR_COST * request.pairs


def attend(request: Request) -> Float[Array, "*lead queries value_dim"]:
    """The context of every query, with all scores at once, but not all terms."""
    return mix(scores, request)[0]


def scores(form: Additive) -> Float[Array, "batch queries keys"]:
    """`form.scores()` for each element of a batch, in float32 or better."""
    queries, keys, readout = form.queries, form.keys, form.readout[:, None, :]
    batch, num_queries, _ = queries.shape
    # Vectors run along the last axis: let that axis be long.
    axis = 1 if batch >= max(num_queries, keys.shape[1]) else 2
    if form.activation is jnp.tanh:
        units, (queries, keys, regime) = _TANH, _centered(queries, keys)
    else:
        units, regime = (_elementwise(form.activation),), jnp.zeros((), jnp.int32)
    arrays = (_hidden_first(array, axis) for array in (queries, keys, readout))
    sums = _scores(units, axis, regime, *arrays)
    return jnp.moveaxis(sums, -1, 0) if axis == 1 else sums


def _hidden_first(array: Float[Array, "batch n hidden"], axis: int) -> Array:
    """`[hidden, …]`, with `n` at `axis`, which is 1 or 2, and the batch at the other of the two."""
    array = jnp.transpose(array, (2, 1, 0) if axis == 1 else (2, 0, 1))
    return array.astype(accumulator(array.dtype))


def _centered(
    queries: Float[Array, "batch queries hidden"], keys: Float[Array, "batch keys hidden"]
) -> tuple[Array, Array, Int[Array, ""]]:
    """Queries and keys shifted against each other, and the first of `_TANH` that is exact for them.

    The sums stay what they are: `q + k = (q − c) + (k + c)` for any c. With the middle of a hidden
    unit's queries for c, the shifted queries reach to about half the spread of the queries. For a
    unit whose shifted queries still reach too far, c is zero: there `k + c` would lose digits of
    sums that count.

    Returns:
      The shifted queries, the shifted keys, and an index into `_TANH`.
    """
    dtype = accumulator(queries.dtype, keys.dtype)
    queries, keys = queries.astype(dtype), keys.astype(dtype)
    top, bottom = (lax.stop_gradient(f(queries, axis=1, keepdims=True)) for f in (jnp.max, jnp.min))
    center = top / 2 + bottom / 2
    reach = jnp.maximum(top - center, center - bottom)
    center = jnp.where(reach < _FAR, center, 0.0)
    # Below, not at the limits: there a cut has the derivative 1/2. NaN: the last.
    reach = jnp.max(reach, initial=0.0)
    regime = jnp.where(reach < _NEAR, 0, jnp.where(reach < _FAR, 1, 2))
    return queries - center, keys + center, _unbatched(regime)


# Units: how an activation is computed.


@dataclass(frozen=True)
class _Unit:
    """A way to compute `activation(q + k)`, two terms at a time.

    With terms `t = join(x, y)` of prepared queries and keys, the activation is
    `offset + factor · values(t)` and its derivative `slope_factor · slopes(t)`: what all
    terms have in common is done once, to their sum.

    Attributes:
      prepare: once a row and once a column.
      join: once a pair; symmetric.
      values, slopes: of two terms.
      mix: the values of two terms, weighted by the second argument, and added.
    """

    prepare: Callable[[Array, Array], Pair]
    join: Callable[[Array, Array], Array]
    values: Callable[[Pair], Pair]
    slopes: Callable[[Pair], Pair]
    mix: Callable[[Pair, Pair], Array]
    offset: float = 0.0
    factor: float = 1.0
    slope_factor: float = 1.0


@functools.cache
def _elementwise(activation: Activation) -> _Unit:
    """The unit of any activation, which computes it as it is written."""

    def slope(term: Array) -> Array:
        return jax.jvp(activation, (term,), (jnp.ones_like(term),))[1]

    def values(terms: Pair) -> Pair:
        return activation(terms[0]), activation(terms[1])

    return _Unit(
        prepare=lambda queries, keys: (queries, keys),
        join=lambda x, y: x + y,
        values=values,
        slopes=lambda terms: (slope(terms[0]), slope(terms[1])),
        mix=lambda terms, weights: _weighted(values(terms), weights),
    )


def _weighted(values: Pair, weights: Pair) -> Array:
    return weights[0] * values[0] + weights[1] * values[1]


def _reciprocal(
    reciprocals: Callable[[Pair], Pair],
    mix: Callable[[Pair, Pair], Array],
    *,
    query_limit: float,
    key_limit: float,
) -> _Unit:
    """A unit of tanh by reciprocals: `tanh(q + k) = 1 − 2r`.

    The limits keep products of exponentials finite, and no sum that tanh tells from ±1
    is touched: where a key is cut off, `|q + k| > key_limit − query_limit`, which is at least
    10 in float32 and 24 in float64.
    """

    def prepare(queries: Array, keys: Array) -> Pair:
        largest = key_limit if keys.dtype == jnp.float32 else _DOUBLE_KEY_LIMIT
        x = jnp.clip(queries, -query_limit, query_limit)
        y = jnp.clip(keys, -largest, largest)
        return jnp.exp(2 * x), jnp.exp(2 * y)

    def slopes(terms: Pair) -> Pair:
        r, s = reciprocals(terms)
        return r - r * r, s - s * s

    return _Unit(
        prepare=prepare,
        join=lambda x, y: 1 + x * y,
        values=reciprocals,
        slopes=slopes,
        mix=mix,
        offset=1.0,
        factor=-2.0,
        slope_factor=4.0,
    )


def _two_divisions(terms: Pair) -> Pair:
    return 1 / terms[0], 1 / terms[1]


@jax.custom_jvp
def _one_division(terms: Pair) -> Pair:
    both = 1 / (terms[0] * terms[1])
    return terms[1] * both, terms[0] * both


@_one_division.defjvp
def _one_division_jvp(primals: tuple[Pair], tangents: tuple[Pair]) -> tuple[Pair, Pair]:
    # Not through `both`, whose square underflows where one unit of the two is saturated.
    ((a, b),) = tangents
    r, s = _one_division(*primals)
    return (r, s), (-r * (r * a), -s * (s * b))


def _mix_by_two_divisions(terms: Pair, weights: Pair) -> Array:
    return _weighted(_two_divisions(terms), weights)


def _mix_by_one_division(terms: Pair, weights: Pair) -> Array:
    (a, b), (v, w) = terms, weights
    return (v * b + w * a) / (a * b)


# How far shifted queries may reach. With the keys cut off at their limits below, products of two
# terms are finite for queries up to `_NEAR`, single terms for queries up to `_FAR`.
_NEAR, _FAR = 5.0, 16.0
_DOUBLE_KEY_LIMIT = 40.0  # in float64, for both
_TANH: tuple[_Unit, ...] = (
    _reciprocal(_one_division, _mix_by_one_division, query_limit=_NEAR, key_limit=15.5),
    _reciprocal(_two_divisions, _mix_by_two_divisions, query_limit=_FAR, key_limit=26.0),
    _elementwise(jnp.tanh),
)


@jax.custom_batching.custom_vmap
def _unbatched(regime: Int[Array, ""]) -> Int[Array, ""]:
    """Under `vmap` the greatest, which is exact for all.

    A switch on a batched index would run every branch, and could not be transposed.
    """
    return regime


@_unbatched.def_vmap
def _unbatched_vmap(
    axis_size: int, in_batched: list[bool], regimes: Int[Array, " batch"]
) -> tuple[Int[Array, ""], bool]:
    return _unbatched(jnp.max(regimes)), False


# Sweeps. Arrays are [hidden, batch, n] (axis = 2) or [hidden, n, batch] (axis = 1), and arrays of
# pairs are [batch, queries, keys] or [queries, keys, batch].


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _scores(
    units: tuple[_Unit, ...],
    axis: int,
    regime: Int[Array, ""],
    queries: Array,
    keys: Array,
    readout: Array,
) -> Array:
    """The scores, by the unit whose index is `regime`."""
    sums = [functools.partial(_sum, unit, axis) for unit in units]
    return lax.switch(regime, sums, queries, keys, readout)


@_scores.defjvp
def _scores_jvp(units: tuple[_Unit, ...], axis: int, primals: tuple, tangents: tuple) -> Pair:
    # Checkpointed, so that a backward pass keeps the inputs and nothing of any branch.
    sums = [jax.checkpoint(functools.partial(_tangent, unit, axis)) for unit in units]
    regime, *arrays = primals
    return _scores(units, axis, *primals), lax.switch(regime, sums, *arrays, *tangents[1:])


def _sum(unit: _Unit, axis: int, queries: Array, keys: Array, readout: Array) -> Array:
    """The scores, a group of hidden units a turn."""
    x, y = unit.prepare(queries, keys)
    x, y = jnp.expand_dims(x, axis + 1), jnp.expand_dims(y, axis)
    # Weights of 1 at most: their factors can be close to the greatest number there is.
    greatest = jnp.max(jnp.abs(readout), axis=0, keepdims=True, initial=0.0)
    weights = jnp.expand_dims(readout / jnp.where(greatest > 0, greatest, 1.0), axis)

    def turn(total: Array, group: list[Array]) -> tuple[Array, None]:
        x, y, weights = group
        for h in range(0, x.shape[0], 2):
            terms = unit.join(x[h], y[h]), unit.join(x[h + 1], y[h + 1])
            total = total + unit.mix(terms, (weights[h], weights[h + 1]))
        return total, None

    zeros = jnp.zeros(jnp.broadcast_shapes(x.shape[1:], y.shape[1:]), x.dtype)
    turns = max(1, x.shape[0] // (2 * GROUP))  # the fewer, the less often is `total` touched
    total, _ = lax.scan(turn, zeros, [_split(array, turns) for array in (x, y, weights)])
    total = jnp.expand_dims(unit.factor * greatest[0], axis) * total
    return total + jnp.expand_dims(unit.offset * jnp.sum(readout, axis=0), axis)


def _tangent(
    unit: _Unit,
    axis: int,
    queries: Array,
    keys: Array,
    readout: Array,
    dq: Array,
    dk: Array,
    dv: Array,
) -> Array:
    """The derivative of the scores in a direction: three sweeps, see the top of the file."""
    x, y = unit.prepare(queries, keys)
    slope = unit.slope_factor * readout
    of_readout = jnp.broadcast_to(unit.factor * dv, x.shape)
    by_queries = _directional(unit.join, unit.slopes, axis, x, y, slope * dk)
    by_keys = _directional(unit.join, unit.slopes, axis, y, x, slope * dq)
    by_keys += _directional(unit.join, unit.values, axis, y, x, of_readout)
    offset = unit.offset * jnp.sum(jnp.expand_dims(dv, axis), axis=0)
    return jnp.moveaxis(by_queries, 0, axis - 1) + jnp.moveaxis(by_keys, 0, axis) + offset


def _directional(
    join: Callable[[Array, Array], Array],
    function: Callable[[Pair], Pair],
    axis: int,
    rows: Array,
    columns: Array,
    direction: Array,
) -> Array:
    """`Σ_h function(join(row_ih, column_jh)) direction_jh`, with the rows' axis first.

    Its transpose accumulates the cotangent of `direction`, row after row.
    """
    num_rows = rows.shape[axis]
    x = jnp.expand_dims(jnp.moveaxis(rows, axis, 0), axis + 1)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def sums(x: Array, y: Array, direction: Array) -> Array:
        rows = []
        for i in range(0, x.shape[0], 2):
            pair = function((join(x[i], y), join(x[i + 1], y)))
            rows += [jnp.sum(terms * direction, axis=0) for terms in pair]
        return jnp.stack(rows)

    if num_rows >= 2 * GROUP:
        groups = _split(x, num_rows // GROUP)
        out = lax.map(lambda x: sums(x, columns, direction), groups)
        return out.reshape(-1, *out.shape[2:])[:num_rows]
    # Few rows make a single turn, and XLA unrolls a loop of a single turn: it would fuse the sweep
    # with what comes before and after, at several times the cost. So loop over halves of the units.
    x = jnp.moveaxis(_split(x, 1)[0], 1, 0)
    parts = [_split(array, 2) for array in (x, columns, direction)]
    zeros = jnp.zeros((x.shape[1], *columns.shape[1:]), x.dtype)

    def turn(total: Array, part: list[Array]) -> tuple[Array, None]:
        x, y, direction = part
        return total + sums(jnp.moveaxis(x, 0, 1), y, direction), None

    return lax.scan(turn, zeros, parts)[0][:num_rows]


def _split(array: Float[Array, "n *rest"], turns: int) -> Float[Array, "turns group *rest"]:
    """The array in `turns` equal groups of an even size, the last of them padded with zeros."""
    group = 2 * -(-array.shape[0] // (2 * turns))
    padding = turns * group - array.shape[0]
    return jnp.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1)).reshape(
        turns, group, *array.shape[1:]
    )
