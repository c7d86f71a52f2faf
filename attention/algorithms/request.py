"""What is asked of an algorithm, and what an algorithm must be able to answer."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attention.biases import Bias
from attention.dropout import Dropout
from attention.forms import Form, Pairwise, by_key, size_of
from attention.masks import Mask
from attention.normalizers import Normalizer, normalizer_name
from attention.pytrees import field_names
from attention.score_mods import ScoreMod

# The platforms that JAX can compile for, by the names that `jax.lax.platform_dependent` knows.
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


@dataclass(frozen=True)
class Request:
    """One call of `attend`.

    Attributes:
      form: the scores of all pairs; every leaf carries the leading axes of `values`.
      values: what is mixed.
      mask: which query may attend to which key; None for all.
      bias: what positions add to the scores; None for nothing.
      normalizer: from scores to weights, as `find_normalizer` returns it.
      score_mod: what is made of the scores, bias included, before the normalizer; None for nothing.
      dropout: which of the weights are dropped; None for none.
    """

    form: Form
    values: Float[Array, "*lead keys value_dim"]
    mask: Mask | None
    bias: Bias | None
    normalizer: Normalizer
    score_mod: ScoreMod | None = None
    dropout: Dropout | None = None

    @property
    def lead(self) -> tuple[int, ...]:
        """The leading axes, such as `(batch, heads)`."""
        return self.values.shape[:-2]

    @property
    def num_queries(self) -> int:
        return size_of(self.form, len(self.lead))[0]

    @property
    def num_keys(self) -> int:
        return size_of(self.form, len(self.lead))[1]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all scores: `(*lead, queries, keys)`."""
        return (*self.lead, self.num_queries, self.num_keys)

    @property
    def pairs(self) -> int:
        """How many scores there are, all leading axes together."""
        return math.prod(self.shape)

    @property
    def is_empty(self) -> bool:
        """Whether there is no pair: no query, no key, or a batch of none."""
        return 0 in self.shape

    @property
    def has_fixed_sizes(self) -> bool:
        """Whether all sizes are numbers: in a program for export they may be symbols."""
        return all(isinstance(size, int) for size in self.shape)

    @property
    def depends_on_pairs(self) -> bool:
        """Whether anything but the scores and the mask may differ from query to query."""
        return not (self.bias is None and self.score_mod is None and self.dropout is None)

    def __str__(self) -> str:
        """The request in the words of a message."""
        given = {"mask": self.mask, "bias": self.bias}
        given |= {
            name: value
            for name, value in {"score_mod": self.score_mod, "dropout": self.dropout}.items()
            if value is not None
        }
        parts = ", ".join(f"{name}={type(value).__name__}" for name, value in given.items())
        normalizer = normalizer_name(self.normalizer)
        return f"{type(self.form).__name__} with {parts} and normalizer={normalizer!r}"


@runtime_checkable
class Algorithm(Protocol):
    """An exact way to go from a request to its context: a module, or any object with these.

    A module may also say `KEEPS_PAIRS = False`: that for its backward pass it keeps nothing whose
    size is that of all pairs. Where platforms differ in what suits them, a program holds the
    algorithms of all of them, and keeps for its backward pass what any of them needs. So where
    the algorithm of one platform keeps no pairs, `attend` takes no other that keeps them, as long
    as there is a choice. Of an algorithm that does not say, the worse is assumed.
    """

    def obstacle(self, request: Request) -> str | None:
        """Why the request cannot be served, in words that complete a message; None if it can.

        Asked while the program is traced. A kernel whose tracing raises without the right device
        counts that device's absence as an obstacle.
        """

    def cost(self, request: Request, platform: str) -> float:
        """An estimate of the time of a request that has no obstacle; `inf` where it cannot run.

        The unit is the time of one pair of a whole array of scores that fits into the caches.
        Only costs of the same request on the same platform are compared; the least wins.

        Args:
          request: what is asked.
          platform: one of `PLATFORMS`.
        """

    def attend(self, request: Request) -> Array:
        """The context, `[*lead, queries, value_dim]`, of a request that has no obstacle."""


def keeps_pairs(algorithm: Algorithm) -> bool:
    """Whether an algorithm may keep an array of all pairs for its backward pass."""
    return getattr(algorithm, "KEEPS_PAIRS", True)


def check(request: Request) -> None:
    """Refuses arrays that do not fit each other.

    Raises:
      ValueError: the message names the shapes or dtypes.
    """
    form, values = request.form, request.values
    if values.ndim < 2 or not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(
            "values must be a floating array [..., keys, value_dim],"
            f" got {values.dtype} of shape {values.shape}"
        )
    lead = request.lead
    for leaf in jax.tree.leaves(by_key(form)):
        if leaf.shape[: len(lead) + 1] != values.shape[:-1]:
            raise ValueError(f"keys of shape {leaf.shape} do not fit values of {values.shape}")
    num_queries = request.num_queries
    for leaf in jax.tree.leaves([getattr(form, name) for name in form.per_query]):
        if leaf.shape[: len(lead) + 1] != (*lead, num_queries):
            raise ValueError(
                f"queries of shape {leaf.shape} do not fit {num_queries} queries"
                f" and values of {values.shape}"
            )
    if not isinstance(form, Pairwise):
        _check_features(form)


def _check_features(form: Form) -> None:
    arrays = {name: getattr(form, name) for name in field_names(type(form), static=False)}
    for name, array in arrays.items():
        if array is not None and not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(
                f"{name} of {type(form).__name__} must be floating, got {array.dtype} of shape"
                f" {array.shape}"
            )
    vectors = [name for name in ("queries", "keys", "readout") if name in arrays]
    if len({arrays[name].shape[-1] for name in vectors}) > 1:
        shapes = ", ".join(f"{name} {arrays[name].shape}" for name in vectors)
        raise ValueError(f"the last axes of {type(form).__name__} must agree, got {shapes}")
