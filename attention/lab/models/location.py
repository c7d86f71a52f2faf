"""The location-aware decoder: where it looks next depends on where it has looked.

Nothing in it counts positions, and nothing is carried from step to step but the weights, and what
the keys they lie on say of beginning again. So whatever it has learned to do from one step to the
next, it can do at any length, as long as the weights stay sharp: with `softmax` they thin out as
sources grow, with `sparsemax` a key that loses by enough weighs nothing, however many there are.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attention.lab.tasks.batch import before
from attention.layers import Attention
from attention.normalizers import NORMALIZERS, SPARSE, Normalizer, softmax

REACH = 3  # places that a decoder can be drawn, ahead or back, from where it looked
# How much faster than other parameters those of the step before move. They must outweigh what the
# score makes of the keys by more than sixteen steps ask for: a smear that training forgives grows
# at each step. Those of the sum must not be as fast: to shun what was seen is learned at once, and
# says little of where to go.
GAIN = 4.0
# How much of a gradient goes on to the step before. All of it, times the gain, would grow from step
# to step until the first ones drown in it; none, and the first ones do not learn for those to come.
FLOW = 0.5
# How much of a gradient goes through the softmax of the scores. Sparse weights pass none to a key
# without weight, so a head that has come to rest on one key would never learn to leave it; with all
# of it, the gradients are of other weights than those in use, and some seeds are led astray.
LEAK = 0.5

Seen = Float[Array, "batch heads source_time_and_one"]


class Location(nnx.Module):
    """What the weights of earlier steps add to the scores.

    Two learned correlations: one of the weights of the step before (Chorowski et al.,
    arXiv 1506.07503), one of log₂(1 + the sum of all before) (arXiv 1712.05884 takes the sum
    itself, which on a key that is never left grows beyond all that training has shown). At the
    start all weight lies on a place before the first key.

    Args:
      heads: number of heads.
    """

    def __init__(self, heads: int):
        self.previous = nnx.Param(jnp.zeros((heads, 2 * REACH + 1)))
        self.total = nnx.Param(jnp.zeros((heads, 2 * REACH + 1)))

    def start(self, batch: int, heads: int, time: int) -> tuple[Seen, Seen]:
        """Previous and summed weights before the first step; their first place is before all."""
        nowhere = jnp.zeros((batch, heads, time + 1))
        return nowhere.at[:, :, 0].set(1.0), nowhere

    def __call__(self, previous: Seen, total: Seen) -> Float[Array, "batch heads source_time"]:
        previous, total = _damped(previous), _damped(total)
        drawn = GAIN * _correlate(previous, self.previous[...])
        return drawn + _correlate(jnp.log2(1 + total), self.total[...])


def leaky(normalize: Normalizer) -> Normalizer:
    """The same weights; in part, their gradient is that of `softmax`.

    A straight-through estimator (arXiv 1308.3432) for a share of `LEAK`.
    """

    def weights(scores: Array, where: Array | None = None) -> Array:
        hard = normalize(scores, where)
        leak = LEAK * (softmax(scores, where) - hard)
        return hard + (leak - jax.lax.stop_gradient(leak))

    return weights


class LocationDecoder(nnx.Module):
    """Two learned queries, one to begin with and one of every step, and where it has looked.

    It begins on a place before the first key, and goes back there as much as a linear map of the
    keys just read says. How much the scores of the second query count is learned too. Both start
    from nothing: where to go on is first sought beside where it was.

    Where weights can be zero, half of their gradient is that of `softmax`.

    The logits are linear in the context. With a score that ignores the query, or `uniform`,
    what remains is the location.

    Args:
      score: a score class or function, see `Attention`.
      vocabulary: number of tokens.
      time: number of target positions; any number can be asked for.
      dim: size of queries and of memory vectors.
      heads: number of heads.
      embedding_std: standard deviation of the initial queries.
      normalizer: name of the normalizer.
      rngs: source of initial parameters.
      **attention: further arguments of `Attention`, those of the score among them.
    """

    def __init__(
        self,
        score: Callable[..., Any],
        vocabulary: int,
        time: int,
        dim: int,
        *,
        heads: int = 1,
        embedding_std: float = 0.5,
        normalizer: str = "softmax",
        rngs: nnx.Rngs,
        **attention: Any,
    ):
        del time  # there is no parameter a position
        initial = jax.nn.initializers.normal(embedding_std)
        self.queries = nnx.Param(initial(rngs.params(), (2, dim)))
        self.content = nnx.Param(jnp.zeros(()))
        self.attention = Attention(
            score, dim, dim, heads=heads, normalizer=normalizer, rngs=rngs, **attention
        )
        self.location = Location(heads)
        self.again = nnx.Linear(
            dim, heads, use_bias=False, kernel_init=nnx.initializers.zeros, rngs=rngs
        )
        self.output = nnx.Linear(dim, vocabulary, rngs=rngs)

    def logits(
        self,
        memory: Float[Array, "batch source_time dim"],
        length: Int[Array, " batch"],
        target: Int[Array, "batch time"],
    ) -> Float[Array, "batch time vocabulary"]:
        return self._logits(memory, length, target.shape[1])[0]

    def greedy(
        self, memory: Float[Array, "batch source_time dim"], length: Int[Array, " batch"], time: int
    ) -> tuple[Int[Array, "batch time"], Float[Array, "batch heads time source_time"]]:
        logits, weights = self._logits(memory, length, time)
        return jnp.argmax(logits, axis=-1), weights

    def _logits(self, memory: Array, length: Array, time: int) -> tuple[Array, Array]:
        weights = self._weights(memory, before(length, memory.shape[1]), time)
        return self.output(self.attention.context(weights, memory)), weights

    def _weights(
        self,
        memory: Float[Array, "batch source_time dim"],
        counts: Bool[Array, "batch source_time"],
        time: int,
    ) -> Float[Array, "batch heads time source_time"]:
        scores = self.attention.scores(self.queries[...], memory)
        begin, every = scores[:, :, 0], self.content[...] * scores[:, :, 1]
        again = jnp.moveaxis(self.again(memory), 2, 1)
        normalize = NORMALIZERS[self.attention.normalizer]
        if self.attention.normalizer in SPARSE:
            normalize = leaky(normalize)

        def step(seen, _):
            previous, total = seen
            begins = _damped(previous[:, :, :1])
            located = begins * begin + every + self.location(previous, total)
            weights = normalize(located, counts[:, None])
            back = jnp.sum(weights * again, axis=2, keepdims=True)
            previous = jnp.concatenate([back, weights], axis=2)
            return (previous, total.at[:, :, 1:].add(weights)), weights

        start = self.location.start(memory.shape[0], self.attention.heads, memory.shape[1])
        return jnp.moveaxis(jax.lax.scan(step, start, length=time)[1], 0, 2)


def _damped(seen: Seen) -> Seen:
    return FLOW * seen + (1 - FLOW) * jax.lax.stop_gradient(seen)


def _correlate(
    seen: Seen, kernel: Float[Array, "heads shifts"]
) -> Float[Array, "batch heads source_time"]:
    """Σ_d kernel_d · seen at d places before each key: kernel_d draws d places ahead."""
    time = seen.shape[-1] - 1
    padded = jnp.pad(seen, ((0, 0), (0, 0), (REACH, REACH)))
    shifts = range(2 * REACH + 1)
    views = [padded[..., 2 * REACH + 1 - shift :][..., :time] for shift in shifts]
    return jnp.einsum("hs,sbht->bht", kernel, jnp.stack(views))
