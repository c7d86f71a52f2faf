"""Recurrent cells, for encoders (over a sequence from both ends) and decoders (step by step)."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PyTree

CellName = Literal["elman", "gru", "lstm"]

# cell(carry, inputs) returns the new carry and the state.
Cell = nnx.SimpleCell | nnx.GRUCell | nnx.OptimizedLSTMCell

CELLS: dict[CellName, Callable[..., Any]] = {
    "elman": nnx.SimpleCell,
    "gru": nnx.GRUCell,
    "lstm": nnx.OptimizedLSTMCell,
}


def carry_of(cell: Cell, state: Float[Array, "batch hidden"]) -> PyTree:
    """The carry of a cell in this state; the memory cell of an LSTM is zero."""
    if isinstance(cell, nnx.OptimizedLSTMCell):
        return jnp.zeros_like(state), state
    return state


def state_of(cell: Cell, carry: PyTree) -> Float[Array, "batch hidden"]:
    """The state in a carry: what the cell returns as its output."""
    return carry[1] if isinstance(cell, nnx.OptimizedLSTMCell) else carry


class Bidirectional(nnx.Module):
    """Two cells that read a sequence from its two ends; their states are concatenated.

    Args:
      cell: name of the kind of cell.
      dim: size of inputs and of outputs; even.
      rngs: source of initial parameters.
    """

    def __init__(self, cell: CellName, dim: int, *, rngs: nnx.Rngs):
        if dim % 2:
            raise ValueError(
                f"dim={dim}: must be even, a bidirectional {cell} has a half for each end"
            )
        self.forward = CELLS[cell](dim, dim // 2, rngs=rngs)
        self.backward = CELLS[cell](dim, dim // 2, rngs=rngs)

    def __call__(
        self, inputs: Float[Array, "batch time dim"], mask: Bool[Array, "batch time"]
    ) -> Float[Array, "batch time dim"]:
        """The states at every step; `mask` is `True` at the steps that count."""
        states = [
            _states(self.forward, inputs, mask, reverse=False),
            _states(self.backward, inputs, mask, reverse=True),
        ]
        return jnp.concatenate(states, axis=-1)


def _states(
    cell: Cell,
    inputs: Float[Array, "batch time dim"],
    mask: Bool[Array, "batch time"],
    *,
    reverse: bool,
) -> Float[Array, "batch time hidden"]:
    """The states of a cell at every step.

    At padding the carry stays as it was, so a cell that reads in reverse starts at the true end.
    """

    def step(carry, inputs_and_mask):
        step_inputs, counts = inputs_and_mask
        new, _ = cell(carry, step_inputs)
        carry = jax.tree.map(lambda n, old: jnp.where(counts[:, None], n, old), new, carry)
        return carry, state_of(cell, carry)

    start = jnp.zeros((inputs.shape[0], cell.hidden_features), inputs.dtype)
    time_major = jnp.moveaxis(inputs, 1, 0), mask.T
    _, states = jax.lax.scan(step, carry_of(cell, start), time_major, reverse=reverse)
    return jnp.moveaxis(states, 0, 1)
