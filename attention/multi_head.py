"""`MultiHeadAttention`: Flax's layer, with any score."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from flax.nnx.nn.linear import default_kernel_init
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from attention import masks
from attention.attention_fn import AttentionFn, heads_first, matmul_precision
from attention.cache import KeyCache, UpTo, empty_keys, next_positions
from attention.dropout import check_rate, dropout_of
from attention.forms import Form, by_key
from attention.head_parts import score_of, unknown_options
from attention.layer_arguments import brief, check_no_mask, check_rngs, refuse_unknown
from attention.normalizers import Normalizer
from attention.prepare import Positions
from attention.reach import reachable_keys, replaced
from attention.rotary import rotate
from attention.sizes import check_size

# What other libraries call it, and what to say here.
_NAMES = {
    ("embed_dim", "d_model", "hidden_size", "features"): "say in_features=",
    ("nhead", "n_heads", "nheads", "heads"): "say num_heads=",
    ("kv_heads", "num_key_value_heads", "num_query_groups"): "say num_kv_heads=",
    ("kdim", "vdim"): "say in_kv_features=",
    ("key_dim", "head_dim", "value_dim"): "say qkv_features=, the size of all heads together",
    ("output_shape",): "say out_features=",
    ("dropout", "attn_dropout", "attention_dropout", "dropout_p"): "say dropout_rate=",
    ("batch_first",): "inputs are always [*batch, time, features]",
    ("add_zero_attn",): 'say normalizer="softmax_one"',
    ("softcap", "logits_soft_cap"): "say score_mod=attention.score_mods.SoftCap(…)",
    ("attn_mask", "attention_mask", "block_mask"): "say mask=, True where a query may attend",
    ("key_padding_mask", "padding_mask"): (
        "say mask=attention.masks.keys(…), True for keys that count"
    ),
    ("causal", "use_causal_mask"): "say is_causal=",
    ("need_weights", "return_attention_scores", "output_attentions", "average_attn_weights"): (
        "say sow_weights=True, and wrap the call by nnx.capture"
    ),
    ("training", "train"): "say deterministic=, False for training",
    ("query_positions", "positions"): "say input_positions=",
    ("use_cache", "past_key_value"): "say decode=True, after layer.init_cache(…)",
}
_HERE = {name: remedy for names, remedy in _NAMES.items() for name in names}
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_zeros = nnx.initializers.zeros_init()


class MultiHeadAttention(nnx.MultiHeadAttention):
    """`flax.nnx.MultiHeadAttention` with any score: heads of projected queries, keys and values.

    The arguments are those of Flax's layer, with its order and defaults, and seven more. So are the
    projections, their names and how they start: `nnx.update(layer, nnx.state(flax_layer))` copies
    the parameters of Flax's layer, and with the default score the layer then computes what Flax's
    computes. Two things differ on purpose:

    - the context of a query that may attend to no key is zero; in Flax, it is the mean of all
      values, padded ones among them;
    - dropout drops other weights, the same with every `implementation`.

    Each head has a score of its own, on the head's vectors. `layer(x)` is self-attention.

    Args:
      num_heads: number of heads of the queries.
      in_features: size of what the queries are projected from.
      qkv_features: size of the vectors of all heads together; `in_features` if None.
      out_features: size of the output; `in_features` if None.
      num_kv_heads: number of heads of keys and values, which must divide `num_heads`; then several
        heads of the queries share one. `num_heads` if None.
      in_kv_features: size of what keys and values are projected from; `in_features` if None.
      dtype: of the computation; None for what inputs and parameters promote to.
      param_dtype: of the parameters.
      broadcast_dropout: whether all examples and heads drop the same weights.
      dropout_rate: the part of the weights that is dropped.
      deterministic: whether no weight is dropped; may be left to the call.
      precision: of all matrix products: None, a `jax.lax.Precision`, or the name of one.
      kernel_init: how the kernels of the projections start.
      out_kernel_init: how the kernel of `out` starts; `kernel_init` if None.
      bias_init: how the biases of the projections start.
      out_bias_init: how the bias of `out` starts; `bias_init` if None.
      use_bias: whether the projections add a bias.
      attention_fn: Flax's default and no other: `score` is in its place.
      decode: whether a call takes one position, and remembers it in the cache that `init_cache`
        has made; None is False (Flax then refuses the call).
      normalize_qk: whether queries and keys are layer-normalized (arXiv 2302.05442).
      qkv_promote_dtype: as in Flax.
      out_promote_dtype: as in Flax.
      ln_promote_dtype: as in Flax.
      qkv_dot_general: as in Flax, which will remove it.
      out_dot_general: as in Flax, which will remove it.
      qkv_dot_general_cls: as in Flax, which will remove it.
      out_dot_general_cls: as in Flax, which will remove it.
      rngs: source of initial parameters, and of dropout.
      keep_rngs: whether the layer keeps a stream of `rngs` for its dropout; else calls pass one.
      kernel_metadata: as in Flax.
      out_kernel_metadata: as in Flax.
      bias_metadata: as in Flax.
      out_bias_metadata: as in Flax.
      query_ln_scale_metadata: as in Flax.
      key_ln_scale_metadata: as in Flax.
      score: as `AttentionFn` takes it.
      normalizer: from scores to weights, as `AttentionFn` takes it.
      bias: what positions add to the scores, as `AttentionFn` takes it. Flax's `use_bias` and
        `bias_init` are of the projections.
      score_mod: what becomes of a score before the normalizer, as `attend` takes it.
      rotary: whether queries and keys are rotated by their positions (arXiv 2104.09864).
      implementation: name of the algorithm, see `attend`; None picks.
      **options: passed on to the score class or function.

    Raises:
      ValueError: an argument is refused; the message says which, and what would do.
    """

    attention_fn: AttentionFn
    # What a cache keeps of keys may be several arrays, unlike in Flax.
    cached_key: Any
    cached_value: Any
    cache_index: Any

    def __init__(
        self,
        num_heads: int,
        in_features: int,
        qkv_features: int | None = None,
        out_features: int | None = None,
        num_kv_heads: int | None = None,
        in_kv_features: int | None = None,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        broadcast_dropout: bool = True,
        dropout_rate: float = 0.0,
        deterministic: bool | None = None,
        precision: Any = None,
        kernel_init: Callable[..., Any] = default_kernel_init,
        out_kernel_init: Callable[..., Any] | None = None,
        bias_init: Callable[..., Any] = _zeros,
        out_bias_init: Callable[..., Any] | None = None,
        use_bias: bool = True,
        attention_fn: Callable[..., Any] = nnx.dot_product_attention,
        decode: bool | None = None,
        normalize_qk: bool = False,
        qkv_promote_dtype: Callable[..., Any] = dtypes.promote_dtype,
        out_promote_dtype: Callable[..., Any] = dtypes.promote_dtype,
        ln_promote_dtype: Callable[..., Any] = dtypes.promote_dtype,
        qkv_dot_general: Callable[..., Any] | None = None,
        out_dot_general: Callable[..., Any] | None = None,
        qkv_dot_general_cls: Any = None,
        out_dot_general_cls: Any = None,
        rngs: nnx.Rngs,
        keep_rngs: bool = True,
        kernel_metadata: Mapping[str, Any] = _NOTHING,
        out_kernel_metadata: Mapping[str, Any] = _NOTHING,
        bias_metadata: Mapping[str, Any] = _NOTHING,
        out_bias_metadata: Mapping[str, Any] = _NOTHING,
        query_ln_scale_metadata: Mapping[str, Any] = _NOTHING,
        key_ln_scale_metadata: Mapping[str, Any] = _NOTHING,
        score: str | Callable[..., Any] = "scaled_dot",
        normalizer: str | Normalizer = "softmax",
        bias: Any = None,
        score_mod: Any = None,
        rotary: bool = False,
        implementation: str | None = None,
        **options: Any,
    ):
        layer = type(self)
        if not isinstance(score, nnx.Module):
            unknown = unknown_options(score_of(score), options)
            elsewhere = {"the call of the layer": layer.__call__}
            refuse_unknown(unknown, layer.__init__, elsewhere, remedies=_HERE, own="there are")
        _check_sizes(
            num_heads, in_features, qkv_features, out_features, num_kv_heads, in_kv_features
        )
        check_rngs(rngs)
        check_rate(dropout_rate)
        if isinstance(bias, bool):
            raise ValueError(f"bias={bias}: say use_bias= for the projections")
        if attention_fn is not nnx.dot_product_attention:
            raise ValueError(f"attention_fn={brief(attention_fn)}: say score= for another score")
        with matmul_precision(precision):  # refused here, not at the first call
            pass
        super().__init__(
            num_heads,
            in_features,
            qkv_features,
            out_features,
            num_kv_heads,
            in_kv_features,
            dtype=dtype,
            param_dtype=param_dtype,
            broadcast_dropout=broadcast_dropout,
            dropout_rate=dropout_rate,
            deterministic=deterministic,
            precision=precision,
            kernel_init=kernel_init,
            out_kernel_init=out_kernel_init,
            bias_init=bias_init,
            out_bias_init=out_bias_init,
            use_bias=use_bias,
            decode=decode,
            normalize_qk=normalize_qk,
            qkv_promote_dtype=qkv_promote_dtype,
            out_promote_dtype=out_promote_dtype,
            ln_promote_dtype=ln_promote_dtype,
            qkv_dot_general=qkv_dot_general,
            out_dot_general=out_dot_general,
            qkv_dot_general_cls=qkv_dot_general_cls,
            out_dot_general_cls=out_dot_general_cls,
            rngs=rngs,
            keep_rngs=keep_rngs,
            kernel_metadata=kernel_metadata,
            out_kernel_metadata=out_kernel_metadata,
            bias_metadata=bias_metadata,
            out_bias_metadata=out_bias_metadata,
            query_ln_scale_metadata=query_ln_scale_metadata,
            key_ln_scale_metadata=key_ln_scale_metadata,
        )
        if rotary and self.head_dim % 2:
            raise ValueError(f"rotary=True: the {self.head_dim} features of a head must be even")
        self.rotary = rotary
        # After the projections, which so start as Flax's do from the same `rngs`.
        self.attention_fn = nnx.data(
            AttentionFn(
                score,
                num_heads=num_heads,
                head_dim=self.head_dim,
                normalizer=normalizer,
                bias=bias,
                score_mod=score_mod,
                implementation=implementation,
                rngs=rngs,
                **options,
            )
        )

    def __call__(  # type: ignore[override]
        self,
        inputs_q: Float[Array, "*batch queries in_features"],
        inputs_k: Float[Array, "*batch keys in_kv_features"] | None = None,
        inputs_v: Float[Array, "*batch keys value_features"] | None = None,
        *,
        mask: Any = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | Array | None = None,
        sow_weights: bool = False,
        decode: bool | None = None,
        is_causal: bool = False,
        out_sharding: Any = None,
        qkv_sharding: Any = None,
        input_positions: Int[Array, "*#batch queries"] | None = None,
        key_positions: Int[Array, "*#batch keys"] | None = None,
        bias: Any = None,
        score_mod: Any = None,
        **unknown: Any,
    ) -> Float[Array, "*batch queries out_features"]:
        """The output for every query.

        Args:
          inputs_q: what the queries are projected from.
          inputs_k: what the keys are projected from; `inputs_q` if None.
          inputs_v: what the values are projected from; `inputs_k` if None.
          mask: which query may attend to which key, as `attend` takes it. `[*batch, heads, queries,
            keys]` is the shape that an array must broadcast to.
          deterministic: whether no weight is dropped, whatever the layer's `dropout_rate`; if None,
            as the layer was told.
          rngs: source of dropout, or a key; if None, what the layer has kept.
          sow_weights: whether to sow the weights as `attention_weights`, in `nnx.Intermediate`.
          decode: whether the inputs come after those in the cache, to which they are added: one
            position, as in Flax, or several. If None, as the layer was told.
          is_causal: whether query i may attend to no key beyond i. A cache is causal in any case.
          out_sharding: of the output.
          qkv_sharding: of queries, keys and values.
          input_positions: of the queries, and of the keys where `key_positions` is None, for
            `rotary`, `score_mod`, and masks and biases that compare positions. If None, they are
            counted from 0, or from where the cache ends.
          key_positions: of the keys.
          bias: what to add to the scores, in addition to the layer's bias.
          score_mod: what becomes of a score, after the layer's `score_mod`.
          **unknown: refused, with the name that the argument has here.

        Raises:
          ValueError: arguments do not fit the layer, or each other.
        """
        layer = type(self)
        elsewhere = {"MultiHeadAttention(…)": layer.__init__}
        refuse_unknown(unknown, layer.__call__, elsewhere, remedies=_HERE, own="there are")
        inputs = self._inputs(inputs_q, inputs_k, inputs_v)
        decode = bool(self.decode if decode is None else decode)
        cache = self._cache(inputs, input_positions, key_positions) if decode else None
        count = inputs.queries.shape[-2]
        if cache is None:
            num_keys, within = inputs.keys.shape[-2], masks.causal() if is_causal else None
            key_positions = input_positions if key_positions is None else key_positions
            positions = where = Positions(input_positions, key_positions)
        else:
            steps = next_positions(cache, count)
            num_keys, within = cache.length, UpTo(steps)
            positions, where = Positions(steps, steps), Positions(steps)
        shape = (*inputs.queries.shape[:-2], self.num_heads, count, num_keys)
        pairs = self.attention_fn.pairs(mask, within, bias, score_mod, where, shape)
        if cache is None:
            inputs = inputs.reachable(pairs, shape)
        query, key, value = self._projected(inputs, positions, qkv_sharding)
        with matmul_precision(self.precision):
            form = self.attention_fn.form(query, key)
            if cache is not None:
                cache, form, value = self._remember(cache, form, value)
            needs = "a layer with keep_rngs=False needs rngs= in the call"
            broadcast = self.broadcast_dropout
            dropped = dropout_of(self, deterministic, rngs, broadcast=broadcast, needs=needs)
            module = self if sow_weights else None
            # The scores of a single query are fewer than what a cache holds, which others copy.
            alone = "dense" if cache is not None and count == 1 else None
            context = self.attention_fn.attend(query, form, value, pairs, dropped, module, alone)
        if cache is not None:
            context = cache.nan_beyond(context)
        return self.out(jnp.moveaxis(context, -3, -2), out_sharding=out_sharding)

    def init_cache(self, input_shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> None:
        """Makes an empty cache for decoding.

        It keeps of a key what the form of the score keeps, projected and rotated.

        Args:
          input_shape: `[*batch, length, in_features]`, with room for `length` positions.
          dtype: of what is kept.
        """
        *batch, length, _ = input_shape
        # Of zeros, what a score keeps of a key need not be finite.
        ones = [jnp.ones((n, 1, self.head_dim), dtype) for n in (self.num_heads, self.num_kv_heads)]
        form = self._once(self.attention_fn.form(*ones), 0)
        heads, value_dim = self.value.out_features
        cache = empty_keys(form, tuple(batch), length, heads, value_dim, dtype)
        self.cached_key = nnx.Cache(cache.keys)
        self.cached_value = nnx.Cache(cache.values)
        self.cache_index = nnx.Cache(cache.positions)

    def set_view(
        self,
        deterministic: bool | None = None,
        decode: bool | None = None,
        batch_size: int | Sequence[int] | None = None,
        max_length: int | None = None,
    ) -> None:
        """What `flax.nnx.view` sets; a size of the batch and a length make an empty cache."""
        super().set_view(deterministic, decode)
        if batch_size is not None and max_length is not None:
            batch = (batch_size,) if isinstance(batch_size, int) else batch_size
            self.init_cache((*batch, max_length, self.in_features), self.dtype or jnp.float32)

    def _inputs(self, queries: Any, keys: Any, values: Any) -> "_Inputs":
        """What to project from, checked."""
        check_no_mask(inputs_q=queries, inputs_k=keys, inputs_v=values)
        if keys is None and values is not None:
            raise ValueError("inputs_k=None: where inputs_v is given, inputs_k must be given too")
        keys = queries if keys is None else keys
        values = keys if values is None else values
        inputs = _Inputs(*map(jnp.asarray, (queries, keys, values)))
        inputs.check(*(each.in_features[-1] for each in (self.query, self.key, self.value)))
        return inputs

    def _projected(
        self, inputs: "_Inputs", positions: Positions, sharding: Any
    ) -> tuple[Array, Array, Array]:
        """The heads' queries, keys and values, `[*batch, heads, time, head_dim]`."""
        query = self.query(inputs.queries, out_sharding=sharding)
        key = self.key(inputs.keys, out_sharding=sharding)
        value = self.value(inputs.values, out_sharding=sharding)
        if self.normalize_qk:
            query, key = self.query_ln(query), self.key_ln(key)
        query, key, value = dtypes.promote_dtype((query, key, value), dtype=self.dtype)
        query, key, value = (heads_first(each) for each in (query, key, value))
        if self.rotary:
            query, key = rotate(query, positions.queries), rotate(key, positions.keys)
        return query, key, value

    def _cache(self, inputs: "_Inputs", *positions: Any) -> KeyCache:
        """The cache, which has room for the inputs."""
        if any(each is not None for each in positions):
            raise ValueError("input_positions cannot be given with decode=True: the cache counts")
        kept = self.cached_key, self.cached_value, self.cache_index
        if any(each is None for each in kept):
            raise ValueError(
                "decode=True needs a cache: call layer.init_cache(inputs_q.shape) first"
            )
        cache = KeyCache(*(each.get_value() for each in kept))
        if inputs.keys.shape[:-1] != (*cache.positions.shape, inputs.queries.shape[-2]):
            raise ValueError(
                f"the cache is for keys [*batch={cache.positions.shape}, time, features], as many"
                f" as queries; got queries {inputs.queries.shape}, keys {inputs.keys.shape}"
            )
        cache.check_room(inputs.keys.shape[-2])
        return cache

    def _remember(self, cache: KeyCache, form: Form, values: Array) -> tuple[KeyCache, Form, Array]:
        """The cache with keys and values more, the form of all its keys, and its values."""
        heads_axis, group = values.ndim - 3, self._group()
        cache, kept = cache.append(self._once(form, heads_axis), values)
        self.cached_key.set_value(cache.keys)  # which may be several arrays
        self.cached_value[...] = cache.values
        self.cache_index[...] = cache.positions
        keys = by_key(kept)
        if group > 1:
            keys = jax.tree.map(lambda leaf: jnp.repeat(leaf, group, heads_axis), keys)
        return cache, dataclasses.replace(form, **keys), cache.values

    def _once(self, form: Form, heads_axis: int) -> Form:
        """The form of one head for each group of heads that keep the same of a key."""
        group = self._group()
        return jax.tree.map(lambda leaf: lax.slice_in_dim(leaf, 0, None, group, heads_axis), form)

    def _group(self) -> int:
        """How many heads keep the same of a key: they share the key and project it no further."""
        differ = jax.tree.leaves(self.attention_fn.score)
        return 1 if differ else self.num_heads // self.num_kv_heads


