"""The weights of other libraries' attention, in this library's layers.

Each function takes arrays by the names or in the order that the other library has them, and makes
a layer that computes what the other library's computes. None needs that library: tensors of PyTorch
are recognized by their methods, and files of safetensors are read by a small package.

A mask of these layers says which key *may* be attended to, as everywhere here. The page "Names" of
the documentation has the arguments of the other libraries beside those of this one.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from attention.layers import Attention
from attention.multi_head import MultiHeadAttention
from attention.scores import MLP

Tensors = Mapping[str, Any]


def read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a file, by their names.

    Args:
      path: of a file in the format of the package safetensors, which the extra `interop` brings.
    """
    from safetensors.numpy import load_file

    return load_file(path)


def from_torch(
    source: Any, num_heads: int | None = None, *, prefix: str = "", **settings: Any
) -> MultiHeadAttention:
    """The layer that equals a `torch.nn.MultiheadAttention`, but is batch first.

    Args:
      source: the module; or its `state_dict()`, as PyTorch's tensors or any arrays.
      num_heads: number of heads, which tensors alone do not tell.
      prefix: what precedes the names of the tensors: `"layers.0.self_attn."`, say.
      **settings: of the layer. From a module come `dropout_rate`, and `deterministic` as the module
        is in training or not. `add_zero_attn=True` is `normalizer="softmax_one"`, and is so read
        from a module, but cannot be read from tensors.

    Raises:
      ValueError: a tensor is missing or does not fit, or the layer has no equal: `add_bias_kv`.
    """
    if not isinstance(source, Mapping):
        zero_key = {"normalizer": "softmax_one"} if source.add_zero_attn else {}
        dropout = {"dropout_rate": source.dropout, "deterministic": not source.training}
        settings = zero_key | dropout | settings
        source, num_heads = source.state_dict(), source.num_heads
    if num_heads is None:
        raise ValueError("num_heads is missing: the tensors do not tell it")
    if f"{prefix}bias_k" in source:
        raise ValueError(f"{prefix}bias_k: a layer made with add_bias_kv=True has no equal here")
    tensors = _Tensors(source, prefix)
    if f"{prefix}in_proj_weight" in source:
        weights = np.split(tensors["in_proj_weight"], 3)
    else:  # where keys or values have a size of their own
        weights = [tensors[f"{name}_proj_weight"] for name in "qkv"]
    bias = tensors.get("in_proj_bias")
    biases = [None] * 3 if bias is None else np.split(bias, 3)
    inward = [_inward(each.T, bias, num_heads) for each, bias in zip(weights, biases, strict=True)]
    out = tensors["out_proj.weight"].T, tensors.get("out_proj.bias")
    return _layer(inward, _outward(*out, num_heads), settings)


def from_keras(weights: Sequence[Any], **settings: Any) -> MultiHeadAttention:
    """The layer that equals a Keras `MultiHeadAttention`.

    Args:
      weights: `layer.get_weights()`: kernel and bias, or the kernel alone, of query, key, value and
        output.
      **settings: of the layer, such as `dropout_rate`.

    Raises:
      ValueError: there are not as many arrays, as of a layer with `use_gate=True`.
    """
    arrays = [_array(weight) for weight in weights]
    if len(arrays) not in (4, 8):
        raise ValueError(
            "weights must be 4 kernels, or 4 pairs of kernel and bias: of query, key, value and"
            f" output; got {len(arrays)} arrays"
        )
    kernels, biases = (arrays[::2], arrays[1::2]) if len(arrays) == 8 else (arrays, [None] * 4)
    *inward, out = map(_Projection, kernels, biases)
    return _layer(inward, out, settings)


def from_keras_additive(
    weights: Sequence[Any], dim: int | None = None, **settings: Any
) -> Attention:
    """The layer that equals a Keras `AdditiveAttention`: an `MLP` score that projects by identity.

    Args:
      weights: `layer.get_weights()`: the scale, or nothing if the layer has `use_scale=False`.
      dim: size of queries and keys, where there is no scale to tell it.
      **settings: of the layer, such as `dropout_rate`.

    Raises:
      ValueError: the size is missing.
    """
    if not len(weights) and dim is None:
        raise ValueError("dim is missing: without a scale there is nothing to tell it")
    scale = _array(weights[0]) if len(weights) else np.ones(dim or 0, np.float32)
    (dim,) = scale.shape
    settings = {"rngs": nnx.Rngs(0)} | settings
    layer = Attention(MLP, dim, dim, hidden=dim, **settings)
    for projection in (layer.score.query_weight, layer.score.key_weight):
        projection[...] = jnp.eye(dim)[None]
    layer.score.readout[...] = jnp.asarray(scale)[None]
    return layer


def from_bert(
    tensors: Tensors, num_heads: int, *, prefix: str, **settings: Any
) -> MultiHeadAttention:
    """The layer that equals the attention of one layer of Hugging Face's BERT.

    From the input of that layer to what is added to it; the layer normalization after it is not
    attention's.

    Args:
      tensors: of the model, as `read_safetensors` has them.
      num_heads: number of heads: `num_attention_heads` in the model's `config.json`.
      prefix: what precedes the names of the tensors: `"encoder.layer.0.attention."`, say, in some
        files with another `"bert."` before it.
      **settings: of the layer, such as `dropout_rate`.

    Raises:
      ValueError: a tensor is missing, or does not fit.
    """
    of_layer = _Tensors(tensors, prefix)
    inward = [
        _inward(of_layer[f"self.{name}.weight"].T, of_layer[f"self.{name}.bias"], num_heads)
        for name in ("query", "key", "value")
    ]
    out = of_layer["output.dense.weight"].T, of_layer["output.dense.bias"]
    return _layer(inward, _outward(*out, num_heads), settings)


