"""`Attention`: the layer that holds the scores of its heads."""

from collections.abc import Callable
from typing import Any

from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from attention.algorithms import dense
from attention.attend import ALGORITHMS, attend, attend_sharded, attend_with_weights
from attention.biases import BIASES, GivenBias
from attention.dropout import Randomness, check_rate
from attention.head_parts import (
    held,
    is_factory,
    make_part,
    make_scores,
    options_of,
    score_of,
    share_function,
    unknown_options,
)
from attention.heads import for_heads, join_heads
from attention.layer_arguments import check_choice, check_rngs, refuse_unknown
from attention.layer_inputs import read_inputs
from attention.masks import GivenMask
from attention.normalizers import Normalizer, make_normalizer
from attention.prepare import Positions
from attention.score_mods import GivenScoreMod
from attention.sizes import check_size
from attention.steps import Steps
from attention.weight_statistics import Statistics, statistics


class Attention(Steps):
    """Multi-head attention with any score.

    Each head owns the parameters of its score and sees the full query and key vectors;
    the values are split over the heads, and the heads' contexts are concatenated. The
    layer projects nothing: that is the score's affair, or its user's, or that of
    `attention.MultiHeadAttention`.
    """

    def __init__(
        self,
        score: str | Callable[..., Any],
        query_dim: int,
        key_dim: int,
        *,
        heads: int = 1,
        kv_heads: int | None = None,
        normalizer: str | Normalizer = "softmax",
        bias: Any = None,
        score_mod: Any = None,
        dropout_rate: float = 0.0,
        deterministic: bool | None = None,
        rotary: bool = False,
        implementation: str | None = None,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        """Makes the layer, and whatever its heads need.

        Args:
          score: a score class, or a factory such as `functools.partial(MLP, hidden=32)`, called
            once a head as `score(query_dim, key_dim, rngs=…, **options)`; or a plain function
            `score(query, key, **options)` of a single query and a single key, which all heads
            share. Or its name: a key of `SCORES`, or `my_lab.scores:MyScore`.
          query_dim: size of a query.
          key_dim: size of a key.
          heads: number of heads.
          kv_heads: over how many heads the values are split, each shared by a group of
            `heads / kv_heads`; None for `heads`. It must divide the size of the values.
          normalizer: from scores to weights: a name in `attention.normalizers`, a normalizer of
            that module, or the user's own function `(scores, where) -> weights`.
          bias: what positions add to the scores, see `attention.biases`: a class or its name, made
            by `bias(heads, rngs=…)`; a pytree `(i, j) -> array`; an array that broadcasts to
            `[*batch, heads, queries, keys]`; or a plain function `(i, j) -> number`.
          score_mod: what is made of each score, bias included, before the normalizer, see
            `attention.score_mods`: a plain function `(score, i, j) -> score`, or a pytree that is
            one, or a class made by `score_mod(heads, rngs=…)`.
          dropout_rate: the probability that a weight is dropped.
          deterministic: whether no weight is dropped. Where `dropout_rate` is not 0, either the
            constructor or the call must say it.
          rotary: whether queries and keys are rotated by their positions, see `attention.rotary`.
          implementation: name of the algorithm, see `attention.attend`; None picks.
          rngs: source of initial parameters, and, from its stream `dropout`, of what is dropped.
          **options: passed on to the score class or function.

        Raises:
          ValueError: an argument is unknown, no size, or not what it must be; or the score or its
            options are refused.
        """
        score = score_of(score)
        refuse_unknown(
            unknown_options(score, options),
            Attention.__init__,
            {"the call of the layer": Attention.__call__},
            f"; {options_of(score)}",
        )
        check_rngs(rngs)
        check_size("query_dim", query_dim)
        check_size("key_dim", key_dim)
        check_size("heads", heads)
        check_size("kv_heads", heads if kv_heads is None else kv_heads)
        check_choice("implementation", implementation, ALGORITHMS)
        self.query_dim = query_dim
        self.key_dim = key_dim
        self.heads = heads
        self.kv_heads = heads if kv_heads is None else kv_heads
        if heads % self.kv_heads:
            raise ValueError(f"kv_heads={kv_heads}: must divide heads={heads}")
        check_rate(dropout_rate)
        if rotary and (query_dim % 2 or key_dim % 2):
            raise ValueError(
                f"rotary=True: query_dim={query_dim} and key_dim={key_dim} must be even"
            )
        self.rotary = rotary
        self.implementation = implementation
        self.dropout_rate = dropout_rate
        self.deterministic = deterministic
        self.normalizer = held(make_normalizer(normalizer, query_dim, heads, rngs))
        self.bias = make_part("bias", bias, BIASES, heads, rngs)
        self.score_mod = make_part("score_mod", score_mod, {}, heads, rngs)
        self.shares_score = not is_factory(score)
        if self.shares_score:
            self.score = nnx.data(share_function(score, options))
        else:
            self.score = make_scores(score, query_dim, key_dim, heads, rngs, options)
        # As in Flax: a stream of its own, so that other layers draw what they would draw anyway.
        has_stream = "dropout" in rngs or "default" in rngs
        self.rngs = nnx.data(rngs.dropout.fork() if dropout_rate > 0 and has_stream else None)

    def __call__(
        self,
        queries: PyTree,
        keys: PyTree | None = None,
        values: Float[Array, "... keys value_dim"] | None = None,
        *,
        mask: GivenMask = None,
        bias: GivenBias = None,
        score_mod: GivenScoreMod = None,
        deterministic: bool | None = None,
        rngs: Randomness | None = None,
        query_positions: Int[Array, "... queries"] | None = None,
        key_positions: Int[Array, "... keys"] | None = None,
        **unknown: Any,
    ) -> Float[Array, "... queries context_dim"]:
        """The context of every query.

        Args:
          queries: `[*batch, queries, query_dim]`, or `[queries, query_dim]` where all
            batch elements ask the same. Batch axes of size 1 stand for any size.
          keys: `[*batch, keys, key_dim]`; the queries where not given. Queries and keys may also be
            pytrees of arrays that all have the batch axes, for scores that take them apart.
          values: what is mixed, `[*batch, keys, value_dim]`; the keys where not given.
          mask: which query may attend to which key, see `attention.masks`: a mask, a boolean
            array that broadcasts to `[*batch, heads, queries, keys]`, `"causal"`, or a plain
            function `(i, j) -> bool`.
          bias: a bias more, added to the scores.
          score_mod: a score_mod more, applied after that of the layer.
          deterministic: whether no weight is dropped; None for what the layer was made with.
          rngs: what says which weights are dropped: `nnx.Rngs`, a stream, or a key; None for the
            layer's own stream.
          query_positions: where the queries stand, `[queries]` or `[*batch, queries]`, for masks
            and biases that compare positions and for `rotary`; None for 0, 1, …
          key_positions: where the keys stand.
          **unknown: refused, with the name that the argument has here.

        Raises:
          ValueError: an argument does not fit the others or the layer.
        """
        form, values, settings = self._asked(
            queries,
            keys,
            values,
            mask=mask,
            bias=bias,
            score_mod=score_mod,
            deterministic=deterministic,
            rngs=rngs,
            query_positions=query_positions,
            key_positions=key_positions,
            **unknown,
        )
        context = attend(form, values, **settings, implementation=self.implementation)
        return join_heads(context)

    def sharded(
        self,
        queries: PyTree,
        keys: PyTree | None = None,
        values: Float[Array, "... keys value_dim"] | None = None,
        *,
        mesh: Mesh,
        axis: str,
        **arguments: Any,
    ) -> Float[Array, "... queries context_dim"]:
        """The context of every query, keys and values in equal shares along a mesh axis.

        Args:
          queries: as in a call of the layer.
          keys: as in a call of the layer.
          values: as in a call of the layer.
          mesh: of devices.
          axis: the name of the mesh axis for the keys, see `attend_sharded`.
          **arguments: `mask`, `bias` and the others, as in a call of the layer. Indices are those
            among all keys.
        """
        form, values, settings = self._asked(
            queries, keys, values, keys_in_shares=True, **arguments
        )
        context = attend_sharded(form, values, mesh=mesh, axis=axis, **settings)
        return join_heads(context)

    def with_weights(
        self,
        queries: PyTree,
        keys: PyTree | None = None,
        values: Float[Array, "... keys value_dim"] | None = None,
        **arguments: Any,
    ) -> tuple[Float[Array, "... queries context_dim"], Float[Array, "... heads queries keys"]]:
        """The context of every query, and the weights of every head over the keys.

        The arguments are those of a call of the layer.
        """
        form, values, settings = self._asked(queries, keys, values, **arguments)
        context, weights = attend_with_weights(form, values, **settings)
        return join_heads(context), weights

    def scores(
        self, queries: PyTree, keys: PyTree | None = None
    ) -> Float[Array, "... heads queries keys"]:
        """The scores of every head, without mask or bias: for decoders that add to the scores."""
        inputs = read_inputs(queries, keys, None, self.query_dim, self.key_dim)
        lead = (*inputs.batch, self.heads)
        scores = dense.scores(dense.collapse(self._form(inputs, Positions()), lead))
        return scores.reshape(*lead, *scores.shape[1:])

    def context(
        self,
        weights: Float[Array, "*batch heads queries keys"],
        values: Float[Array, "*batch keys value_dim"],
    ) -> Float[Array, "*batch queries context_dim"]:
        """The context that every head mixes by these weights, the heads' contexts concatenated."""
        return join_heads(weights.astype(values.dtype) @ for_heads(self._split(values), self.heads))

    def statistics(
        self,
        queries: PyTree,
        keys: PyTree | None = None,
        values: Float[Array, "... keys value_dim"] | None = None,
        *,
        top_k: int = 1,
        **arguments: Any,
    ) -> Statistics:
        """What every query attends to under a softmax, in a few numbers for every head.

        Unlike the weights, they take no memory of `[queries, keys]`. The other arguments are those
        of a call of the layer; nothing is dropped.
        """
        arguments["deterministic"] = True
        form, values, settings = self._asked(queries, keys, values, **arguments)
        for name in ("normalizer", "dropout"):
            del settings[name]
        return statistics(form, **settings, top_k=top_k, lead=values.ndim - 2)

    def set_view(self, deterministic: bool | None = None) -> None:
        """What `nnx.view(layer, deterministic=…)` sets."""
        if deterministic is not None:
            self.deterministic = deterministic
