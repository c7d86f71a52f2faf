"""Contexts and gradients of many combinations of all there is, against loops in float64.

Every form, hidden values and offsets of every size, under every normalizer, by every algorithm that
serves it, in float32 and in half precision, whose two dtypes take turns, as do masks and biases;
and one form under every mask with every bias. Keys that no query may attend to hold NaN. Sizes of
hidden values and offsets share a program.
"""

import dataclasses
import functools
import itertools
import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial
from oracles import BATCH, HEADS, HIDDEN, KEYS, QUERIES, QUERY_DIM, VALUE_DIM, jit, normal

from attention import Additive, InnerProduct, KeyOnly, Pairwise, attend, masks
from attention.algorithms import tiles
from attention.attend import ALGORITHMS
from attention.biases import Alibi
from attention.forms import SquaredDistance, by_key
from attention.normalizers import Sigmoid, Softmax, SoftmaxWithSink, entmax15, sparsemax
from attention.prepare import Positions, prepared
from attention.pytrees import field_names

pytestmark = pytest.mark.usefixtures("strict")

LEAD = (BATCH, HEADS)
LOWEST = float(np.finfo(np.float32).min)
CAP = 7.0
TOLERANCE = {"float32": 3e-5, "float16": 4e-3, "bfloat16": 3e-2}  # of the greatest entry, or of one


# Forms, and their scores in float64


def additive(queries=1.0, keys=1.0, readout=0.4):
    return Additive(
        normal(1, *LEAD, QUERIES, HIDDEN, scale=queries),
        normal(2, *LEAD, KEYS, HIDDEN, scale=keys),
        normal(3, *LEAD, HIDDEN, scale=readout),
    )


def inner_product(offset=0.0):
    return InnerProduct(
        normal(1, *LEAD, QUERIES, QUERY_DIM, scale=0.4),
        normal(2, *LEAD, KEYS, QUERY_DIM, scale=0.4),
        query_bias=normal(3, *LEAD, QUERIES),
        key_bias=normal(4, *LEAD, KEYS) + np.float32(offset),
    )


def vectors(scale):
    sides = zip((1, 2), (QUERIES, KEYS), strict=True)
    return [normal(seed, *LEAD, size, QUERY_DIM, scale=scale) for seed, size in sides]


def own(query, key):
    return jnp.sin(query[0] + query[3]) * key[1] - query[2] * key[4]


FORMS = {
    "key only": {"": lambda: KeyOnly(normal(1, *LEAD, KEYS), QUERIES)},
    "inner product": {"": inner_product, "offset": lambda: inner_product(4096.0)},
    "squared distance": {
        "": lambda: SquaredDistance(*vectors(0.5), normal(3, *LEAD) ** 2 + 0.3),
    },
    "additive": {
        "": additive,
        "small": lambda: additive(1e-6, 1e-6, 1e5),
        "wide": lambda: additive(40.0, 40.0),
    },
    "pairwise": {"": lambda: Pairwise(Partial(own), *vectors(1.0))},
}
NOT_HALF = {"offset", "small"}  # whose numbers half precision cannot hold


def scores_of(kind, f):
    """The scores of a form of a kind, whose arrays in float64 are `f`."""
    if kind is KeyOnly:
        return np.repeat(f["logits"][..., None, :], QUERIES, axis=-2)
    q, k = f["queries"][..., :, None, :], f["keys"][..., None, :, :]
    if kind is InnerProduct:
        return np.sum(q * k, -1) + f["query_bias"][..., None] + f["key_bias"][..., None, :]
    if kind is SquaredDistance:
        return -f["gamma"][..., None, None] * np.sum((q - k) ** 2, axis=-1)
    if kind is Additive:
        return np.sum(np.tanh(q + k) * f["readout"][..., None, None, :], axis=-1)
    return np.sin(q[..., 0] + q[..., 3]) * k[..., 1] - q[..., 2] * k[..., 4]


# Masks, and what they allow

