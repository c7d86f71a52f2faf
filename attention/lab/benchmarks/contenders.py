"""The contenders of `benchmark.py`: problems, and the programs that solve each."""

import functools
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial

from attention import Additive, InnerProduct, KeyOnly, Pairwise, attend, masks

DIM, HIDDEN, OWN_HIDDEN = 64, 64, 32  # DIM: of queries, keys and values
MOST_PAIRS = 2**31  # one by one, more would take minutes
PICKED, PLAIN, COPY = "picked", "plain JAX", "copy"
EAGER, COMPILED, FLEX = "PyTorch eager", "torch.compile", "FlexAttention"
RIVALS = (PLAIN, EAGER, COMPILED, FLEX, COPY)
PARTS = ("forward", "forward+backward")

Run = Callable[[], Any]


@dataclass(frozen=True)
class Problem:
    """A score, as this library is given it and as one writes it by hand.

    Attributes:
      shapes: of a batch of n queries and m keys: the arrays but the values, queries first, each
        with its standard deviation.
      form: of these arrays.
      plain: the context, of these arrays and the values.
      implementations: what serves the form.
      rivals: more contenders, in JAX.
    """

    shapes: Callable[[int, int, int], list[tuple[tuple[int, ...], float]]]
    form: Callable[..., Any]
    plain: Callable[..., Array]
    implementations: tuple[str, ...]
    rivals: tuple[tuple[str, Callable[..., Array]], ...] = ()
    mask: masks.Mask | None = None

    def attend(self, implementation: Any, *arrays: Array) -> Array:
        form = self.form(*arrays[:-1])
        return attend(form, arrays[-1], mask=self.mask, implementation=implementation)


# The problems.


def mlp_plain(queries: Array, keys: Array, readout: Array, values: Array) -> Array:
    hidden = jnp.tanh(queries[:, :, None] + keys[:, None])
    return jax.nn.softmax(jnp.einsum("bnmh,h->bnm", hidden, readout)) @ values


def dot_plain(queries: Array, keys: Array, values: Array) -> Array:
    return jax.nn.softmax(jnp.einsum("bnd,bmd->bnm", queries, keys)) @ values


def dot_kernel(*arrays: Array) -> Array:
    queries, keys, values = (array[:, :, None] for array in arrays)  # one head
    return jax.nn.dot_product_attention(queries, keys, values, scale=1.0)[:, :, 0]


def own_score(weights: Array, query: Array, key: Array) -> Array:
    """A user's score, of which nothing is known: the squared distance through an MLP."""
    distance = jnp.mean(jnp.square(query - key))
    return jnp.tanh(distance * weights[0] + weights[1]) @ weights[2]


def own_form(queries: Array, keys: Array, weights: Array) -> Pairwise:
    return jax.vmap(functools.partial(Pairwise, Partial(own_score, weights)))(queries, keys)


def own_plain(queries: Array, keys: Array, weights: Array, values: Array) -> Array:
    over_keys = jax.vmap(functools.partial(own_score, weights), in_axes=(None, 0))
    scores = jax.vmap(jax.vmap(over_keys, in_axes=(0, None)))(queries, keys)
    return jax.nn.softmax(scores) @ values


def pooling_plain(logits: Array, values: Array) -> Array:
    return jax.nn.softmax(logits)[:, None] @ values


def causal_plain(logits: Array, values: Array) -> Array:
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))[..., None]
    return jnp.cumsum(weights * values, axis=1) / jnp.cumsum(weights, axis=1)


