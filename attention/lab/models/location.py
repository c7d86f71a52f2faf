"""The location-aware decoder: where it looks next depends on where it has looked.

Nothing in it counts positions, and nothing is carried from step to step but the weights, and what
the keys they lie on say of beginning again. So whatever it has learned to do from one step to the
next, it can do at any length, as long as the weights stay sharp: with `softmax` they thin out as
sources grow, with `sparsemax` a key that loses by enough weighs nothing, however many there are.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from attention.lab.models.decoder import Decoder, Lengths, Logits, Memory, Tokens, Weights
from attention.lab.tasks.batch import before
from attention.layers import Attention
from attention.normalizers import SPARSE, Normalizer, find_normalizer, softmax

# The most places, ahead or back from where it looked, that a learned correlation can move weight.
# Reading in either direction takes one place; a walk of a few more is there to be learned.
MAX_SHIFT = 3
# What the weights of the step before add to the scores is multiplied by this, so that its
# parameters learn four times as fast as others. They must outweigh what the score makes of the
# keys by more than the sixteen steps of training ask for: a smear that training forgives grows at
# each step. Effect: without it, one seed in four learned to copy beyond the trained lengths, with
# it all did (mlp, seeds 0 to 3). What the sum of all weights adds is not multiplied: to shun what
# was seen is learned at once, and says little of where to go.
PREVIOUS_WEIGHTS_GAIN = 4.0
# The share of a gradient that goes on to the weights of the step before. Effect: with all of it,
# times the gain above, gradients grow from step to step, to norms of 40,000 on sequences of 40, in
# which the first steps drown; with none of it, the first steps do not learn for those to come.
GRADIENT_SHARE_OF_PREVIOUS_STEP = 0.5
# The share of a gradient that is that of a softmax of the scores, where weights can be zero. Sparse
# weights pass no gradient to a key without weight, so a head that has come to rest on one key would
# never learn to leave it. Effect, on strings of two symbols: with none of it, one seed in five
# stays on `END`; with all of it, the gradients are of other weights than those in use, and one
# seed in six is led astray; with half of it, 12 of 12 seeds learned the trained lengths.
SOFTMAX_GRADIENT_SHARE = 0.5

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
        self.previous = nnx.Param(jnp.zeros((heads, 2 * MAX_SHIFT + 1)))
        self.total = nnx.Param(jnp.zeros((heads, 2 * MAX_SHIFT + 1)))

    def start(self, batch: int, heads: int, time: int) -> tuple[Seen, Seen]:
        """Previous and summed weights before the first step; their first place is before all."""
        nowhere = jnp.zeros((batch, heads, time + 1))
        return nowhere.at[:, :, 0].set(1.0), nowhere

    def __call__(self, previous: Seen, total: Seen) -> Float[Array, "batch heads source_time"]:
        previous, total = _damped(previous), _damped(total)
        drawn = PREVIOUS_WEIGHTS_GAIN * _correlate(previous, self.previous[...])
        return drawn + _correlate(jnp.log2(1 + total), self.total[...])


def leaky(normalize: Normalizer) -> Normalizer:
    """The weights of a normalizer, with a gradient that is in part that of `softmax`.

    A straight-through estimator (arXiv 1308.3432) for a share of `SOFTMAX_GRADIENT_SHARE`.
    """

    def weights(scores: Array, where: Array | None = None) -> Array:
        hard = normalize(scores, where)
        leak = SOFTMAX_GRADIENT_SHARE * (softmax(scores, where) - hard)
        return hard + (leak - jax.lax.stop_gradient(leak))

    return weights


class LocationDecoder(Decoder):
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
      normalizer: name of the normalizer, or one, see `Attention`.
      rngs: source of initial parameters.
      **options: of the score.
    """

    # What a decoder works best with that knows no position: weights that stay sharp, and keys that
    # know their neighbours.
    defaults: ClassVar[Mapping[str, Any]] = {
        "mixer": "convolution",
        "positions": "none",
        "normalizer": "sparsemax",
        "embedding_std": 0.25,
    }

    def __init__(
        self,
        score: Callable[..., Any],
        vocabulary: int,
        time: int,
        dim: int,
        *,
        heads: int = 1,
        embedding_std: float = 0.5,
        normalizer: str | Normalizer = "softmax",
        rngs: nnx.Rngs,
        **options: Any,
    ):
        del time  # there is no parameter a position
        initial = jax.nn.initializers.normal(embedding_std)
        self.queries = nnx.Param(initial(rngs.params(), (2, dim)))
        self.content = nnx.Param(jnp.zeros(()))
        self.attention = Attention(
            score, dim, dim, heads=heads, normalizer=normalizer, rngs=rngs, **options
        )
        self.location = Location(heads)
        self.again = nnx.Linear(
            dim, heads, use_bias=False, kernel_init=nnx.initializers.zeros, rngs=rngs
        )
        self.output = nnx.Linear(dim, vocabulary, rngs=rngs)

    def logits(self, memory: Memory, length: Lengths, target: Tokens) -> Logits:
        return self._logits(memory, length, target.shape[1])[0]

    def greedy(self, memory: Memory, length: Lengths, time: int) -> tuple[Tokens, Weights]:
        logits, weights = self._logits(memory, length, time)
        return jnp.argmax(logits, axis=-1), weights

    def _logits(self, memory: Array, length: Array, time: int) -> tuple[Array, Array]:
        weights = self._weights(memory, before(length, memory.shape[1]), time)
        return self.output(self.attention.context(weights, memory)), weights

    def _weights(
        self,
        memory: Memory,
        counts: Bool[Array, "batch source_time"],
        time: int,
    ) -> Weights:
        scores = self.attention.scores(self.queries[...], memory)
        begin, every = scores[:, :, 0], self.content[...] * scores[:, :, 1]
        again = jnp.moveaxis(self.again(memory), 2, 1)
        normalize = find_normalizer(self.attention.normalizer)
        if normalize in SPARSE:
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
    """The same weights, which pass on only a share of their gradient."""
    share = GRADIENT_SHARE_OF_PREVIOUS_STEP
    return share * seen + (1 - share) * jax.lax.stop_gradient(seen)


def _correlate(
    seen: Seen, kernel: Float[Array, "heads shifts"]
) -> Float[Array, "batch heads source_time"]:
    """Σ_d kernel_d · seen at d places before each key: kernel_d draws d places ahead."""
    time = seen.shape[-1] - 1
    padded = jnp.pad(seen, ((0, 0), (0, 0), (MAX_SHIFT, MAX_SHIFT)))
    shifts = range(2 * MAX_SHIFT + 1)
    views = [padded[..., 2 * MAX_SHIFT + 1 - shift :][..., :time] for shift in shifts]
    return jnp.einsum("hs,sbht->bht", kernel, jnp.stack(views))
