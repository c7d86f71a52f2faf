"""What the library must equal: its equations once more, in loops over NumPy's float64."""

import contextlib
import functools
import math
import operator
from unittest import mock

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx

from attention import SCORES, Additive, InnerProduct, KeyOnly, Pairwise, Score, masks

# Distinct primes, so that an array with swapped axes does not fit.
BATCH, HEADS, QUERIES, KEYS = 2, 3, 5, 7
QUERY_DIM, KEY_DIM, HIDDEN, VALUE_DIM = 11, 13, 17, 19
FEW_HIDDEN = 11  # where all terms of the hidden units would be compiled

# Tests compile far more than they compute.
UNOPTIMIZED = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
jit = functools.partial(
    jax.jit,
    compiler_options=UNOPTIMIZED if jax.config.read("jax_disable_most_optimizations") else None,
)


def normal(seed, *shape, scale=1.0):
    # Where `jnp.asarray` compiles a program for every shape.
    draws = scale * np.random.default_rng(seed).standard_normal(shape)
    return jax.device_put(draws.astype(np.float32))


def randomized(make, seed=0, lead=(), scale=0.4):
    """What `make` makes, every parameter random, behind `lead` axes: none is zero or one."""
    leaves, structure = jax.tree.flatten(jax.eval_shape(make))
    draws = [normal([seed, i], *lead, *leaf.shape, scale=scale) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, draws)


def arrays_in(tree):
    """The leaves, as NumPy arrays: to look at one costs no compilation."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_close(actual, expected, tolerance=2e-5):
    """Equal structure, shapes and, up to a fraction of the greatest entry, numbers."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        atol = tolerance * max(1.0, np.max(np.abs(b), initial=0.0))
        np.testing.assert_allclose(a, b, rtol=0, atol=atol, equal_nan=False)


@contextlib.contextmanager
def refused(message):
    """A ValueError that says so, also to users, who run without jaxtyping's checks."""
    unchecked = mock.patch.object(jaxtyping.config, "jaxtyping_disable", True)
    with unchecked, pytest.raises(ValueError, match=message):
        yield


# Scores


class Distance(nnx.Module):
    """A score of one's own, that knows nothing of the library."""

    def __init__(self, query_dim, key_dim, *, sharpness=2.0, power=2, rngs):
        self.weight = nnx.Param(rngs.params.normal((query_dim, key_dim)))
        self.sharpness = nnx.Param(jnp.asarray(sharpness, jnp.float32))
        self.power = power

    def __call__(self, query, key):
        error = query @ self.weight[...] - key
        return -self.sharpness[...] * jnp.mean(error**self.power)


class Gated(Score):
    """A score of one's own, that leaves `form` as it is."""

    def __init__(self, query_dim, key_dim, *, rngs):
        self.gate = nnx.Param(rngs.params.normal((query_dim,)))
        self.weight = nnx.Param(rngs.params.normal((key_dim,)))

    def __call__(self, query, key):
        return jax.nn.sigmoid(query @ self.gate[...]) * jnp.sin(key @ self.weight[...])


def overlap(query, key):
    """A plain function. It is not symmetric, and it takes vectors of any size."""
    return jnp.sin(query[0] + query[3]) * key[1] - query[2] * key[4] ** 2


def nearby(query, key):
    """A plain function of a pytree: a score that sees positions."""
    return overlap(query["x"], key["x"]) - jnp.abs(query["position"] - key["position"])


OWN = {"module": Distance, "subclass": Gated, "function": overlap}
SAME_SIZE = {"dot", "scaled_dot", "cosine", "rbf", "trilinear"}


def dims(name):
    return (QUERY_DIM, QUERY_DIM) if name in SAME_SIZE else (QUERY_DIM, KEY_DIM)


def make_score(name):
    """The score of a name in `SCORES` or `OWN`, every parameter random."""
    score = (SCORES | OWN)[name]
    if not isinstance(score, type):
        return score
    options = {"hidden": HIDDEN} if name == "mlp" else {}
    return randomized(lambda: score(*dims(name), rngs=nnx.Rngs(0), **options))


def dot(a, b):
    return sum(a[i] * b[i] for i in range(len(a)))


