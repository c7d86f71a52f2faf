"""What the library must equal: its equations once more, in loops over NumPy's float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attention import SCORES, Score

# Distinct primes, so that an array with swapped axes does not fit.
BATCH, HEADS, QUERIES, KEYS = 2, 3, 5, 7
QUERY_DIM, KEY_DIM, HIDDEN, VALUE_DIM = 11, 13, 17, 19


def normal(seed, *shape, scale=1.0):
    return jnp.asarray(scale * np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def randomized(tree, seed=0, lead=(), scale=0.4):
    """Every leaf drawn anew, behind `lead` axes: no parameter is left at zero or one."""
    leaves, structure = jax.tree.flatten(tree)
    draws = [
        normal([seed, i], *lead, *jnp.shape(leaf), scale=scale) for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, draws)


def assert_close(actual, expected, tolerance=2e-5):
    """Equal structure, shapes and, up to a fraction of the greatest entry, numbers."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        atol = tolerance * max(1.0, np.max(np.abs(b), initial=0.0))
        np.testing.assert_allclose(a, b, rtol=0, atol=atol, equal_nan=False)


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
SAME_SIZE = {"dot", "scaled_dot", "cosine"}


def dims(name):
    return (QUERY_DIM, QUERY_DIM) if name in SAME_SIZE else (QUERY_DIM, KEY_DIM)


def make_score(name):
    """The score of a name in `SCORES` or `OWN`, every parameter random."""
    score = (SCORES | OWN)[name]
    if not isinstance(score, type):
        return score
    return randomized(score(*dims(name), rngs=nnx.Rngs(0)))


def dot(a, b):
    return sum(a[i] * b[i] for i in range(len(a)))


def _mlp(p, q, k):
    total = 0.0
    for h in range(len(p["readout"])):
        unit = dot(q, p["query_weight"][:, h]) + dot(k, p["key_weight"][:, h]) + p["bias"][h]
        total += p["readout"][h] * math.tanh(unit)
    return total


def _bilinear(p, q, k):
    pairs = [(i, j) for i in range(len(q)) for j in range(len(k))]
    return sum(q[i] * p["weight"][i, j] * k[j] for i, j in pairs)


# The equations: from parameters, a query and a key to the score.
EQUATIONS = {
    "linear": lambda p, q, k: dot(p["weight"], k),
    "mlp": _mlp,
    "bilinear": _bilinear,
    "dot": lambda p, q, k: dot(q, k),
    "scaled_dot": lambda p, q, k: dot(q, k) / math.sqrt(len(q)),
    "cosine": lambda p, q, k: p["sharpness"] * dot(q, k) / math.sqrt(dot(q, q) * dot(k, k)),
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


# Attention


def weights_and_context(scores, values, allowed=None):
    """Softmax attention for one problem, in loops."""
    scores, values = np.asarray(scores, np.float64), np.asarray(values, np.float64)
    allowed = np.ones(scores.shape, bool) if allowed is None else np.asarray(allowed)
    weights = np.zeros(scores.shape)
    context = np.zeros((scores.shape[0], values.shape[1]))
    for i in range(scores.shape[0]):
        some = [j for j in range(scores.shape[1]) if allowed[i, j]]
        total = sum(math.exp(scores[i, j]) for j in some)
        for j in some:
            weights[i, j] = math.exp(scores[i, j]) / total
            context[i] += weights[i, j] * values[j]
    return weights, context


def plain_attend(scores, values, allowed=True):
    """Softmax attention under leading axes, differentiable: the equation and nothing else."""
    exponentials = jnp.where(allowed, jnp.exp(scores), 0.0)
    total = jnp.sum(exponentials, axis=-1, keepdims=True)
    return exponentials / jnp.where(total == 0, 1.0, total) @ values
