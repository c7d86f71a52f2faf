"""A layer that goes on step by step, with a cache of what came before."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PyTree

from attention import cache as caches
from attention.attend import attend
from attention.biases import GivenBias
from attention.cache import Cache, KeyCache, StateCache
from attention.forms import Form, KeyOnly
from attention.heads import Heads, for_heads, join_heads
from attention.layer_arguments import brief, refuse_unknown
from attention.layer_inputs import Inputs, read_inputs
from attention.masks import GivenMask, as_mask
from attention.normalizers import Softmax
from attention.prepare import Positions
from attention.score_mods import GivenScoreMod
from attention.sizes import check_size


class Steps(Heads):
    """The steps of `Attention`."""

    def init_cache(
        self,
        batch: int | tuple[int, ...],
        length: int,
        dtype: DTypeLike = jnp.float32,
        *,
        value_dim: int | None = None,
        query: PyTree | None = None,
        key: PyTree | None = None,
    ) -> Cache:
        """A cache without keys, to begin with steps.

        A score that ignores the query, under softmax without bias or score_mod, gets a state of a
        size that does not depend on `length`. All others get a cache of `length` keys.

        Args:
          batch: number of batch elements, or the batch axes; `()` for none.
          length: how many keys there is room for.
          dtype: of keys and values.
          value_dim: size of a value; None for that of a key.
          query: a single query like those to come, where they are no vectors of `query_dim` but
            pytrees; its shapes and dtypes count.
          key: a single key like those to come, likewise.

        Raises:
          ValueError: a size is below 1, or the heads do not divide the values.
        """
        check_size("length", length)
        batch = batch if isinstance(batch, tuple) else (operator.index(batch),)
        query = jnp.ones(self.query_dim, dtype) if query is None else query
        key = jnp.ones(self.key_dim, dtype) if key is None else key
        # What the form keeps of a vector of ones is finite; of zeros it might not be.
        query, key = jax.tree.map(lambda x: jnp.ones((1, *x.shape), x.dtype), (query, key))
        values = jnp.zeros((1, self.key_dim if value_dim is None else value_dim), dtype)
        inputs = read_inputs(query, key, values, self.query_dim, self.key_dim)
        form = self._form(inputs, Positions())
        kv_heads, _, head_dim = self._split(values).shape
        plain = self.bias is None and self.score_mod is None
        if isinstance(form, KeyOnly) and isinstance(self.normalizer, Softmax) and plain:
            return caches.empty_states(batch, self.heads, head_dim, dtype)
        return caches.empty_keys(form, batch, length, kv_heads, head_dim, dtype)

    def step(
        self,
        query: PyTree,
        key: PyTree | None = None,
        value: Float[Array, "... value_dim"] | None = None,
        cache: Cache | None = None,
        *,
        mask: GivenMask = None,
        bias: GivenBias = None,
        score_mod: GivenScoreMod = None,
        **unknown: Any,
    ) -> tuple[Float[Array, "... context_dim"], Cache]:
        """The context of the next query over all keys so far, its own included.

        This is the next row of the layer under `masks.causal()`. With an axis of time, `[*batch,
        n, …]`, it is `n` such rows at once: a prompt, say. No weight is dropped.

        A key that there is no room for is refused. Within `jax.jit`, where that cannot be seen, it
        is not kept, and the context of its batch element is NaN from there on.

        Args:
          query: `[*batch, query_dim]`.
          key: `[*batch, key_dim]`; the query where not given.
          value: `[*batch, value_dim]`; the key where not given.
          cache: of `init_cache`, or of the step before.
          mask: which keys of the cache may be attended to, of those that the causal mask allows:
            `[*batch, heads, n, length]` where it is an array.
          bias: a bias more, added to the scores.
          score_mod: a score_mod more, applied after that of the layer.
          **unknown: refused, with the name that the argument has here.

        Returns:
          The context, `[*batch, context_dim]`, and the cache with the key.
        """
        elsewhere = {
            "Attention(…)": type(self).__init__,
            "the call of the layer": type(self).__call__,
        }
        refuse_unknown(unknown, Steps.step, elsewhere)
        if not isinstance(cache, KeyCache | StateCache):
            raise ValueError(f"cache={brief(cache)}: say cache=layer.init_cache(batch, length)")
        batch = cache.positions.shape
        query, key, value, is_single = caches.with_time(query, key, value, len(batch))
        inputs = read_inputs(query, key, value, self.query_dim, self.key_dim)
        if inputs.batch != batch:
            raise ValueError(f"the batch of the step is {inputs.batch}, that of its cache {batch}")
        if inputs.num_queries != inputs.num_keys:
            raise ValueError(
                f"a step takes a key with each query, got {inputs.num_queries} queries and"
                f" {inputs.num_keys} keys"
            )
        if isinstance(cache, KeyCache):
            cache.check_room(inputs.num_keys)
        positions = caches.next_positions(cache, inputs.num_keys)
        form = self._form(inputs, Positions(positions, positions))
        values = self._split(inputs.values)
        values = for_heads(values, self.heads) if isinstance(cache, StateCache) else values
        if not cache.has_room_for(form, values):
            raise ValueError(
                "the cache is of another layer, or of keys or values of other sizes: say"
                f" cache=layer.init_cache(…, value_dim={inputs.values.shape[-1]})"
            )
        if isinstance(cache, StateCache):
            assert isinstance(form, KeyOnly)
            _refuse_arguments(mask=mask, bias=bias, score_mod=score_mod)
            cache, context = cache.append(form.logits, values)
        else:
            arguments = mask, bias, score_mod
            cache, context = self._append(cache, form, values, inputs, positions, *arguments)
        context = join_heads(context)
        return context[..., 0, :] if is_single else context, cache

    def _append(
        self,
        cache: KeyCache,
        form: Form,
        values: Array,
        inputs: Inputs,
        positions: Array,
        mask: Any,
        bias: Any,
        score_mod: Any,
    ) -> tuple[KeyCache, Float[Array, "*batch heads n head_dim"]]:
        """The cache with the keys of a form, and the context of its queries."""
        shape = (*inputs.batch, self.heads, inputs.num_queries, cache.length)
        slots = jnp.arange(cache.length, dtype=positions.dtype)
        so_far, mask = caches.UpTo(positions), as_mask(mask, shape)
        settings = self._settings(
            inputs.queries,
            so_far if mask is None else so_far & mask,
            bias,
            score_mod,
            Positions(positions, slots),
            shape,
        )
        # The scores of a single query are fewer than what the cache holds, which others would copy.
        alone = "dense" if inputs.num_queries == 1 else None
        cache, form = cache.append(form, values)
        context = attend(
            form,
            for_heads(cache.values, self.heads),
            implementation=self.implementation or alone,
            **settings,
        )
        return cache, cache.nan_beyond(context)


def _refuse_arguments(**arguments: Any) -> None:
    for name, value in arguments.items():
        if value is not None:
            remedy = "" if name == "mask" else f"; give {name}= to Attention(…) instead"
            raise ValueError(
                f"{name}={brief(value)}: this score ignores the query, so that its cache is a state"
                f" that has forgotten the single keys{remedy}"
            )
