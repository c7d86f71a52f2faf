"""The contenders of a problem: by what means it is solved, in JAX and in PyTorch."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from attention.lab.benchmarks.jax_contenders import jax_program
from attention.lab.benchmarks.problems import DIM, PROBLEMS, Given, ignores_query
from attention.lab.benchmarks.program import PARTS, Program
from attention.lab.benchmarks.torch_contenders import (
    COMPILED,
    EAGER,
    FLEX,
    TORCH_PROBLEMS,
    torch_programs,
)

PICKED, PLAIN = "picked", "plain JAX"
MEMORY_COPY = "memory copy"  # no attention: what reading and writing so many bytes costs
RIVALS = (PLAIN, EAGER, COMPILED, FLEX, MEMORY_COPY)  # whose time is compared with
MOST_PAIRS = 2**31  # of a query and a key: more of them, one by one, would take minutes


def draw(name: str, size: tuple[int, int, int], seed: int) -> tuple[list[Array], Array]:
    """The arrays of a problem, the values last; and the cotangent of its context.

    Args:
      name: of the problem.
      size: batch, queries, keys.
      seed: of the random numbers.
    """
    batch, queries, keys = size
    shapes = [*PROBLEMS[name].shapes(*size), ((batch, keys, DIM), 1.0)]
    random = np.random.default_rng(seed)
    *arrays, cotangent = (
        jnp.asarray(std * random.standard_normal(shape, np.float32))
        for shape, std in [*shapes, ((batch, queries, DIM), 1.0)]
    )
    return arrays, cotangent


def draw_given(name: str, size: tuple[int, int, int], seed: int) -> Given:
    """What a problem has beside its arrays. The arguments are those of `draw`."""
    _, queries, keys = size
    return PROBLEMS[name].given(np.random.default_rng([seed, 1]), queries, keys)


def programs(
    name: str,
    arrays: list[Array],
    cotangent: Array,
    memory_gb: float,
    torch: bool,
    only: Sequence[str] = (),
    given: Given | None = None,
) -> dict[str, Program]:
    """The programs of a problem, by the names of the contenders; plain JAX first.

    Args:
      name: of the problem.
      arrays: of the problem, as `draw` makes them.
      cotangent: of the context.
      memory_gb: what needs more temporary memory is skipped.
      torch: whether PyTorch is among the contenders.
      only: names of contenders in JAX; if there are any, the others are left out.
      given: what the problem has beside its arrays, as `draw_given` makes it.
    """
    problem, given = PROBLEMS[name], given or {}
    contexts: dict[str, Callable[..., Array]] = {PLAIN: problem.plain}
    for implementation in (None, *problem.implementations):
        contexts[implementation or PICKED] = functools.partial(problem.attend, implementation)
    contexts |= dict(problem.rivals)
    pairs = cotangent.shape[0] * cotangent.shape[1] * arrays[-1].shape[1]
    found = {}
    for contender, context in contexts.items():
        if only and contender not in only:
            continue
        if contender in ("dense", "streaming") and pairs > MOST_PAIRS:
            found[contender] = Program(note=f"skipped: {pairs:.0e} pairs")
        else:
            found[contender] = jax_program(context, arrays, cotangent, memory_gb, given)
    if ignores_query(name) and not only:  # little but memory to wait for
        found[MEMORY_COPY] = copy_program(arrays[-1])
    if torch and name in TORCH_PROBLEMS:
        found |= torch_programs(name, arrays, cotangent, too_large=not found[PLAIN].runs)
    return found


def copy_program(array: Array) -> Program:
    """The program that copies an array, the same for both parts."""
    copy = jax.jit(jnp.copy).lower(array).compile()
    return Program(dict.fromkeys(PARTS, lambda: jax.block_until_ready(copy(array))))
