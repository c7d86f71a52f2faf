"""What every way to ask a layer has in common: its heads, and what is made of the arguments."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PyTree

from attention.dropout import Randomness, dropout_of
from attention.forms import Form
from attention.head_parts import chained, form_of_head
from attention.layer_arguments import refuse_unknown
from attention.layer_inputs import Inputs, read_inputs
from attention.normalizers import read_normalizer
from attention.prepare import Positions, pair_functions
from attention.reach import reachable_keys


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
        values = for_heads(self._split(inputs.values), self.heads)
        positions = Positions(*jax.tree.map(jnp.asarray, (query_positions, key_positions)))
        shape = (*inputs.batch, self.heads, inputs.num_queries, inputs.num_keys)
        settings = self._settings(inputs.queries, mask, bias, score_mod, positions, shape)
        needs = "dropout needs rngs=nnx.Rngs(dropout=…) in the call"
        settings["dropout"] = dropout_of(self, deterministic, rngs, needs=needs)
        if not inputs.is_empty:
            reachable = reachable_keys(settings["mask"], settings["bias"], shape)
            inputs = inputs.with_reachable(reachable, by_copies=not keys_in_shares)
        return self._form(inputs, positions), values, settings

    def _settings(
        self,
        queries: PyTree,
        mask: Any,
        bias: Any,
        score_mod: Any,
        positions: Positions,
        shape: tuple[int, ...],
    ) -> dict[str, Any]:
        """Arguments of `attend`: what the layer and a call say together, for scores of a shape."""
        mask, bias, score_mod = pair_functions(
            mask, [self.bias, bias], chained(self.score_mod, score_mod), positions, shape
        )
        return {
            "mask": mask,
            "bias": bias,
            "score_mod": score_mod,
            "normalizer": read_normalizer(self.normalizer, queries),
        }

    def _form(self, inputs: Inputs, positions: Positions) -> Form:
        if self.rotary:
            inputs = inputs.rotated(positions)
        forms = jax.vmap(
            form_of_head,
            in_axes=(None if self.shares_score else 0, None, None),
            axis_size=self.heads,
        )
        return inputs.map(functools.partial(forms, self.score))

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


def for_heads(
    vectors: Float[Array, "*batch kv_heads keys dim"], heads: int
) -> Float[Array, "*batch heads keys dim"]:
    """Each head of keys or values once for every head of the queries that takes it."""
    kv_heads = vectors.shape[-3]
    if heads % kv_heads:
        raise ValueError(f"{heads} heads of queries cannot share {kv_heads} heads of keys equally")
    return vectors if heads == kv_heads else jnp.repeat(vectors, heads // kv_heads, axis=-3)


def join_heads(
    context: Float[Array, "*batch heads queries head_dim"],
) -> Float[Array, "*batch queries context_dim"]:
    """The contexts of all heads, concatenated."""
    context = jnp.moveaxis(context, -3, -2)
    *lead, heads, head_dim = context.shape
    return context.reshape(*lead, heads * head_dim)
