"""The scores of the `Additive` form, without an array of `[queries, keys, hidden]`.

`s_ij = Σ_h readout_h · activation(q_ih + k_jh)` is computed in sweeps: a running sum to which
every turn adds a group of terms, none of which meets memory. Three things make them cheap:

- *tanh is a quotient in disguise*: `tanh(q + k) = (x − y) / (1 + x + y)` with
  `x = (e^2q − 1) / 2` and `y = (e^−2k − 1) / 2`. The exponentials are per row and per column, and
  two terms share one division, the slow operation: `1/a = b / ab` and `1/b = a / ab`.
- *the derivative needs no tanh either*: `d tanh = (1 + 2x) (1 + 2y) / (1 + x + y)²`.
- *the cotangents of queries, keys and readout are summed in three sweeps.* `_tangent` is written
  as three sums, over keys, queries and readout, whose transposes add up whole arrays,
  elementwise. A single sum for all three would reduce over the last axis, which is slow wherever
  vectors are processed.

*Exact* means: with the errors of the plain form, whose sums and tanh are rounded too, however small
or large the hidden values are. A term errs by a few roundings of the greatest `|tanh|` that its
hidden unit has in the row of the term, or of that in its column if that is less; a slope, by a few
roundings of 1. `_origin` sees to that.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from attention.algorithms import dense
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

# With as few queries or keys there is more to prepare than to compute, and an array of all terms is
# not much larger than the other of the two.
FEW = 4


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
    return dense.mix(scores, request)[0]


def scores(form: Additive) -> Float[Array, "batch queries keys"]:
    """`form.scores()` for each element of a batch, in float32 or better."""
    dtype = accumulator(form.queries.dtype, form.keys.dtype, form.readout.dtype)
    form = jax.tree.map(lambda array: array.astype(dtype), form)
    (batch, num_queries, _), num_keys = form.queries.shape, form.keys.shape[1]
    if min(num_queries, num_keys) <= FEW:
        return dense.scores(form)
    # Vectors run along the last axis: let that axis be long.
    axis = 1 if batch >= max(num_queries, num_keys) else 2
    origin, regime = _origin(form.queries, form.keys)
    units = _TANH
    if form.activation is not jnp.tanh:
        units, regime = (_elementwise(form.activation),), jnp.zeros((), jnp.int32)
    # Transposed here: inside a branch, XLA would leave the arrays as they are, and sweeps be slow.
    arrays = origin, form.queries, form.keys, form.readout[:, None, :]
    sums = _scores(units, axis, regime, *(_hidden_first(array, axis) for array in arrays))
    return jnp.moveaxis(sums, -1, 0) if axis == 1 else sums


def _hidden_first(array: Float[Array, "batch n hidden"], axis: int) -> Array:
    """`[hidden, …]`, with `n` at `axis`, which is 1 or 2, and the batch at the other of the two."""
    return jnp.transpose(array, (2, 1, 0) if axis == 1 else (2, 0, 1))


def _origin(
    queries: Float[Array, "batch queries hidden"], keys: Float[Array, "batch keys hidden"]
) -> tuple[Float[Array, "batch 1 hidden"], Int[Array, ""]]:
    """What to count `q` and `−k` of each hidden unit from, and the unit of `_TANH` to take.

    As `q + k` is the way from `−k` to `q`, both may be counted from anything: here from the
    least `q` or the least `−k`, whichever is greater.

    - Nothing is less than it among the `q` or else among the `−k`. So `1 + x + y` is at least 1/2.
    - `x − y` cancels where both `q` and `−k` are far above it. Then the `q` is as far above some
      `−k`, and the `−k` above some `q`, whose terms are great in that row and in that column.
    - Only one of them need be near it for tanh to be ±1 before an exponential overflows.

    Returns:
      What to count from, and an index into `_TANH`: of the first that is exact there.
    """
    sides = lax.stop_gradient(queries), -lax.stop_gradient(keys)
    least = (jnp.min(side, axis=1, keepdims=True, initial=jnp.inf) for side in sides)
    greatest = (jnp.max(side, axis=1, keepdims=True, initial=-jnp.inf) for side in sides)
    origin = jnp.maximum(*least)
    reach = jnp.max(jnp.minimum(*greatest) - origin, initial=0.0)
    # NaN: the last.
    regime = jnp.where(reach < _NEAR, 0, jnp.where(reach < _FAR, 1, 2))
    return origin, _unbatched(regime)


# Units: how an activation is computed.


@dataclass(frozen=True)
class _Unit:
    """A way to compute `activation(q + k)`, two terms at a time.

    Attributes:
      prepare: the rows, of queries, and the columns, of keys, from what they are counted from.
      values: the activation of two rows and two columns.
      slopes: its derivative, but for the `scale` of the columns. Rows and columns may be exchanged.
      scale: a factor of the slopes that depends on the column alone.
      mix: the values, weighted by the last argument, and added.
    """

    prepare: Callable[[Array, Array, Array], Pair]
    values: Callable[[Pair, Pair], Pair]
    slopes: Callable[[Pair, Pair], Pair]
    scale: Callable[[Array], Array]
    mix: Callable[[Pair, Pair, Pair], Array]


def _one_by_one(
    prepare: Callable[[Array, Array, Array], Pair],
    value: Callable[[Array, Array], Array],
    slope: Callable[[Array, Array], Array],
) -> _Unit:
    """A unit whose terms have nothing to do with each other."""

    def mix(x: Pair, y: Pair, weights: Pair) -> Array:
        return weights[0] * value(x[0], y[0]) + weights[1] * value(x[1], y[1])

    return _Unit(
        prepare=prepare,
        values=lambda x, y: (value(x[0], y[0]), value(x[1], y[1])),
        slopes=lambda x, y: (slope(x[0], y[0]), slope(x[1], y[1])),
        scale=jnp.ones_like,
        mix=mix,
    )


@functools.cache
def _elementwise(activation: Activation) -> _Unit:
    """The unit of any activation, which computes it as it is written."""

    def slope(query: Array, key: Array) -> Array:
        return jax.jvp(activation, (query + key,), (jnp.ones_like(query + key),))[1]

    return _one_by_one(
        prepare=lambda origin, queries, keys: (queries, keys),
        value=lambda query, key: activation(query + key),
        slope=slope,
    )


# tanh as a quotient. Rows are x and columns y of the top of the file, `1 + x + y` is the divisor.
# Derivatives are written down where the square of a divisor would overflow.


def _prepare(divisors: int, origin: Array, queries: Array, keys: Array) -> Pair:
    """Rows and columns, such that a product of so many divisors is finite."""
    largest = math.log(jnp.finfo(origin.dtype).max) / (2 * divisors) - 1
    return _half_expm1(queries, origin, largest), _half_expm1(-keys, origin, largest)


def _half_expm1(a: Array, b: Array, largest: float) -> Array:
    """`(e^2(a − b) − 1) / 2`, where no difference counts as more than the largest."""
    difference = a - b
    from_a = a - difference
    lost = (a - (difference + from_a)) + (from_a - b)  # by rounding (Knuth's TwoSum)
    lost = jnp.where(jnp.abs(difference) < largest, lost, 0.0)  # beyond, it may be much, or NaN
    half = jnp.expm1(2 * jnp.minimum(difference, largest)) / 2
    return half + lost * _exponential(half)


def _exponential(half_expm1: Array) -> Array:
    return 1 + 2 * half_expm1


def _divisors(x: Pair, y: Pair) -> Pair:
    return 1 + x[0] + y[0], 1 + x[1] + y[1]


@jax.custom_jvp
def _reciprocals(divisors: Pair) -> Pair:
    """Of both, by one division."""
    both = 1 / (divisors[0] * divisors[1])
    return divisors[1] * both, divisors[0] * both


@_reciprocals.defjvp
def _reciprocals_jvp(primals: tuple[Pair], tangents: tuple[Pair]) -> tuple[Pair, Pair]:
    ((a, b),) = tangents
    r, s = _reciprocals(*primals)
    return (r, s), (-r * (r * a), -s * (s * b))


def _near_values(x: Pair, y: Pair) -> Pair:
    r, s = _reciprocals(_divisors(x, y))
    return (x[0] - y[0]) * r, (x[1] - y[1]) * s


def _near_slopes(x: Pair, y: Pair) -> Pair:
    r, s = _reciprocals(_divisors(x, y))
    return _exponential(x[0]) * r * r, _exponential(x[1]) * s * s


def _near_mix(x: Pair, y: Pair, weights: Pair) -> Array:
    (a, b), (v, w) = _divisors(x, y), weights
    return (v * (x[0] - y[0]) * b + w * (x[1] - y[1]) * a) / (a * b)


@jax.custom_jvp
def _quotient(dividend: Array, divisor: Array) -> Array:
    return dividend / divisor


@_quotient.defjvp
def _quotient_jvp(primals: Pair, tangents: Pair) -> Pair:
    quotient = _quotient(*primals)
    return quotient, (tangents[0] - quotient * tangents[1]) / primals[1]


def _far_value(x: Array, y: Array) -> Array:
    return _quotient(x - y, 1 + x + y)


def _far_slope(x: Array, y: Array) -> Array:
    divisor = 1 + x + y
    reciprocal = _quotient(jnp.ones_like(divisor), divisor)
    return (_exponential(x) * reciprocal) * (_exponential(y) * reciprocal)


# How far the `q` or the `−k` may be above what they are counted from, while the others may be
# anywhere: in float32, more than 21 or 43 counts as that, and `|q + k|` is 11 at least then, whose
# tanh is 1. (In float64, it is 176 or 354.)
_NEAR, _FAR = 10.0, 32.0
_TANH: tuple[_Unit, ...] = (
    _Unit(
        prepare=functools.partial(_prepare, 2),
        values=_near_values,
        slopes=_near_slopes,
        scale=_exponential,
        mix=_near_mix,
    ),
    _one_by_one(functools.partial(_prepare, 1), _far_value, _far_slope),
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
    origin: Array,
    queries: Array,
    keys: Array,
    readout: Array,
) -> Array:
    """The scores, by the unit whose index is `regime`. They do not depend on the origin."""
    sums = [functools.partial(_sum, unit, axis) for unit in units]
    return lax.switch(regime, sums, origin, queries, keys, readout)


@_scores.defjvp
def _scores_jvp(units: tuple[_Unit, ...], axis: int, primals: tuple, tangents: tuple) -> Pair:
    # Checkpointed, so that a backward pass keeps the inputs and nothing of any branch.
    sums = [jax.checkpoint(functools.partial(_tangent, unit, axis)) for unit in units]
    regime, *arrays = primals
    return _scores(units, axis, *primals), lax.switch(regime, sums, *arrays, *tangents[2:])


def _sum(
    unit: _Unit, axis: int, origin: Array, queries: Array, keys: Array, readout: Array
) -> Array:
    """The scores, a group of hidden units a turn."""
    x, y = unit.prepare(origin, queries, keys)
    x, y = jnp.expand_dims(x, axis + 1), jnp.expand_dims(y, axis)
    # Weights of 1 at most: their factors can be close to the greatest number there is.
    greatest = jnp.max(jnp.abs(readout), axis=0, keepdims=True, initial=0.0)
    weights = jnp.expand_dims(readout / jnp.where(greatest > 0, greatest, 1.0), axis)

    def turn(total: Array, group: list[Array]) -> tuple[Array, None]:
        # Sliced before the terms are computed: XLA would do both at once, without vectors.
        x, y, weights = lax.optimization_barrier(group)
        for h in range(0, x.shape[0], 2):
            two = slice(h, h + 2)
            total = total + unit.mix(tuple(x[two]), tuple(y[two]), tuple(weights[two]))
        return total, None

    zeros = jnp.zeros(jnp.broadcast_shapes(x.shape[1:], y.shape[1:]), x.dtype)
    turns = max(1, x.shape[0] // GROUP)
    total, _ = lax.scan(turn, zeros, [_split(array, turns) for array in (x, y, weights)])
    return jnp.expand_dims(greatest[0], axis) * total


def _tangent(
    unit: _Unit,
    axis: int,
    origin: Array,
    queries: Array,
    keys: Array,
    readout: Array,
    dq: Array,
    dk: Array,
    dv: Array,
) -> Array:
    """The derivative of the scores in a direction: three sweeps, see the top of the file."""
    x, y = unit.prepare(origin, queries, keys)
    of_readout = jnp.broadcast_to(dv, y.shape)
    by_queries = _directional(unit.slopes, axis, x, y, unit.scale(y) * (readout * dk))
    by_queries += _directional(unit.values, axis, x, y, of_readout)
    by_keys = _directional(unit.slopes, axis, y, x, unit.scale(x) * (readout * dq))
    return jnp.moveaxis(by_queries, 0, axis - 1) + jnp.moveaxis(by_keys, 0, axis)


def _directional(
    function: Callable[[Pair, Pair], Pair],
    axis: int,
    rows: Array,
    columns: Array,
    direction: Array,
) -> Array:
    """`Σ_h function(row_ih, column_jh) direction_jh`, with the rows' axis first.

    Its transpose accumulates the cotangent of `direction`, row after row.
    """
    num_rows = rows.shape[axis]
    x = jnp.expand_dims(jnp.moveaxis(rows, axis, 0), axis + 1)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def sums(x: Array, y: Array, direction: Array) -> Array:
        rows = []
        for i in range(0, x.shape[0], 2):
            pair = function((x[i], x[i + 1]), (y, y))
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


def _split(array: Float[Array, "n ..."], turns: int) -> Float[Array, "turns group ..."]:
    """The array in `turns` equal groups of an even size, the last of them padded with zeros."""
    group = 2 * -(-array.shape[0] // (2 * turns))
    padding = turns * group - array.shape[0]
    return jnp.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1)).reshape(
        turns, group, *array.shape[1:]
    )