rng = np.random.default_rng(0)
QUERY, KEY = np.arange(QUERIES)[:, None], np.arange(KEYS)[None, :]
PER_HEAD = rng.random((1, HEADS, QUERIES, KEYS)) < 0.5
LEFT_PADDED = np.arange(KEYS) >= np.array([[3], [KEYS]])  # the second has no key at all
QUERY_SEGMENTS = np.array([[0, 0, 1, 1, 2]] * 2)
KEY_SEGMENTS = np.array([[0, 1, 1, 2, 2, 3, 3]] * 2)
FIRST = np.array([4, 0])
MASKS = {
    "none": lambda: (None, True),
    "causal": lambda: ("causal", KEY <= QUERY),
    "lengths": lambda: (masks.lengths(jnp.asarray(FIRST)), FIRST[:, None, None, None] > KEY),
    "array": lambda: (jnp.asarray(PER_HEAD), PER_HEAD),
    "function": lambda: (lambda i, j: (i + j) % 3 == 0, (QUERY + KEY) % 3 == 0),
    "left padding, window": lambda: (
        masks.keys(jnp.asarray(LEFT_PADDED)) & masks.window(2),
        LEFT_PADDED[:, None, None, :] & (abs(QUERY - KEY) <= 2),
    ),
    "segments, not causal": lambda: (
        masks.segments(jnp.asarray(QUERY_SEGMENTS), jnp.asarray(KEY_SEGMENTS)) & ~masks.causal(),
        (QUERY_SEGMENTS[:, None, :, None] == KEY_SEGMENTS[:, None, None, :]) & ~(KEY <= QUERY),
    ),
}

# Biases

TABLE = rng.standard_normal((HEADS, QUERIES, KEYS)).astype(np.float32)
TABLE[:, 0, :2], TABLE[:, 1, 0], TABLE[:, 2, 1:], TABLE[1, 3, :] = LOWEST, -1e30, -np.inf, -np.inf
SLOPES = np.array([2.0**-4, 2.0**-8, 2.0**-2])[:, None, None]
BIASES = {
    "none": lambda: (None, 0.0),
    "array": lambda: (jnp.asarray(TABLE), TABLE.astype(np.float64)),
    "alibi": lambda: (Alibi(HEADS, rngs=nnx.Rngs(0)), -SLOPES * abs(QUERY - KEY)),
    "function": lambda: (
        lambda i, j: jnp.cos(jnp.float32(i)) * jnp.float32(j),
        np.cos(QUERY) * KEY,
    ),
}

NORMALIZERS = {
    "softmax": Softmax(),
    "sink": SoftmaxWithSink(0.5),
    "sigmoid": Sigmoid(),
    "sparsemax": sparsemax,
    "entmax15": entmax15,
}


def row_weights(name, scores):
    """The weights of a row, by the equation; `scores` of the keys that count alone."""
    if not len(scores):
        return scores
    best = scores.max()
    if name in ("softmax", "sink"):
        terms = np.exp(scores - best)
        return terms / (terms.sum() + (np.exp(min(0.5 - best, 700)) if name == "sink" else 0.0))
    if name == "sigmoid":
        return np.array([1 / (1 + math.exp(min(math.log(len(scores)) - s, 700))) for s in scores])
    power, x = (1, scores - best) if name == "sparsemax" else (2, (scores - best) / 2)
    low, high = -1.0, 0.0  # the threshold, by bisection
    for _ in range(100):
        middle = (low + high) / 2
        above = np.sum(np.maximum(x - middle, 0) ** power) > 1
        low, high = (middle, high) if above else (low, middle)
    return np.maximum(x - low, 0) ** power


def reference(normalizer, scores, bias, allowed, values):
    """The context and which pairs count, in loops over rows."""
    with np.errstate(over="ignore"):
        scores = np.broadcast_to(scores + bias, (*LEAD, QUERIES, KEYS))
        counts = np.broadcast_to(allowed, scores.shape) & (scores > -np.inf)
        capped = CAP * np.tanh(scores / CAP) if normalizer == "sigmoid" else scores
    context = np.zeros((*LEAD, QUERIES, values.shape[-1]))
    for at in np.ndindex(*LEAD, QUERIES):
        some = counts[at]
        context[at] = row_weights(normalizer, capped[at][some]) @ values[at[:-1]][some]
    return context, counts


def of_moved(kind, arrays, normalizer, added, allowed, keys, values):
    """The context of a form with these arrays, but other keys; and which pairs count."""
    return reference(normalizer, scores_of(kind, arrays | keys), added, allowed, values)


def soft_cap(score, i, j):
    return CAP * jnp.tanh(score / CAP)


def case_of(*case):
    return pytest.param(*case, id=", ".join(case))


def combinations():
    """Masks and biases take turns, and so do the dtypes of half precision."""
    turns = itertools.cycle(itertools.product(MASKS, BIASES))
    halves = itertools.cycle(["float16", "bfloat16"])
    for form, normalizer in itertools.product(FORMS, NORMALIZERS):
        for dtype in ("float32", next(halves)):
            yield case_of(form, normalizer, dtype, *next(turns))
    for mask, bias in itertools.product(MASKS, BIASES):
        yield case_of("inner product", "softmax", "float32", mask, bias)


