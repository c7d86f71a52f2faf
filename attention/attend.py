"""`attend`: from a form to its context, by the algorithm that serves it best.

An algorithm says itself what it cannot serve and what it costs, see `Algorithm` in
`attention.algorithms.request`. A new algorithm is a file in `attention.algorithms` and an entry in
`ALGORITHMS`.
"""

import functools
import math
from collections import Counter
from collections.abc import Collection

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from attention.algorithms import (
    additive,
    cudnn,
    dense,
    inner_product,
    key_only,
    prefix,
    sharded,
    streaming,
)
from attention.algorithms.request import PLATFORMS, Algorithm, Request, keeps_pairs
from attention.biases import GivenBias
from attention.dropout import Dropout
from attention.forms import Form, accumulator
from attention.masks import GivenMask
from attention.normalizers import Normalizer, find_normalizer
from attention.prepare import Positions, cleaned, prepared
from attention.score_mods import GivenScoreMod

# By the names that `implementation` takes. Of algorithms with equal costs the first is picked.
ALGORITHMS: dict[str, Algorithm] = {
    "key_only": key_only,
    "prefix": prefix,
    "inner_product": inner_product,
    "additive": additive,
    "streaming": streaming,
    "dense": dense,
    "cudnn": cudnn,
}
# Whose cost is the least, whatever the sizes are.
SIZELESS = ("key_only", "prefix")
SCOPE = "attend_"  # before the name of an algorithm, in what JAX shows of a program


def attend(
    form: Form,
    values: Float[Array, "*lead keys value_dim"],
    *,
    mask: GivenMask = None,
    bias: GivenBias = None,
    score_mod: GivenScoreMod = None,
    normalizer: str | Normalizer = "softmax",
    dropout: Dropout | None = None,
    query_positions: Int[Array, "*#batch queries"] | None = None,
    key_positions: Int[Array, "*#batch keys"] | None = None,
    implementation: str | None = None,
) -> Float[Array, "*lead queries value_dim"]:
    """The context of every query: the values, mixed by the normalized scores.

    Every leaf of `form` carries the same leading axes as `values`, such as
    `[batch, heads]`; so may the leaves of `mask`, aligned from the left.

    What no query may attend to might as well be absent: keys and values there may hold anything,
    NaN too. A score of −∞ masks its pair, wherever it comes from.

    Args:
      form: the scores of all pairs.
      values: what is mixed.
      mask: which query may attend to which key: a mask of `attention.masks`, a boolean array that
        broadcasts to `[*lead, queries, keys]`, `"causal"`, or a plain function `(i, j) -> bool` of
        two indices. A query that may attend to none gets a context of zero.
      bias: what positions add to the scores: a bias of `attention.biases`, an array that broadcasts
        to `[*lead, queries, keys]`, a plain function `(i, j) -> number`, or several of these.
      score_mod: what is made of each score, bias included, before the normalizer: a function
        `(score, i, j) -> score`, see `attention.score_mods`.
      normalizer: from scores to weights: a key of `NORMALIZERS`, a normalizer of
        `attention.normalizers`, or the user's own function, see `find_normalizer`.
      dropout: which weights are dropped, see `attention.dropout`.
      query_positions: where the queries stand, for bias, score_mod, and masks that compare
        positions; None for 0, 1, …
      key_positions: where the keys stand.
      implementation: a key of `ALGORITHMS` forces that algorithm, which says so if it cannot
        serve this request; None picks the algorithm of least cost, for each platform by itself;
        and "dense" where a size is but a symbol, in a program for export.
        All algorithms are exact; `attention.algorithms` has a file for each of them. On an
        NVIDIA GPU None picks "cudnn" for inner products in half precision where it can: that
        algorithm has reverse mode only, so name "streaming" for forward mode.

    Raises:
      ValueError: shapes do not fit, a name is unknown, or the request is impossible; the
        message names what was given, what is possible, and what stands in the way of the rest.
    """
    positions = Positions(query_positions, key_positions)
    request = cleaned(prepared(form, values, mask, bias, score_mod, normalizer, dropout, positions))
    obstacles = {name: algorithm.obstacle(request) for name, algorithm in ALGORITHMS.items()}
    possible = [name for name, obstacle in obstacles.items() if obstacle is None]
    if implementation is not None and implementation not in possible:
        raise ValueError(_refusal(implementation, request, obstacles))
    if request.is_empty:
        return _nothing(request)
    if implementation is not None:
        return _attend_by(implementation, request)
    return _attend_by_platform(request, pick(request, possible))


def attend_with_weights(
    form: Form,
    values: Float[Array, "*lead keys value_dim"],
    *,
    mask: GivenMask = None,
    bias: GivenBias = None,
    score_mod: GivenScoreMod = None,
    normalizer: str | Normalizer = "softmax",
    dropout: Dropout | None = None,
    query_positions: Int[Array, "*#batch queries"] | None = None,
    key_positions: Int[Array, "*#batch keys"] | None = None,
) -> tuple[Float[Array, "*lead queries value_dim"], Float[Array, "*lead queries keys"]]:
    """`attend`, and the weights; there being weights to return, always dense.

    The arguments and errors are those of `attend`. The weights of a query are over all keys,
    zero where the mask rules a key out, and those that the context was mixed with: less what the
    dropout drops.
    """
    positions = Positions(query_positions, key_positions)
    request = cleaned(prepared(form, values, mask, bias, score_mod, normalizer, dropout, positions))
    if request.is_empty:
        return _nothing(request), jnp.zeros(request.shape, accumulator(values.dtype))
    return dense.attend_with_weights(request)