class _Inputs(NamedTuple):
    """What queries, keys and values are projected from."""

    queries: Array
    keys: Array
    values: Array

    def check(self, *features: int) -> None:
        """Refuses arrays that do not fit the projections, or each other.

        Raises:
          ValueError: naming the array.
        """
        names = "inputs_q", "inputs_k", "inputs_v"
        for name, array, size in zip(names, self, features, strict=True):
            if array.ndim < 2 or array.shape[-1] != size:
                raise ValueError(
                    f"{name} must be [*batch, time, features] with {size} features,"
                    f" got shape {array.shape}"
                )
        if not self.queries.shape[:-2] == self.keys.shape[:-2] == self.values.shape[:-2]:
            shapes = ", ".join(
                f"{name} {array.shape}" for name, array in zip(names, self, strict=True)
            )
            raise ValueError(f"the batch axes do not fit each other: {shapes}")
        if self.keys.shape[-2] != self.values.shape[-2]:
            raise ValueError(
                f"inputs_v of shape {self.values.shape} do not fit the {self.keys.shape[-2]} keys"
            )

    def reachable(self, pairs: dict[str, Any], shape: tuple[int, ...]) -> "_Inputs":
        """The inputs, those of keys and values that no query may attend to replaced by others.

        Before they are projected: the gradient of a kernel is a sum over all of them, in which
        zero times NaN is NaN.
        """
        reachable = reachable_keys(pairs["mask"], pairs["bias"], shape)
        if reachable is None:
            return self
        *lead, _, num_keys = shape
        by_some_head = jnp.any(jnp.broadcast_to(reachable, (*lead, num_keys)), axis=-2)
        return _Inputs(self.queries, *replaced((self.keys, self.values), by_some_head))


def _check_sizes(
    num_heads: int,
    in_features: int,
    qkv_features: int | None,
    out_features: int | None,
    num_kv_heads: int | None,
    in_kv_features: int | None,
) -> None:
    """Refuses what is no size, and heads that do not divide.

    Raises:
      ValueError: naming the argument.
    """
    sizes = {
        "num_heads": num_heads,
        "in_features": in_features,
        "qkv_features": qkv_features,
        "out_features": out_features,
        "num_kv_heads": num_kv_heads,
        "in_kv_features": in_kv_features,
    }
    for name, size in sizes.items():
        if size is not None:
            check_size(name, size)
    if num_kv_heads is not None and num_heads % num_kv_heads:
        raise ValueError(f"num_kv_heads={num_kv_heads}: must divide num_heads={num_heads}")
    name, features = "qkv_features", qkv_features
    if features is None:
        name, features = "in_features", in_features
    if features % num_heads:
        raise ValueError(f"num_heads={num_heads}: must divide {name}={features}")