def wide(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float64), tree)


@pytest.mark.parametrize(("form", "normalizer", "dtype", "mask", "bias"), list(combinations()))
def test_all_that_serve_it_are_the_equation(form, normalizer, dtype, mask, bias):
    variants = FORMS[form]
    if dtype != "float32":
        variants = {name: make for name, make in variants.items() if name not in NOT_HALF}
    (mask, allowed), (bias, added) = MASKS[mask](), BIASES[bias]()
    options = {"mask": mask, "bias": bias, "normalizer": NORMALIZERS[normalizer]}
    if normalizer == "sigmoid":
        options["score_mod"] = soft_cap
    values = normal(6, *LEAD, KEYS, VALUE_DIM).astype(dtype)
    functional = normal(7, *LEAD, QUERIES, VALUE_DIM).astype(dtype)

    @jit
    def run(form, values):
        def by(implementation):
            def attended(keys, values):
                whole = dataclasses.replace(form, **keys)
                return attend(whole, values, implementation=implementation, **options)

            context, pullback = jax.vjp(attended, by_key(form), values)
            return context, pullback(functional)

        return [by(implementation) for implementation in serving(form, values, options)]

    for name, make in variants.items():
        form = jax.tree.map(lambda leaf: leaf.astype(dtype), make())
        plain = wide(arrays_of(form))
        equation = functools.partial(of_moved, type(form), plain, normalizer, added, allowed)
        expected, counts = equation({}, wide(values))
        unseen = ~counts.any(axis=-2)
        spoiled = {name: _spoiled(leaf, unseen) for name, leaf in by_key(form).items()}
        with mock.patch.multiple(tiles, TILE_SIZE=6 * 9, PAIRWISE_TILE_SIZE=6 * 9):
            outcomes = run(dataclasses.replace(form, **spoiled), _spoiled(values, unseen))
        assert len(outcomes) >= 1

        moved = {name: plain[name] for name in form.per_key}, wide(values)
        directions = [
            np.std(leaf) * wide(normal([9, n], *leaf.shape))  # as large as what moves in it
            for n, leaf in enumerate(jax.tree.leaves(moved))
        ]
        slope = np.sum(wide(functional) * _slope(equation, moved, directions))
        # Scores of thousands have so many digits less behind the point.
        tolerance = TOLERANCE[dtype] * (20 if name == "offset" else 1)
        for context, gradients in outcomes:
            _assert_near(context, expected, tolerance)
            leaves = [np.asarray(leaf).astype(np.float64) for leaf in jax.tree.leaves(gradients)]
            for leaf in leaves:
                assert not leaf[unseen].any()  # nor NaN
            sizes = [np.abs(leaf * d).sum() for leaf, d in zip(leaves, directions, strict=True)]
            actual = sum(np.sum(leaf * d) for leaf, d in zip(leaves, directions, strict=True))
            assert abs(actual - slope) <= 3 * tolerance * max(1.0, *sizes)


def serving(form, values, options):
    request = prepared(
        form,
        values,
        options["mask"],
        options["bias"],
        options.get("score_mod"),
        options["normalizer"],
        None,
        Positions(),
    )
    if isinstance(request.form, SquaredDistance):
        return [None, "dense", *(["streaming"] if not callable_only(options["normalizer"]) else [])]
    return [name for name, one in ALGORITHMS.items() if one.obstacle(request) is None]


def callable_only(normalizer):
    return not isinstance(normalizer, Softmax | Sigmoid | SoftmaxWithSink)


def arrays_of(form):
    names = field_names(type(form), static=False)
    return {name: getattr(form, name) for name in names if name != "score"}


def _spoiled(leaf, unseen):
    """The leaf with NaN in every key that no query may attend to."""
    where = np.expand_dims(unseen, tuple(range(unseen.ndim, leaf.ndim)))
    return jnp.where(where, jnp.asarray(jnp.nan, leaf.dtype), leaf)


def _slope(equation, arrays, directions, step=1e-6):
    """The derivative of the context in float64, by the central difference."""
    leaves, structure = jax.tree.flatten(arrays)

    def at(sign):
        moved = [leaf + sign * step * d for leaf, d in zip(leaves, directions, strict=True)]
        return equation(*jax.tree.unflatten(structure, moved))[0]

    return (at(1) - at(-1)) / (2 * step)


def _assert_near(actual, expected, tolerance):
    actual = np.asarray(actual).astype(np.float64)
    atol = tolerance * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol, equal_nan=False)
