"""Masks: functions of a query index and a key index to a boolean, `True` where a query may attend.

Masks are composed with `&`, `|` and `~`, and evaluated for the indices an algorithm asks for, so no
`[queries, keys]` array need exist. They are pytrees, passed as arguments. The leading
axes of their leaves are batch axes: `attend` aligns them, from the left, with the
leading axes of the scores (`[batch]` against `[batch, heads]`) and broadcasts the rest. Arrays of
pairs alone broadcast as in NumPy: see `dense`.
"""

from attention.masks.given import Dense, FunctionMask, GivenMask, as_mask, dense, function
from attention.masks.mask import Both, Either, Mask, Not
from attention.masks.positions import (
    Band,
    Causal,
    Located,
    OffsetCausal,
    Window,
    causal,
    window,
)
from attention.masks.sides import (
    Keys,
    Lengths,
    Queries,
    QueryLengths,
    Segments,
    keys,
    lengths,
    queries,
    query_lengths,
    segments,
)

__all__ = [
    "Band",
    "Both",
    "Causal",
    "Dense",
    "Either",
    "FunctionMask",
    "GivenMask",
    "Keys",
    "Lengths",
    "Located",
    "Mask",
    "Not",
    "OffsetCausal",
    "Queries",
    "QueryLengths",
    "Segments",
    "Window",
    "as_mask",
    "causal",
    "dense",
    "function",
    "keys",
    "lengths",
    "queries",
    "query_lengths",
    "segments",
    "window",
]