def attend_sharded(
    form: Form,
    values: Float[Array, "*lead keys value_dim"],
    *,
    mesh: Mesh,
    axis: str,
    mask: GivenMask = None,
    bias: GivenBias = None,
    score_mod: GivenScoreMod = None,
    normalizer: str | Normalizer = "softmax",
    dropout: Dropout | None = None,
    query_positions: Int[Array, "*#batch queries"] | None = None,
    key_positions: Int[Array, "*#batch keys"] | None = None,
) -> Float[Array, "*lead queries value_dim"]:
    """`attend`, with the keys and values in equal shares on the devices along a mesh axis.

    For keys too many for one device: see `attention.algorithms.sharded`. Queries, parameters,
    mask and bias are on every device along that axis, and so is the context.
    Any number of keys will do, but only a number that the devices divide can arrive in shares.

    Args:
      form: the scores of all pairs.
      values: what is mixed.
      mesh: of devices; leading axes may be sharded over other axes of it.
      axis: the name of the mesh axis for the keys.
      mask: which query may attend to which key, by their indices among all.
      bias: what positions add to the scores, by their indices among all.
      score_mod: what is made of each score, by the indices of the pair among all.
      normalizer: a softmax, with or without a sink, or a sigmoid, by name or as an object.
      dropout: which weights are dropped: the same as on one device.
      query_positions: where the queries stand, as for `attend`.
      key_positions: where all keys stand.

    Raises:
      ValueError: shapes do not fit, or the request is impossible; the message names what
        was given and what is possible.
    """
    if axis not in mesh.axis_names:
        raise ValueError(f"axis={axis!r} is not of the mesh; choose {', '.join(mesh.axis_names)}")
    normalizer = find_normalizer(normalizer, sharded.NORMALIZERS)
    positions = Positions(query_positions, key_positions)
    request = prepared(form, values, mask, bias, score_mod, normalizer, dropout, positions)
    obstacle = sharded.obstacle(request)
    if obstacle is not None:
        raise ValueError(obstacle)
    if request.is_empty:
        return _nothing(request)
    return sharded.attend(request, mesh, axis)


def pick(request: Request, possible: Collection[str]) -> dict[str, str]:
    """The algorithm for each of `PLATFORMS`: the cheapest, but see `KEEPS_PAIRS` of `Algorithm`.

    Args:
      request: what is asked.
      possible: the names of the algorithms without an obstacle to this request.
    """
    if not request.has_fixed_sizes:
        sizeless = (name for name in SIZELESS if name in possible)
        return dict.fromkeys(PLATFORMS, next(sizeless, "dense"))

    def cheapest(names: list[str], platform: str) -> str:
        return min(names, key=lambda name: ALGORITHMS[name].cost(request, platform))

    names = list(possible)
    picked = {platform: cheapest(names, platform) for platform in PLATFORMS}
    if len(set(picked.values())) == 1 or all(map(_keeps_pairs, picked.values())):
        return picked
    for platform in PLATFORMS:
        without_pairs = [
            name
            for name in names
            if not _keeps_pairs(name) and ALGORITHMS[name].cost(request, platform) < math.inf
        ]
        picked[platform] = cheapest(without_pairs or [picked[platform]], platform)
    return picked


def _keeps_pairs(name: str) -> bool:
    return keeps_pairs(ALGORITHMS[name])


def _attend_by_platform(request: Request, picked: dict[str, str]) -> Array:
    """The context, by the algorithm of the platform that the program is compiled for.

    Which platform that is shows only when the program is lowered: until then, and in its
    derivatives, the program holds the algorithms of all platforms as branches. The branches
    close over the request instead of taking its arrays as arguments: so the bias may be a plain
    function with traced arrays in it, which every algorithm evaluates at shapes of its choice.
    """
    (default, _), *others = Counter(picked.values()).most_common()
    if not others:
        return _attend_by(default, request)
    branches = {name: functools.partial(_attend_by, name, request) for name in picked.values()}
    return jax.lax.platform_dependent(
        default=branches[default],
        **{platform: branches[name] for platform, name in picked.items() if name != default},
    )


def _attend_by(name: str, request: Request) -> Array:
    """The context by the algorithm of a name, which profiles and traced programs then show."""
    with jax.named_scope(SCOPE + name):
        return ALGORITHMS[name].attend(request)


def _nothing(request: Request) -> Array:
    """The context of queries that have no key, of no query, or of a batch of none."""
    values = request.values
    return jnp.zeros((*request.lead, request.num_queries, values.shape[-1]), values.dtype)


def _refusal(implementation: str, request: Request, obstacles: dict[str, str | None]) -> str:
    """Why a request cannot be served by the algorithm of a name, and by which it could be."""
    possible = ", ".join(name for name, obstacle in obstacles.items() if obstacle is None)
    if implementation not in obstacles:
        names = ", ".join(obstacles)
        return (
            f"implementation={implementation!r} is unknown; choose from {names};"
            f" possible here: {possible}"
        )
    impossible = [f"{name} ({why})" for name, why in obstacles.items() if why is not None]
    return (
        f"implementation={implementation!r} cannot serve {request};"
        f" impossible here: {', '.join(impossible)}; possible here: {possible}"
    )
