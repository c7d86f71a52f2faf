"""Arrays of a traced program: how large those are that no compiler can do without."""

import math
import re
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jaxtyping import PyTree

# What goes in and out of a matrix product lies in memory as a whole array, and so does what comes
# out of the others. What other operations make may be fused with what reads it.
PRODUCTS = ("dot_general", "conv_general_dilated")
WHOLE_RESULTS = (*PRODUCTS, "sort", "scan", "while", "top_k", "cumsum", "scatter", "scatter-add")


def bytes_of(tree: PyTree) -> int:
    """The bytes of all arrays of a tree, of which the shapes are enough."""
    return sum(
        math.prod(leaf.shape) * getattr(leaf.dtype, "itemsize", 0) for leaf in jax.tree.leaves(tree)
    )


def largest_array(program: ClosedJaxpr) -> int:
    """The bytes of the largest array that a program must have as a whole at some time."""
    return _largest(program.jaxpr)


def scopes(program: ClosedJaxpr) -> set[str]:
    """The names that `jax.named_scope` has given to parts of a program."""
    return set(_scopes(program.jaxpr))


def _largest(program: Jaxpr) -> int:
    spread = {
        result
        for operation in program.eqns
        if operation.primitive.name == "broadcast_in_dim"
        for result in operation.outvars
    }
    largest = 0
    for operation in program.eqns:
        name = operation.primitive.name
        arrays = list(operation.outvars) if name in WHOLE_RESULTS else []
        if name in PRODUCTS:
            arrays += [v for v in operation.invars if isinstance(v, Literal) or v not in spread]
        inner = [_largest(part) for part in _parts(operation)]
        # Of several branches one is taken.
        within = (min if name == "cond" else max)(inner, default=0)
        largest = max(largest, within, *(bytes_of(array.aval) for array in arrays), 0)
    return largest


def _scopes(program: Jaxpr) -> Iterator[str]:
    for operation in program.eqns:
        yield from re.split(r"[/()]", str(operation.source_info.name_stack))
        for part in _parts(operation):
            yield from _scopes(part)


def _parts(operation: Any) -> Iterator[Jaxpr]:
    """The programs within an operation, such as the body of a loop."""
    for value in operation.params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            program = getattr(each, "jaxpr", each)
            if isinstance(program, Jaxpr):
                yield program
