"""A score of one's own, in ten lines.

    python examples/own_score.py

The lab trains it by its path, from the root of the repository:

    python train.py --config configs/copy.py:examples.own_score:Distance
"""

import jax
from flax import nnx

from attention import Attention


class Distance(nnx.Module):
    """`−‖q W − k‖² / width`: a key near the projected query scores well."""

    def __init__(self, query_dim, key_dim, *, width: float = 4.0, rngs: nnx.Rngs):
        initial = jax.nn.initializers.lecun_normal()
        self.weight = nnx.Param(initial(rngs.params(), (query_dim, key_dim)))
        self.width = width

    def __call__(self, query, key):
        difference = query @ self.weight[...] - key
        return -(difference @ difference) / self.width


def main() -> None:
    """Shows what two heads with this score attend to."""
    layer = Attention(Distance, query_dim=6, key_dim=4, heads=2, width=2.0, rngs=nnx.Rngs(0))
    queries = jax.random.normal(jax.random.key(1), (5, 6))
    keys = jax.random.normal(jax.random.key(2), (9, 4))
    context, weights = layer.with_weights(queries, keys)
    print("context", context.shape, "weights", weights.shape)
    print("where each query of the first head looks:", weights[0].argmax(axis=-1))


if __name__ == "__main__":
    main()
