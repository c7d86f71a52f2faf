"""The location-aware decoder: where it looks next depends on where it has looked.

Nothing in the decoder counts positions. Two things are carried from step to step: the attention
weights, and how much the keys that were just read say to begin again. So whatever the decoder has
learned to do from one step to the next, it can do at any length, as long as the weights stay sharp.
With `softmax` the weights thin out as sources grow; with `sparsemax` a key whose score is low
enough weighs nothing, however many keys there are.
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

# A weight for the place before the first key, then a weight for each key.
Seen = Float[Array, "batch heads source_time_and_one"]


class Location(nnx.Module):
    """What the weights of earlier steps add to the scores.

    The sum of two learned correlations. The first is of the weights of the step before (Chorowski
    et al., arXiv 1506.07503). The second is of log₂(1 + total), where the total is the sum of the
    weights of all earlier steps; arXiv 1712.05884 takes the total itself, which on a key that is
    never left grows beyond all that training has shown. At the start all weight lies on a place
    before the first key.

    Args:
      heads: number of heads.
    """

    def __init__(self, heads: int):
        self.previous = nnx.Param(jnp.zeros((heads, 2 * MAX_SHIFT + 1)))
        self.total = nnx.Param(jnp.zeros((heads, 2 * MAX_SHIFT + 1)))

    def start(self, batch: int, heads: int, time: int) -> tuple[Seen, Seen]:
        """The weights of the step before, and the total, as they are before the first step.

        Args:
          batch: number of examples.
          heads: number of heads.
          time: number of keys; the place before the first key is added to them.
        """
        nowhere = jnp.zeros((batch, heads, time + 1))
        return nowhere.at[:, :, 0].set(1.0), nowhere

    def __call__(self, previous: Seen, total: Seen) -> Float[Array, "batch heads source_time"]:
        """What to add to the score of each key.

        Args:
          previous: the weights of the step before.
          total: the sum of the weights of all earlier steps.
        """
        previous, total = _damped(previous), _damped(total)
        drawn = PREVIOUS_WEIGHTS_GAIN * _correlate(previous, self.previous[...])
        return drawn + _correlate(jnp.log2(1 + total), self.total[...])


def leaky(normalize: Normalizer) -> Normalizer:
    """A normalizer with unchanged weights, whose gradient is in part the gradient of `softmax`.

    A straight-through estimator (arXiv 1308.3432): the share `SOFTMAX_GRADIENT_SHARE` of the
    gradient is that of `softmax`, the rest is the normalizer's.
    """

    def weights(scores: Array, where: Array | None = None) -> Array:
        hard = normalize(scores, where)
        leak = SOFTMAX_GRADIENT_SHARE * (softmax(scores, where) - hard)
        return hard + (leak - jax.lax.stop_gradient(leak))

    return weights


class LocationDecoder(Decoder):
    """Attention by two learned queries, and by where the decoder has looked.

    The first query says where to begin, the second adds to the scores of every step. The decoder
    begins on a place before the first key. It goes back to that place as far as a linear map of
    the keys that were just read says. How much the scores of the second query count is learned.
    This factor and the linear map are zero at the start, so that the decoder first looks for its
    way next to where it was.

    Where weights can be zero, half of their gradient is the gradient of `softmax`.

    The logits are linear in the context. With a score that ignores the query, or `uniform`, where
    to look depends on where the decoder has looked alone.

    Args:
      score: a score class or function, see `Attention`.
      vocabulary: number of tokens.
      time: number of target positions; no parameter depends on it, so targets may be longer.
      dim: size of queries and of memory vectors.
      heads: number of heads.
      embedding_std: standard deviation of the initial queries.
      normalizer: from scores to weights: a name or a function, see `Attention`.
      rngs: source of initial parameters.
      **options: of the score.
    """

    # The decoder knows no positions, so it works best with weights that stay sharp (`sparsemax`)
    # and with keys that know their neighbours (`convolution`).
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
        del time  # no parameter belongs to a position
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
    """Unchanged weights, of whose gradient `GRADIENT_SHARE_OF_PREVIOUS_STEP` is passed on."""
    share = GRADIENT_SHARE_OF_PREVIOUS_STEP
    return share * seen + (1 - share) * jax.lax.stop_gradient(seen)


def _correlate(
    seen: Seen, kernel: Float[Array, "heads shifts"]
) -> Float[Array, "batch heads source_time"]:
    """Σ_d kernel_d · (the weight seen d places before the key), for each key.

    So a positive kernel_d draws attention d places ahead of where it was.
    """
    time = seen.shape[-1] - 1
    padded = jnp.pad(seen, ((0, 0), (0, 0), (MAX_SHIFT, MAX_SHIFT)))
    shifts = range(2 * MAX_SHIFT + 1)
    views = [padded[..., 2 * MAX_SHIFT + 1 - shift :][..., :time] for shift in shifts]
    return jnp.einsum("hs,sbht->bht", kernel, jnp.stack(views))