def from_gpt2(
    tensors: Tensors, num_heads: int, *, prefix: str, **settings: Any
) -> MultiHeadAttention:
    """The layer that equals the attention of one block of Hugging Face's GPT-2.

    From the block's normalized input to what is added to the input. GPT-2 is causal: call
    `layer(x, is_causal=True)`.

    Args:
      tensors: of the model, as `read_safetensors` has them.
      num_heads: number of heads: `n_head` in the model's `config.json`.
      prefix: what precedes the names of the tensors: `"h.0.attn."`, say, in some files with another
        `"transformer."` before it.
      **settings: of the layer, such as `dropout_rate`.

    Raises:
      ValueError: a tensor is missing, or does not fit.
    """
    of_block = _Tensors(tensors, prefix)
    # Its kernels are `[inputs, outputs]`, unlike those of PyTorch's own layers.
    weights = np.split(of_block["c_attn.weight"], 3, axis=1)
    biases = np.split(of_block["c_attn.bias"], 3)
    inward = [_inward(*pair, num_heads) for pair in zip(weights, biases, strict=True)]
    out = of_block["c_proj.weight"], of_block["c_proj.bias"]
    return _layer(inward, _outward(*out, num_heads), settings)


class _Projection(NamedTuple):
    """The arrays of an `nnx.LinearGeneral`.

    Attributes:
      kernel: `[features, heads, head_dim]`, or `[heads, head_dim, features]` for the output.
      bias: `[heads, head_dim]`, or `[features]` for the output; None for none.
    """

    kernel: np.ndarray
    bias: np.ndarray | None


def _inward(kernel: np.ndarray, bias: np.ndarray | None, heads: int) -> _Projection:
    """A projection to vectors of all heads, as that to the vectors of each."""
    return _Projection(
        _split(kernel, heads, axis=1), None if bias is None else _split(bias, heads, axis=0)
    )


def _outward(kernel: np.ndarray, bias: np.ndarray | None, heads: int) -> _Projection:
    return _Projection(_split(kernel, heads, axis=0), bias)


def _split(array: np.ndarray, heads: int, axis: int) -> np.ndarray:
    size = array.shape[axis]
    if size % heads:
        raise ValueError(f"num_heads={heads}: must divide the {size} features of all heads")
    return array.reshape(*array.shape[:axis], heads, size // heads, *array.shape[axis + 1 :])


def _layer(
    inward: Sequence[_Projection], out: _Projection, settings: dict[str, Any]
) -> MultiHeadAttention:
    """The layer of the projections to query, key and value, and that of the output."""
    query, key, value = inward
    features, heads, head_dim = query.kernel.shape
    layer = MultiHeadAttention(
        heads,
        features,
        heads * head_dim,
        out.kernel.shape[-1],
        key.kernel.shape[1],
        key.kernel.shape[0],
        **({"rngs": nnx.Rngs(0)} | settings),
    )
    _fill(layer.query, query, 1)
    _fill(layer.key, key, 1)
    _fill(layer.value, value, 1)
    _fill(layer.out, out, 2)
    return layer


def _fill(linear: nnx.LinearGeneral, arrays: _Projection, inputs: int) -> None:
    """Gives a projection its arrays, and the sizes of these: values may have some of their own."""
    shape = arrays.kernel.shape
    linear.in_features, linear.out_features = shape[:inputs], shape[inputs:]
    linear.kernel = nnx.Param(jnp.asarray(arrays.kernel, linear.param_dtype))
    linear.use_bias = arrays.bias is not None
    bias = nnx.Param(jnp.asarray(arrays.bias, linear.param_dtype)) if linear.use_bias else None
    linear.bias = nnx.data(bias)


class _Tensors:
    """The tensors whose names begin with a prefix, as NumPy's arrays, by the rest of the names."""

    def __init__(self, tensors: Tensors, prefix: str):
        self.tensors = tensors
        self.prefix = prefix

    def get(self, name: str) -> np.ndarray | None:
        whole = self.prefix + name
        return _array(self.tensors[whole]) if whole in self.tensors else None

    def __getitem__(self, name: str) -> np.ndarray:
        array = self.get(name)
        if array is None:
            others = [other.removesuffix(name) for other in self.tensors if other.endswith(name)]
            hint = f"; there is one with prefix={others[0]!r}" if others else ""
            raise ValueError(
                f"prefix={self.prefix!r}: there is no tensor {self.prefix + name}{hint}"
            )
        return array


def _array(tensor: Any) -> np.ndarray:
    """A tensor of NumPy, JAX or PyTorch as an array of NumPy."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        if "bfloat16" in str(tensor.dtype):  # which NumPy has not
            tensor = tensor.float()
        return tensor.numpy()
    return np.asarray(tensor)
