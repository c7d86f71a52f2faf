"""Contenders in PyTorch (extra `bench`), which is imported only where they are asked for."""

import os
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array

from attention.lab.benchmarks.program import PARTS, Program

EAGER, COMPILED, FLEX = "PyTorch eager", "torch.compile", "FlexAttention"
TORCH_PROBLEMS = ("mlp", "dot", "own", "linear", "linear, causal")  # that are written below


def torch_programs(
    name: str, arrays: list[Array], cotangent: Array, *, too_large: bool
) -> dict[str, Program]:
    """The programs of a problem in PyTorch, on the device that JAX has.

    Args:
      name: of the problem.
      arrays: of the problem, as `draw` makes them.
      cotangent: of the context.
      too_large: whether plain JAX needs too much memory. So would PyTorch, which does not tell
        before it takes the memory.
    """
    import torch

    on_gpu = jax.default_backend() == "gpu"
    plain = torch_plain(name)
    contexts = {EAGER: plain, COMPILED: torch.compile(plain, dynamic=False)}
    if name == "dot":
        contexts[FLEX] = torch_flex()
    if too_large:
        return {rival: Program(note="skipped, as plain JAX is") for rival in contexts}
    if on_gpu and not torch.cuda.is_available():
        return {rival: Program(note="skipped: this PyTorch has no CUDA") for rival in contexts}
    if on_gpu:
        torch.set_float32_matmul_precision("high")  # TensorFloat-32, as in JAX
    # Every size is compiled for itself, and anew: what is in a cache would look like no time.
    torch._dynamo.reset()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()
    device = "cuda" if on_gpu else "cpu"
    *leaves, weights = (torch.tensor(np.asarray(x), device=device) for x in [*arrays, cotangent])
    return {
        rival: torch_program(context, leaves, weights, compiles_late=rival != EAGER)
        for rival, context in contexts.items()
    }


def torch_program(
    context: Callable[..., Any], arrays: list[Any], cotangent: Any, *, compiles_late: bool
) -> Program:
    """The program of a context in PyTorch."""
    import torch

    wait = torch.cuda.synchronize if cotangent.is_cuda else lambda: None
    inputs = [array.clone().requires_grad_() for array in arrays]

    def forward() -> Any:
        with torch.no_grad():
            result = context(*arrays)
        wait()
        return result

    def both() -> Any:
        loss = (context(*inputs) * cotangent).sum()
        result = loss, torch.autograd.grad(loss, inputs)
        wait()
        return result

    return Program(dict(zip(PARTS, (forward, both), strict=True)), compiles_late=compiles_late)


def torch_plain(name: str) -> Callable[..., Any]:
    """The context of a problem as a person writes it in PyTorch; of `dot`, by its fused kernel."""
    import torch

    def mlp(queries, keys, readout, values):
        hidden = torch.tanh(queries[:, :, None] + keys[:, None])
        return (hidden @ readout).softmax(-1) @ values

    def dot(*arrays):
        queries, keys, values = (array[:, None] for array in arrays)  # one head
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(queries, keys, values, scale=1.0)[:, 0]

    def own(queries, keys, weights, values):
        distance = (queries[:, :, None] - keys[:, None]).square().mean(-1, keepdim=True)
        return (torch.tanh(distance * weights[0] + weights[1]) @ weights[2]).softmax(-1) @ values

    def pooling(logits, values):
        return logits.softmax(-1)[:, None] @ values

    def causal(logits, values):
        weights = (logits - logits.amax(-1, keepdim=True)).exp()[..., None]
        return (weights * values).cumsum(1) / weights.cumsum(1)

    contexts: list[Callable[..., Any]] = [mlp, dot, own, pooling, causal]
    return dict(zip(TORCH_PROBLEMS, contexts, strict=True))[name]


def torch_flex() -> Callable[..., Any]:
    """The context of `dot` by FlexAttention, which is slow unless it is compiled."""
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)

    def dot(*arrays):
        queries, keys, values = (array[:, None] for array in arrays)  # one head
        return compiled(queries, keys, values, scale=1.0)[:, 0]

    return dot
