"""Time of a step with a cache, beside the same in plain JAX.

One query a batch element against all keys of a cache, for scores that are matrix products and for
scores that are not. Plain JAX projects and writes the key, writes the value, takes all scores,
softmax and the mix, as a person writes that; every batch element counts its own keys, as here. Both
give their caches away (donate them) to be written in place. Both take turns in one process, a turn
being `--steps` steps into the last places of the cache. Shown are compile seconds, the median time
of a step, and the ratio of each round's times.
"""

import dataclasses
import os
import statistics
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from attention import Attention

BATCH, DIM = 8, 64
SCORES = ("scaled_dot", "mlp")
HERE, PLAIN = "attention", "plain JAX"

Vectors = tuple[Array, Array, Array]  # query, key and value, `[batch, dim]`
PlainCache = tuple[Array, Array, Array]  # projected keys, values, positions


@dataclasses.dataclass
class Decoder:
    """A contender, compiled.

    Attributes:
      run: from query, key, value and cache to the context and the next cache.
      cache: full but for the steps of a turn.
      rewound: from a cache to the same at these positions.
      compile_seconds: of the first call.
    """

    run: Callable[..., tuple[Array, Any]]
    cache: Any
    rewound: Callable[[Any, Array], Any]
    compile_seconds: float = 0.0

    def turn(self, steps: list[Vectors], positions: Array) -> list[Array]:
        """The contexts of some steps, each of which is waited for."""
        cache, contexts = self.rewound(self.cache, positions), []
        for vectors in steps:
            context, cache = self.run(*vectors, cache)
            contexts.append(jax.block_until_ready(context))
        self.cache = cache
        return contexts


def report(rounds: int, steps: int, keys: int) -> Iterator[str]:
    """The lines to show, a line a contender, as they are measured.

    Args:
      rounds: how many turns every contender has.
      steps: how many steps make a turn.
      keys: how many keys the cache has room for.
    """
    device = f"jax {jax.__version__} on {jax.devices()[0].device_kind}"
    yield f"{device}, batch {BATCH}, one head, {keys} keys of {DIM}, {rounds} rounds"
    for score in SCORES:
        contenders = decoders(score, steps, keys)
        given, positions = vectors(steps), jnp.full(BATCH, keys - steps, jnp.int32)
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(-1, rounds):  # the first warms up
            for name, decoder in contenders.items():
                start = perf_counter()
                decoder.turn(given, positions)
                if turn >= 0:
                    times[name].append((perf_counter() - start) / steps)
        yield from lines(score, contenders, times)
    yield f"{os.cpu_count()} CPU cores, load at the end {os.getloadavg()[0]:.1f}"


def lines(
    score: str, contenders: dict[str, Decoder], times: dict[str, list[float]]
) -> Iterator[str]:
    """For each contender the median of its milliseconds, and of the rounds' ratios."""
    for name, taken in times.items():
        ratios = [here / other for here, other in zip(taken, times[PLAIN], strict=True)]
        yield (
            f"{score:10} {name:9} {statistics.median(taken) * 1e3:7.3f} ms a step,"
            f" {statistics.median(ratios):5.2f} times {PLAIN}"
            f" ({min(ratios):.2f}–{max(ratios):.2f}),"
            f" compiled in {contenders[name].compile_seconds:.1f} s"
        )


def vectors(steps: int, seed: int = 0) -> list[Vectors]:
    """Query, key and value of some steps."""
    draws = np.random.default_rng(seed).standard_normal((steps, 3, BATCH, DIM), np.float32)
    return [tuple(map(jnp.asarray, step)) for step in draws]  # type: ignore[misc]


def decoders(score: str, steps: int, keys: int) -> dict[str, Decoder]:
    """The contenders for a score, their caches filled by the same keys and values.

    Args:
      score: one of `SCORES`.
      steps: for how many there is room.
      keys: how many the caches have room for.
    """
    layer = Attention(score, DIM, DIM, rngs=nnx.Rngs(0))
    graph, state = nnx.split(layer)
    prompt = np.random.default_rng(1).standard_normal((2, BATCH, keys, DIM), np.float32)
    positions = jnp.full(BATCH, keys - steps, jnp.int32)

    def here(state: Any, query: Array, key: Array, value: Array, cache: Any) -> tuple[Array, Any]:
        return nnx.merge(graph, state).step(query, key, value, cache)

    def filled(state: Any, keys_given: Array, values: Array) -> Any:
        cache = nnx.merge(graph, state).init_cache(BATCH, keys)
        return here(state, keys_given, keys_given, values, cache)[1]

    def rewound(cache: Any, positions: Array) -> Any:
        return dataclasses.replace(cache, positions=positions + 0)  # a copy, to be given away

    # Compiled, it computes no context, for none is asked for.
    cache = jax.jit(filled)(state, *map(jnp.asarray, prompt))
    plain, parameters, project = plain_step(score, layer)
    kept = project(parameters, jnp.asarray(prompt[0]))
    plain_cache = (kept + 0, jnp.asarray(prompt[1]) + 0, positions)
    return {
        PLAIN: compiled(plain, parameters, plain_cache, lambda old, at: (*old[:2], at + 0)),
        HERE: compiled(here, state, cache, rewound),
    }


def compiled(
    step: Callable[..., Any], parameters: Any, cache: Any, rewound: Callable[[Any, Array], Any]
) -> Decoder:
    """The contender of a step, which is given its parameters and a cache."""
    run = jax.jit(step, donate_argnums=4)
    (first,) = vectors(1)
    start = perf_counter()
    _, cache = jax.block_until_ready(run(parameters, *first, cache))
    seconds = perf_counter() - start
    return Decoder(lambda *rest: run(parameters, *rest), cache, rewound, seconds)


def plain_step(score: str, layer: Attention) -> tuple[Callable[..., Any], Any, Callable[..., Any]]:
    """A step in plain JAX, its parameters (those of the layer), and how it projects keys."""
    names: tuple[str, ...] = ()
    if score == "scaled_dot":
        project, scores = _kept, _dot
    else:
        project, scores = _projected, _mlp
        names = ("query_weight", "key_weight", "bias", "readout")
    parameters = {name: jnp.asarray(getattr(layer.score, name)[...][0]) for name in names}

    def step(
        parameters: Any, query: Array, key: Array, value: Array, cache: PlainCache
    ) -> tuple[Array, PlainCache]:
        keys, values, positions = cache
        keys = _written(keys, project(parameters, key), positions)
        values = _written(values, value, positions)
        so_far = jnp.arange(keys.shape[1], dtype=jnp.int32) <= positions[:, None]
        weights = jax.nn.softmax(jnp.where(so_far, scores(parameters, query, keys), -jnp.inf))
        return jnp.einsum("bm,bmd->bd", weights, values), (keys, values, positions + 1)

    return step, parameters, project


def _written(kept: Array, new: Array, positions: Array) -> Array:
    def write(kept: Array, new: Array, position: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(kept, new[None], position, axis=0)

    return jax.vmap(write)(kept, new, positions)


def _kept(parameters: dict[str, Array], keys: Array) -> Array:
    return keys


def _dot(parameters: dict[str, Array], query: Array, keys: Array) -> Array:
    return jnp.einsum("bd,bmd->bm", query / DIM**0.5, keys)


def _projected(parameters: dict[str, Array], keys: Array) -> Array:
    return keys @ parameters["key_weight"] + parameters["bias"]


def _mlp(parameters: dict[str, Array], query: Array, keys: Array) -> Array:
    hidden = (query @ parameters["query_weight"])[:, None] + keys
    return jnp.tanh(hidden) @ parameters["readout"]
