"""What a layer answers whoever gives it an argument that it does not take."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attention.forms import name_of
from attention.masks import Mask

# What Flax, PyTorch, Keras and FlexAttention call it, and what to say here.
_NAMES = {
    ("num_heads", "nhead", "n_heads", "nheads"): "say heads=",
    ("num_kv_heads", "num_key_value_heads", "num_query_groups"): "say kv_heads=",
    ("embed_dim", "d_model", "in_features", "qkv_features", "out_features"): (
        "say query_dim= and key_dim=; this layer projects nothing, MultiHeadAttention does"
    ),
    ("kdim", "in_kv_features"): "say key_dim=",
    ("vdim", "value_dim"): "the values tell their size themselves",
    ("dropout", "attn_dropout", "attention_dropout", "dropout_p"): "say dropout_rate=",
    ("softcap", "logits_soft_cap"): "say score_mod=attention.score_mods.SoftCap(…)",
    ("is_causal", "causal", "use_causal_mask"): 'say mask="causal" in the call of the layer',
    ("attn_mask", "attention_mask", "block_mask"): (
        "say mask= in the call of the layer, True where a query may attend"
    ),
    ("key_padding_mask", "padding_mask"): (
        "say mask=attention.masks.keys(…) in the call of the layer, True for keys that count"
    ),
    (
        "need_weights",
        "average_attn_weights",
        "return_attention_scores",
        "output_attentions",
        "sow_weights",
    ): "call layer.with_weights(…)",
    ("attn_bias", "attention_bias"): "say bias=",
    ("query", "inputs_q"): "say queries=",
    ("key", "inputs_k"): "say keys=",
    ("value", "inputs_v"): "say values=",
    ("training", "train"): "say deterministic=, False for training",
    ("dropout_rng", "dropout_key"): "say rngs= in the call of the layer",
    ("decode", "use_cache", "past_key_value"): "call layer.init_cache(…) and layer.step(…)",
}
_HERE = {name: remedy for names, remedy in _NAMES.items() for name in names}


def refuse_unknown(
    unknown: Mapping[str, Any],
    method: Callable[..., Any],
    elsewhere: Mapping[str, Callable[..., Any]],
    rest: str = "",
    *,
    remedies: Mapping[str, str] = _HERE,
    own: str = "the layer's own are",
) -> None:
    """Refuses arguments that a method does not take.

    Args:
      unknown: the arguments.
      method: what was called.
      elsewhere: other methods that may take them, and how to say where that is.
      rest: what else there is to say of the arguments.
      remedies: what to say instead, by the names that other libraries have.
      own: what precedes the names of the method's arguments.

    Raises:
      ValueError: there is one; the message tells its name here, or where it belongs, or the names
        that there are.
    """
    for name, value in unknown.items():
        given = f"{name}={brief(value)}"
        if name in remedies:
            raise ValueError(f"{given}: {remedies[name]}")
        for where, other in elsewhere.items():
            if name in argument_names(other):
                raise ValueError(f"{given}: is an argument of {where}")
        names = ", ".join(argument_names(method))
        raise ValueError(f"{given}: is no argument; {own} {names}{rest}")


def argument_names(method: Callable[..., Any]) -> list[str]:
    """The names of a method's arguments, in their order."""
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = inspect.signature(method).parameters.values()
    return [each.name for each in parameters if each.name != "self" and each.kind not in variable]


def brief(value: Any) -> str:
    """A value in an error message: an array by its dtype and shape."""
    if isinstance(value, jax.Array | np.ndarray):
        return f"<{value.dtype} array of shape {value.shape}>"
    return f"<function {name_of(value)}>" if inspect.isfunction(value) else repr(value)


def check_choice(name: str, choice: str | None, choices: Iterable[str]) -> None:
    """Refuses what is neither None nor among the choices.

    Raises:
      ValueError: naming the choices.
    """
    if choice is not None and choice not in choices:
        raise ValueError(f"{name}={choice!r} is unknown; choose {', '.join(choices)}, or None")


def check_rngs(rngs: Any) -> None:
    """Refuses what parameters cannot be drawn from.

    Raises:
      ValueError: with what to say.
    """
    if not isinstance(rngs, nnx.Rngs):
        seed = rngs if isinstance(rngs, int) and not isinstance(rngs, bool) else 0
        raise ValueError(f"rngs={brief(rngs)}: say rngs=nnx.Rngs({seed})")


def check_no_mask(**vectors: Any) -> None:
    """Refuses a mask in the place of queries, keys or values.

    Raises:
      ValueError: naming the place.
    """
    for name, value in vectors.items():
        is_array = isinstance(value, jax.Array | np.ndarray)
        is_boolean = is_array and jnp.issubdtype(value.dtype, jnp.bool_)
        if is_boolean or isinstance(value, Mask | str) or inspect.isfunction(value):
            raise ValueError(f"{name}={brief(value)}: looks like a mask; say mask=")
