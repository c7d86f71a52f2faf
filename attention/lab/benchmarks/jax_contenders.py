"""Contenders in JAX: a context, compiled forward and with its gradients."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from attention.lab.benchmarks.program import PARTS, Program, failed

NOTHING: Mapping[str, Any] = {}


def jax_program(
    context: Callable[..., Array],
    arrays: list[Array],
    cotangent: Array,
    memory_gb: float,
    given: Mapping[str, Any] = NOTHING,
) -> Program:
    """The program of a context, a function of the arrays and of what is given beside them.

    It is compiled here, which shows how much memory it needs before it takes any of it; if that
    is more than `memory_gb`, there is nothing to run.
    """
    start = time.perf_counter()
    try:
        both = loss_and_gradient(context).lower(arrays, cotangent, given).compile()
    except jax.errors.JaxRuntimeError as failure:
        return Program(note=failed(failure))
    seconds = time.perf_counter() - start
    needed = both.memory_analysis().temp_size_in_bytes
    if needed > memory_gb * 1e9:
        return Program({}, seconds, False, needed, note=f"skipped: {needed / 1e9:.2g} GB")
    forward = jax.jit(context).lower(*arrays, **given).compile()
    runs = (
        lambda: jax.block_until_ready(forward(*arrays, **given)),
        lambda: jax.block_until_ready(both(arrays, cotangent, given)),
    )
    return Program(dict(zip(PARTS, runs, strict=True)), seconds, temporary_bytes=needed)


def loss_and_gradient(context: Callable[..., Array]) -> Any:
    """A compiled function of arrays, cotangent and what is given: the loss, and its gradients."""

    def loss(arrays: list[Array], cotangent: Array, given: Mapping[str, Any] = NOTHING) -> Array:
        return jnp.sum(context(*arrays, **given) * cotangent)

    return jax.jit(jax.value_and_grad(loss))