def _mlp(p, q, k, activation=math.tanh):
    units = [
        dot(q, p["query_weight"][:, h]) + dot(k, p["key_weight"][:, h]) + p["bias"][h]
        for h in range(len(p["bias"]))
    ]
    return sum(p["readout"][h] * activation(unit) for h, unit in enumerate(units))


def _mlp_pooling(p, q, k):
    units = [dot(k, p["key_weight"][:, h]) + p["bias"][h] for h in range(len(p["bias"]))]
    return sum(p["readout"][h] * math.tanh(unit) for h, unit in enumerate(units))


def _trilinear(p, q, k):
    both = sum(q[i] * k[i] * p["weight"][i] for i in range(len(q)))
    return dot(q, p["query_weight"]) + dot(k, p["key_weight"]) + both


def _distance(p, q, k):
    errors = [dot(q, p["weight"][:, j]) - k[j] for j in range(len(k))]
    return -p["sharpness"] * sum(error**2 for error in errors) / len(k)


def _bilinear(p, q, k):
    pairs = [(i, j) for i in range(len(q)) for j in range(len(k))]
    return sum(q[i] * p["weight"][i, j] * k[j] for i, j in pairs)


# The equations: from parameters, a query and a key to the score.
EQUATIONS = {
    "uniform": lambda p, q, k: 0.0,
    "linear": lambda p, q, k: dot(p["weight"], k),
    "mlp_pooling": _mlp_pooling,
    "mlp": _mlp,
    "gatv2": lambda p, q, k: _mlp(p, q, k, lambda unit: unit if unit > 0 else 0.2 * unit),
    "bilinear": _bilinear,
    "dot": lambda p, q, k: dot(q, k),
    "scaled_dot": lambda p, q, k: dot(q, k) / math.sqrt(len(q)),
    "cosine": lambda p, q, k: p["sharpness"] * dot(q, k) / math.sqrt(dot(q, q) * dot(k, k)),
    "rbf": lambda p, q, k: -math.exp(p["log_gamma"]) * dot(q - k, q - k),
    "trilinear": _trilinear,
}


def parameters(score):
    return jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), nnx.to_pure_dict(nnx.state(score))
    )


def pairs(function, queries, keys):
    """`function(queries[i], keys[j])` for every pair, in loops."""
    queries, keys = np.asarray(queries, np.float64), np.asarray(keys, np.float64)
    return np.array([[function(query, key) for key in keys] for query in queries])


def double_vmap(score):
    return jax.vmap(jax.vmap(score, (None, 0)), (0, None))


# Forms


def make_form(kind, lead=(), *, scale=0.4, hidden=HIDDEN):
    """A form of one kind for problems on `lead` axes; an additive one of so many hidden units."""
    draw = functools.partial(normal, scale=scale)
    if kind is KeyOnly:
        return KeyOnly(normal(1, *lead, KEYS), QUERIES)
    if kind is InnerProduct:
        return InnerProduct(
            draw(1, *lead, QUERIES, QUERY_DIM),
            draw(2, *lead, KEYS, QUERY_DIM),
            query_bias=normal(3, *lead, QUERIES),
            key_bias=normal(4, *lead, KEYS),
        )
    if kind is Additive:
        return Additive(
            normal(1, *lead, QUERIES, hidden),
            normal(2, *lead, KEYS, hidden),
            draw(3, *lead, hidden),
        )
    score = randomized(lambda: Distance(QUERY_DIM, KEY_DIM, rngs=nnx.Rngs(0)), lead=lead)
    return Pairwise(score, normal(1, *lead, QUERIES, QUERY_DIM), normal(2, *lead, KEYS, KEY_DIM))


FORMS = [KeyOnly, InnerProduct, Additive, Pairwise]


