"""Encoders: from tokens to the memory that attention reads."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from attention.tasks.batch import Source

Mixer = Literal["none", "feedforward", "gru"]


class Encoder(nnx.Module):
    """Token embeddings plus learned positions, optionally mixed.

    Args:
      vocabulary: number of tokens.
      time: number of positions.
      dim: size of a memory vector; even for the `gru` mixer.
      positions: whether a learned vector is added for each position.
      mixer: `none`; `feedforward`, a residual two-layer network at each position;
        or `gru`, a bidirectional GRU over the sequence.
      embedding_std: standard deviation of initial embeddings and positions. It decides
        whether attention learns: too large saturates the softmax at the start.
      dropout: rate on the memory, in training.
      rngs: source of initial parameters.
    """

    def __init__(
        self,
        vocabulary: int,
        time: int,
        dim: int,
        *,
        positions: bool = True,
        mixer: Mixer = "none",
        embedding_std: float = 0.5,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        initial = jax.nn.initializers.normal(embedding_std)
        self.embedding = nnx.Param(initial(rngs.params(), (vocabulary, dim)))
        self.positions = nnx.Param(initial(rngs.params(), (time, dim))) if positions else None
        self.mixer = nnx.data(_make_mixer(mixer, dim, rngs))
        self.dropout = nnx.Dropout(dropout)

    def __call__(
        self,
        source: Source,
        mask: Bool[Array, "batch time"],
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch time dim"]:
        """The memory; `mask` is `True` at the tokens that count."""
        memory = self._embed(source)
        if self.positions is not None:
            memory = memory + self.positions[...][None]
        if self.mixer is not None:
            memory = self.mixer(memory, mask)
        return self.dropout(memory, deterministic=dropout_key is None, rngs=dropout_key)

    def _embed(self, source: Int[Array, "batch time"]) -> Float[Array, "batch time dim"]:
        return self.embedding[...][source]


class FeedForward(nnx.Module):
    """`x + W₂ gelu(W₁ x)` at each position."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        self.expand = nnx.Linear(dim, 2 * dim, rngs=rngs)
        self.contract = nnx.Linear(2 * dim, dim, rngs=rngs)

    def __call__(
        self, inputs: Float[Array, "batch time dim"], mask: Bool[Array, "batch time"]
    ) -> Float[Array, "batch time dim"]:
        del mask  # positions do not mix
        return inputs + self.contract(jax.nn.gelu(self.expand(inputs)))


class BidirectionalGRU(nnx.Module):
    """Two GRUs, one from each end; their states are concatenated."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        if dim % 2:
            raise ValueError(f"a bidirectional GRU needs an even dim, got {dim}")
        self.forward = nnx.GRUCell(dim, dim // 2, rngs=rngs)
        self.backward = nnx.GRUCell(dim, dim // 2, rngs=rngs)

    def __call__(
        self, inputs: Float[Array, "batch time dim"], mask: Bool[Array, "batch time"]
    ) -> Float[Array, "batch time dim"]:
        states = [
            _scan_gru(self.forward, inputs, mask, reverse=False),
            _scan_gru(self.backward, inputs, mask, reverse=True),
        ]
        return jnp.concatenate(states, axis=-1)


def _make_mixer(mixer: Mixer, dim: int, rngs: nnx.Rngs) -> nnx.Module | None:
    if mixer == "feedforward":
        return FeedForward(dim, rngs=rngs)
    if mixer == "gru":
        return BidirectionalGRU(dim, rngs=rngs)
    return None


def _scan_gru(
    cell: nnx.GRUCell,
    inputs: Float[Array, "batch time dim"],
    mask: Bool[Array, "batch time"],
    *,
    reverse: bool,
) -> Float[Array, "batch time hidden"]:
    """The states of a GRU. Padding leaves the state as it is, so the reverse starts at the end."""

    def step(state, inputs_and_mask):
        step_inputs, counts = inputs_and_mask
        state = jnp.where(counts[:, None], cell(state, step_inputs)[0], state)
        return state, state

    start = jnp.zeros((inputs.shape[0], cell.hidden_features), inputs.dtype)
    time_major = jnp.moveaxis(inputs, 1, 0), mask.T
    _, states = jax.lax.scan(step, start, time_major, reverse=reverse)
    return jnp.moveaxis(states, 0, 1)
