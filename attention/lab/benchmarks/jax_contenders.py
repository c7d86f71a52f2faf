"""Contenders in JAX: a context, compiled forward and with its gradients."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from attention.lab.benchmarks.program import PARTS, Program, failed


def jax_program(
    context: Callable[..., Array], arrays: list[Array], cotangent: Array, memory_gb: float
) -> Program:
    """The program of a context.

    It is compiled here, which shows how much memory it needs before it takes any of it; if that
    is more than `memory_gb`, there is nothing to run.
    """
    start = time.perf_counter()
    try:
        both = loss_and_gradient(context).lower(arrays, cotangent).compile()
    except jax.errors.JaxRuntimeError as failure:
        return Program(note=failed(failure))
    seconds = time.perf_counter() - start
    needed = both.memory_analysis().temp_size_in_bytes
    if needed > memory_gb * 1e9:
        return Program({}, seconds, False, needed, note=f"skipped: {needed / 1e9:.2g} GB")
    forward = jax.jit(context).lower(*arrays).compile()
    runs = (
        lambda: jax.block_until_ready(forward(*arrays)),
        lambda: jax.block_until_ready(both(arrays, cotangent)),
    )
    return Program(dict(zip(PARTS, runs, strict=True)), seconds, temporary_bytes=needed)


def loss_and_gradient(context: Callable[..., Array]) -> Any:
    """A compiled function of the arrays and the cotangent: the loss, and its gradients."""

    def loss(arrays: list[Array], cotangent: Array) -> Array:
        return jnp.sum(context(*arrays) * cotangent)

    return jax.jit(jax.value_and_grad(loss))
