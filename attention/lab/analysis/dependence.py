"""How much the place where a model looks depends on the query."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def departures(
    looked_at: Int[Array, "batch queries"], counts: Bool[Array, "batch queries"]
) -> tuple[Int[Array, " batch"], Int[Array, " batch"]]:
    """How many queries of a sequence look elsewhere than at its commonest key, and how many could.

    Attention is static where one key has the highest score for every query (Brody et al.,
    arXiv 2105.14491, definition 3.1). The ratio of the two numbers is 0 for static attention and
    1 where no two queries look at the same key.

    Args:
      looked_at: for each query, the index of the key with the largest weight.
      counts: which queries count.

    Returns:
      For each sequence, two numbers: the queries that do not look at the key that the largest
      number of queries look at; and the number of queries less one, the most that could look
      elsewhere. Both are 0 where there are no two queries to compare.
    """
    same = looked_at[:, :, None] == looked_at[:, None, :]
    with_it = jnp.sum(same & counts[:, None, :], axis=2)
    commonest = jnp.max(jnp.where(counts, with_it, 0), axis=1)
    queries = jnp.sum(counts, axis=1)
    return queries - commonest, jnp.maximum(queries - 1, 0)
