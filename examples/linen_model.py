"""The layer inside a model of Flax Linen: `nnx.bridge.ToLinen` makes a Linen module of it.

python examples/linen_model.py
"""

import jax
import jax.numpy as jnp
from flax import linen
from flax.nnx import bridge

from attention import Attention, Bilinear, masks


class Tagger(linen.Module):
    """Self-attention over the tokens that count, then a linear map."""

    dim: int = 8
    outputs: int = 3

    @linen.compact
    def __call__(self, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
        """The outputs, `[batch, time, outputs]`.

        Args:
          tokens: `[batch, time, features]`.
          lengths: how many tokens of each sequence count.
        """
        tokens = linen.Dense(self.dim)(tokens)
        attention = bridge.ToLinen(
            Attention,
            args=(Bilinear, self.dim, self.dim),
            kwargs={"heads": 2},
            name="attention",
        )
        return linen.Dense(self.outputs)(attention(tokens, tokens, mask=masks.lengths(lengths)))


def main() -> dict:
    """Makes the parameters, and takes the gradient with respect to them."""
    tokens = jax.random.normal(jax.random.key(0), (4, 7, 5))
    lengths = jnp.array([7, 3, 5, 1])
    model = Tagger()
    variables = model.init(jax.random.key(1), tokens, lengths)

    def loss(parameters: dict) -> jax.Array:
        return jnp.mean(model.apply({"params": parameters}, tokens, lengths) ** 2)

    gradient = jax.jit(jax.grad(loss))(variables["params"])
    for path, leaf in jax.tree.leaves_with_path(gradient):
        print(jax.tree_util.keystr(path), leaf.shape, f"norm {jnp.linalg.norm(leaf):.4f}")
    return gradient


if __name__ == "__main__":
    main()