def loop_scores(form, at=()):
    """The scores of the problem at this index of the leading axes, in loops."""

    def get(array):
        return np.asarray(array, np.float64)[at]

    if isinstance(form, KeyOnly):
        return np.array([list(get(form.logits))] * form.num_queries)
    if isinstance(form, Pairwise):
        own = {"weight": get(form.score.weight), "sharpness": get(form.score.sharpness)}
        return pairs(lambda q, k: _distance(own, q, k), get(form.queries), get(form.keys))
    if isinstance(form, Additive):
        readout = get(form.readout)
        return pairs(
            lambda q, k: sum(readout[h] * math.tanh(q[h] + k[h]) for h in range(len(readout))),
            get(form.queries),
            get(form.keys),
        )
    scores = pairs(dot, get(form.queries), get(form.keys))
    for i, j in np.ndindex(scores.shape):
        scores[i, j] += 0.0 if form.query_bias is None else get(form.query_bias)[i]
        scores[i, j] += 0.0 if form.key_bias is None else get(form.key_bias)[j]
    return scores


# Masks

MASKS = [
    "none",
    "lengths",
    "batch lengths",
    "causal",
    "offset",
    "window",
    "dense",
    "batch lengths & causal",
    "window & dense",
    "dense & batch lengths & causal",
]
KEYS_ONLY_MASKS = ["none", "lengths", "batch lengths", "lengths & batch lengths"]


def make_mask(name, lead=()):
    """The mask of a name, and what it must allow: `[*lead, queries, keys]`."""
    if name == "none":
        return None, np.ones((*lead, QUERIES, KEYS), bool)
    rng = np.random.default_rng(5)
    i, j = np.arange(QUERIES)[:, None], np.arange(KEYS)[None, :]
    limits = rng.integers(1, KEYS, lead)
    batch_limits = np.array([4, 0]) if lead else np.array(4)
    table = rng.random((*lead, QUERIES, KEYS)) < 0.6
    table[..., 2, :] = False  # a query with no key
    batch_axes = batch_limits.shape + (1,) * (len(lead) - batch_limits.ndim)
    known = {
        "lengths": (masks.lengths(jnp.asarray(limits)), j < limits[..., None, None]),
        "batch lengths": (
            masks.lengths(jnp.asarray(batch_limits)),
            j < batch_limits.reshape(*batch_axes, 1, 1),
        ),
        "causal": (masks.causal(), j <= i),
        "offset": (masks.causal(offset=-2), j <= i - 2),
        "window": (masks.window(1), abs(i - j) <= 1),
        "dense": (masks.dense(jnp.asarray(table)), table),
    }
    parts = [known[part] for part in name.split(" & ")]
    mask = functools.reduce(operator.and_, [mask for mask, _ in parts])
    allowed = np.logical_and.reduce([np.broadcast_to(a, table.shape) for _, a in parts])
    assert not allowed.all()
    assert allowed.any()
    return mask, allowed


# Attention


def loop_attend(form, values, allowed):
    """Softmax attention and its weights, in loops over leading axes, queries and keys."""
    lead = values.shape[:-2]
    context = np.zeros((*lead, QUERIES, values.shape[-1]))
    weights = np.zeros((*lead, QUERIES, KEYS))
    for at in np.ndindex(lead):
        scores = loop_scores(form, at)
        rows = np.asarray(values, np.float64)[at]
        for i in range(QUERIES):
            some = [j for j in range(KEYS) if allowed[at][i, j]]
            total = sum(math.exp(scores[i, j]) for j in some)
            for j in some:
                weights[at][i, j] = math.exp(scores[i, j]) / total
                context[at][i] += weights[at][i, j] * rows[j]
    return context, weights


def plain_attend(scores, values, allowed=True):
    """Softmax attention, differentiable: the equation and nothing else."""
    exponentials = jnp.where(allowed, jnp.exp(scores), 0.0)
    total = jnp.sum(exponentials, axis=-1, keepdims=True)
    return exponentials / jnp.where(total == 0, 1.0, total) @ values


def influence(attend, *args):
    """The context of each query, and how each of `args` moves it here: `[queries, keys]`.

    That is the greatest partial derivative of a random functional of the query's context
    by an array's entries for a key, of `attend(*args) -> [queries, value_dim]`.
    """
    context, pullback = jax.vjp(attend, *args)
    one_query = jnp.eye(QUERIES)[:, :, None] * normal(8, *context.shape)[None]
    return context, tuple(jnp.max(jnp.abs(g), axis=-1) for g in jax.vmap(pullback)(one_query))
