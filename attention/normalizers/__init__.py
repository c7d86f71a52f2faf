"""Normalizers: from scores to weights, over the last axis.

A normalizer is a function `(scores, where=None) -> weights`. Of a plain function, such as
`sparsemax`, nothing more is known, and so it is served by algorithms that hold all scores of a
query at once. `Softmax`, `Sigmoid` and `SoftmaxWithSink` are classes, for more is known of them:
by their type an algorithm sees that keys can be taken tile by tile, or device by device.

All normalizers here share a contract. `where` broadcasts against the scores. A key that it rules
out, or whose score is −inf, might as well be absent: its weight and its gradient are zero,
whatever it holds, and it is not counted. Any finite score, the lowest too, is that of an allowed
key. A row with no allowed key has weights zero and gradient zero. Half precision is widened to
float32 inside, and the weights have the dtype of the scores.

A normalizer with parameters is an `nnx.Module` that a layer makes (`make_normalizer`), as it
makes a bias: `LearnedSink(query_dim, heads, rngs=rngs)`. In each call it reads the queries
(`read_normalizer`), and what it returns is a normalizer as above, a pytree, for scores of the
axes `[*batch, heads, queries, keys]`.
"""

from attention.normalizers.adaptive import ASEntmax, ScaledEntmax
from attention.normalizers.contract import Normalizer, Scores, Weights, Where
from attention.normalizers.named import (
    NORMALIZERS,
    SPARSE,
    find_normalizer,
    make_normalizer,
    normalizer_name,
    read_normalizer,
)
from attention.normalizers.own import Guarded
from attention.normalizers.sinks import LearnedSink, SoftmaxWithSink
from attention.normalizers.smooth import Sigmoid, Softmax, sigmoid, softmax
from attention.normalizers.sparse import entmax15, sparsemax

__all__ = [
    "NORMALIZERS",
    "SPARSE",
    "ASEntmax",
    "Guarded",
    "LearnedSink",
    "Normalizer",
    "ScaledEntmax",
    "Scores",
    "Sigmoid",
    "Softmax",
    "SoftmaxWithSink",
    "Weights",
    "Where",
    "entmax15",
    "find_normalizer",
    "make_normalizer",
    "normalizer_name",
    "read_normalizer",
    "sigmoid",
    "softmax",
    "sparsemax",
]
