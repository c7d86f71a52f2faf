"""What every way to ask a layer has in common: its heads, and what is made of the arguments."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.tree_util import Partial
from jaxtyping import Array, Float, PyTree

from attention.dropout import Dropout, dropout
from attention.forms import Form, form_of
from attention.head_parts import chained
from attention.layer_arguments import refuse_unknown
from attention.layer_inputs import Inputs, read_inputs
from attention.normalizers import read_normalizer
from attention.prepare import Positions, pair_functions
from attention.reach import reachable_keys

Randomness = nnx.Rngs | nnx.RngStream | Array


class Heads(nnx.Module):
    """The heads of a layer: what `Attention` is made of, which describes the attributes."""

    query_dim: int
    key_dim: int
    heads: int
    kv_heads: int
    score: Any
    shares_score: bool
    normalizer: Any
    bias: Any
    score_mod: Any
    rotary: bool
    implementation: str | None
    dropout_rate: float
    deterministic: bool | None
    rngs: nnx.RngStream | None

    def _asked(
        self,
        queries: PyTree,
        keys: PyTree | None,
        values: Array | None,
        *,
        mask: Any = None,
        bias: Any = None,
        score_mod: Any = None,
        deterministic: bool | None = None,
        rngs: Randomness | None = None,
        query_positions: Array | None = None,
        key_positions: Array | None = None,
        keys_in_shares: bool = False,
        **unknown: Any,
    ) -> tuple[Form, Array, dict[str, Any]]:
        """The form, the values of every head, and the other arguments of `attend`."""
        refuse_unknown(unknown, type(self).__call__, {"Attention(…)": type(self).__init__})
        inputs = read_inputs(queries, keys, values, self.query_dim, self.key_dim)
        values = self._shared(self._split(inputs.values))
        positions = Positions(*jax.tree.map(jnp.asarray, (query_positions, key_positions)))
        settings = self._settings(inputs.queries, mask, bias, score_mod, positions)
        settings["dropout"] = self._dropout(deterministic, rngs)
        if not inputs.is_empty:
            shape = (*inputs.batch, self.heads, inputs.num_queries, inputs.num_keys)
            mask, bias, _ = pair_functions(mask, settings["bias"], None, positions, shape)
            reachable = reachable_keys(mask, bias, shape)
            inputs = inputs.with_reachable(reachable, by_copies=not keys_in_shares)
        return self._form(inputs, positions), values, settings

    def _settings(
        self, queries: PyTree, mask: Any, bias: Any, score_mod: Any, positions: Positions
    ) -> dict[str, Any]:
        """Arguments of `attend`: what the layer and a call say together."""
        return {
            "mask": mask,
            "bias": [self.bias, bias],
            "score_mod": chained(self.score_mod, score_mod),
            "normalizer": read_normalizer(self.normalizer, queries),
            "query_positions": positions.queries,
            "key_positions": positions.keys,
        }

    def _form(self, inputs: Inputs, positions: Positions) -> Form:
        if self.rotary:
            inputs = inputs.rotated(positions)
        forms = jax.vmap(
            _form_of_head,
            in_axes=(None if self.shares_score else 0, None, None),
            axis_size=self.heads,
        )
        return inputs.map(functools.partial(forms, self.score))

    def _dropout(self, deterministic: bool | None, rngs: Randomness | None) -> Dropout | None:
        """What is dropped, decided as Flax's layers decide it."""
        if self.dropout_rate == 0:
            return None
        deterministic = self.deterministic if deterministic is None else deterministic
        if deterministic is None:
            raise ValueError(
                f"dropout_rate={self.dropout_rate}: say deterministic=, True or False, in the call"
                " of the layer or to Attention(…)"
            )
        if deterministic:
            return None
        rngs = self.rngs if rngs is None else rngs
        if rngs is None:
            raise ValueError("rngs=None: dropout needs rngs=nnx.Rngs(dropout=…) in the call")
        stream = rngs.dropout if isinstance(rngs, nnx.Rngs) else rngs
        key = stream() if isinstance(stream, nnx.RngStream) else stream
        return dropout(key, self.dropout_rate)

    def _split(
        self, values: Float[Array, "*batch keys value_dim"]
    ) -> Float[Array, "*batch kv_heads keys head_dim"]:
        if values.shape[-1] % self.kv_heads:
            name = "heads" if self.kv_heads == self.heads else "kv_heads"
            raise ValueError(
                f"values must be [..., keys, value_dim] with value_dim a multiple of"
                f" {name}={self.kv_heads}, got shape {values.shape}"
            )
        head_dim = values.shape[-1] // self.kv_heads
        return jnp.moveaxis(values.reshape(*values.shape[:-1], self.kv_heads, head_dim), -2, -3)

    def _shared(
        self, values: Float[Array, "*batch kv_heads keys head_dim"]
    ) -> Float[Array, "*batch heads keys head_dim"]:
        """The values of every head: those of a group are the same."""
        if self.kv_heads == self.heads:
            return values
        return jnp.repeat(values, self.heads // self.kv_heads, axis=-3)


def _form_of_head(score: Callable[..., Any], queries: PyTree, keys: PyTree) -> Form:
    return form_of(score.func if isinstance(score, Partial) else score, queries, keys)


def join_heads(
    context: Float[Array, "*batch heads queries head_dim"],
) -> Float[Array, "*batch queries context_dim"]:
    """The contexts of all heads, concatenated."""
    context = jnp.moveaxis(context, -3, -2)
    *lead, heads, head_dim = context.shape
    return context.reshape(*lead, heads * head_dim)