PROBLEMS = {
    "mlp": Problem(
        lambda b, n, m: [((b, n, HIDDEN), 1.0), ((b, m, HIDDEN), 1.0), ((HIDDEN,), HIDDEN**-0.5)],
        jax.vmap(Additive, in_axes=(0, 0, None)),
        mlp_plain,
        ("dense", "additive", "streaming"),
    ),
    "dot": Problem(
        lambda b, n, m: [((b, n, DIM), DIM**-0.5), ((b, m, DIM), 1.0)],
        InnerProduct,
        dot_plain,
        ("dense", "inner_product", "streaming"),
        rivals=(("jax.nn.dot_product_attention", dot_kernel),),
    ),
    "own": Problem(
        lambda b, n, m: [
            ((b, n, DIM), 1.0),
            ((b, m, DIM), 1.0),
            ((3, OWN_HIDDEN), OWN_HIDDEN**-0.5),
        ],
        own_form,
        own_plain,
        ("dense", "streaming"),
    ),
    "linear": Problem(
        lambda b, n, m: [((b, m), 1.0)],
        functools.partial(KeyOnly, num_queries=1),
        pooling_plain,
        ("dense", "key_only", "streaming"),
    ),
    "linear, causal": Problem(
        lambda b, n, m: [((b, m), 1.0)],
        lambda logits: KeyOnly(logits, num_queries=logits.shape[-1]),
        causal_plain,
        ("dense", "prefix", "streaming"),
        mask=masks.causal(),
    ),
}


def torch_plain(name: str) -> Callable[..., Any]:
    """The same in PyTorch; for `dot`, its own fused kernel."""
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
    return dict(zip(PROBLEMS, contexts, strict=True))[name]


def torch_flex() -> Callable[..., Any]:
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)

    def dot(*arrays):
        queries, keys, values = (array[:, None] for array in arrays)
        return compiled(queries, keys, values, scale=1.0)[:, 0]

    return dot


# The programs of a problem.


@dataclass
class Program:
    """A contender, ready to run or not.

    Attributes:
      runs: each of `PARTS` that can be run, waiting for its result: the context; the loss and
        its gradients.
      compile_seconds: of forward+backward, if it is compiled before its first call.
      compiles_late: on its first call.
      temporary_bytes: of forward+backward, if known.
      note: what the reader must know.
    """

    runs: dict[str, Run] = field(default_factory=dict)
    compile_seconds: float | None = None
    compiles_late: bool = False
    temporary_bytes: int | None = None
    note: str = ""


def draw(name: str, size: tuple[int, int, int], seed: int) -> tuple[list[Array], Array]:
    """The arrays of a problem, and the cotangent of its context."""
    batch, queries, keys = size
    shapes = [*PROBLEMS[name].shapes(*size), ((batch, keys, DIM), 1.0)]
    random = np.random.default_rng(seed)
    *arrays, cotangent = (
        jnp.asarray(std * random.standard_normal(shape, np.float32))
        for shape, std in [*shapes, ((batch, queries, DIM), 1.0)]
    )
    return arrays, cotangent


def programs(
    name: str,
    arrays: list[Array],
    cotangent: Array,
    memory_gb: float,
    torch: bool,
    only: Sequence[str] = (),
) -> dict[str, Program]:
    """Every contender, or only some of those in JAX; plain JAX first."""
    problem = PROBLEMS[name]
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
            found[contender] = jax_program(context, arrays, cotangent, memory_gb)
    if name.startswith("linear") and not only:
        found[COPY] = copy_program(arrays[-1])
    if torch:
        found |= torch_programs(name, arrays, cotangent, too_large=not found[PLAIN].runs)
    return found


def jax_program(
    context: Callable[..., Array], arrays: list[Array], cotangent: Array, memory_gb: float
) -> Program:
    """Compiled, which shows how much memory it needs before it takes it."""
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
    def loss(arrays: list[Array], cotangent: Array) -> Array:
        return jnp.sum(context(*arrays) * cotangent)

    return jax.jit(jax.value_and_grad(loss))


def copy_program(array: Array) -> Program:
    copy = jax.jit(jnp.copy).lower(array).compile()
    return Program(dict.fromkeys(PARTS, lambda: jax.block_until_ready(copy(array))))


def torch_programs(
    name: str, arrays: list[Array], cotangent: Array, *, too_large: bool
) -> dict[str, Program]:
    """PyTorch's, on the device that JAX has."""
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
    torch._dynamo.reset()  # each size is compiled for itself, and anew
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


def failed(failure: Exception) -> str:
    """What failed, in a line."""
    first = next(iter(str(failure).strip().splitlines()), "").replace("|", "¦")
    return f"failed: {type(failure).__name__}: {first[:60]}"
