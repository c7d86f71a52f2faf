"""The layer inside a model of Flax NNX: trained to average the keys that a query asks for.

python examples/nnx_model.py
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from attention import MLP, Attention, masks

BATCH, TIME, DIM = 16, 12, 8


class Tagger(nnx.Module):
    """Self-attention over the tokens before, then a linear map to a number a token."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Linear(1, DIM, rngs=rngs)
        self.position = nnx.Param(jax.random.normal(rngs.params(), (TIME, DIM)))
        self.attention = Attention(MLP, DIM, DIM, heads=2, rngs=rngs, hidden=16)
        self.output = nnx.Linear(DIM, 1, rngs=rngs)

    def __call__(self, numbers: jax.Array) -> jax.Array:
        """The outputs, `[batch, time]`, for inputs of that shape."""
        tokens = self.embed(numbers[..., None]) + self.position[...]
        return self.output(self.attention(tokens, tokens, mask=masks.causal()))[..., 0]


def loss_of(parameters: nnx.State, model: nnx.GraphDef, numbers: jax.Array) -> jax.Array:
    """The mean square error of predicting the mean of all numbers so far."""
    target = jnp.cumsum(numbers, axis=1) / jnp.arange(1, TIME + 1)
    return jnp.mean((nnx.merge(model, parameters)(numbers) - target) ** 2)


def main(updates: int = 200) -> float:
    """Trains the model, and returns the last loss."""
    # Split once: `jax.jit` of plain arrays costs far less a call than `nnx.jit` of a module.
    model, parameters = nnx.split(Tagger(nnx.Rngs(0)))
    optimizer = optax.adam(1e-2)

    @jax.jit
    def update(parameters, state, key):
        numbers = jax.random.normal(key, (BATCH, TIME))
        loss, gradient = jax.value_and_grad(loss_of)(parameters, model, numbers)
        steps, state = optimizer.update(gradient, state)
        return optax.apply_updates(parameters, steps), state, loss

    state = optimizer.init(parameters)
    for key in jax.random.split(jax.random.key(1), updates):
        parameters, state, loss = update(parameters, state, key)
    print(f"mean square error after {updates} updates: {loss:.4f}")
    return float(loss)


if __name__ == "__main__":
    main()
