import inspect

import jax.numpy as jnp
import pytest
from flax import nnx
from oracles import KEY_DIM, QUERY_DIM, overlap, refused

from attention import MLP, Attention, Bilinear
from attention.layer_arguments import argument_names

X = jnp.ones((5, 11))


def make(score=MLP, **arguments):
    return Attention(score, QUERY_DIM, KEY_DIM, rngs=nnx.Rngs(0), **arguments)


# What others call it, and what the message must say.
FOREIGN = {
    "num_heads": "heads=",
    "num_kv_heads": "kv_heads=",
    "in_features": "query_dim=",
    "embed_dim": "query_dim=",
    "dropout": "dropout_rate=",
    "is_causal": 'mask="causal" in the call',
    "use_causal_mask": 'mask="causal" in the call',
    "attn_mask": "mask= in the call",
    "attention_mask": "mask= in the call",
    "key_padding_mask": r"mask=attention.masks.keys\(…\) in the call",
    "need_weights": r"layer.with_weights\(…\)",
    "return_attention_scores": r"layer.with_weights\(…\)",
    "decode": r"layer.init_cache\(…\) and layer.step\(…\)",
    "training": "deterministic=",
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("score", [MLP, overlap])
def test_an_argument_of_another_library_is_told_its_name_here(name, score):
    with refused(rf"^{name}=4: .*{FOREIGN[name]}"):
        make(score, **{name: 4})
    layer = make(score)
    for method in (layer, layer.with_weights, layer.statistics):
        with refused(rf"^{name}=4: .*{FOREIGN[name]}"):
            method(X, **{name: 4})


def test_what_is_told_exists():
    names = argument_names(Attention.__init__) + argument_names(Attention.__call__)
    for told in ("heads", "kv_heads", "query_dim", "dropout_rate", "mask", "deterministic"):
        assert told in names
    for method in ("with_weights", "init_cache", "step"):
        assert hasattr(Attention, method)


def test_an_argument_of_the_wrong_place_is_sent_to_its_place():
    with refused("^mask='causal': is an argument of the call of the layer"):
        make(mask="causal")
    with refused(r"^heads=2: is an argument of Attention\(…\)"):
        make()(X, heads=2)


OWN_NAMES = (
    "score, query_dim, key_dim, heads, kv_heads, normalizer, bias, score_mod, dropout_rate,"
    " deterministic, rotary, implementation, rngs"
)


@pytest.mark.parametrize(
    ("score", "options"),
    [
        (MLP, "options of MLP: hidden"),
        (Bilinear, "options of Bilinear: none"),
        (overlap, "options of overlap: none"),
    ],
)
def test_an_unknown_argument_gets_the_names_of_the_layer_then_those_of_the_score(score, options):
    with refused(f"^hiden=5: is no argument; the layer's own are {OWN_NAMES}; {options}$"):
        make(score, hiden=5)


def test_an_unknown_argument_of_a_call_gets_the_names_of_the_call():
    with refused("^maks=<function <lambda>>: is no argument; the layer's own are queries, keys,"):
        make()(X, maks=lambda i, j: i > j)


def test_an_array_is_told_by_its_shape():
    with refused(r"^attn_mask=<bool array of shape \(5, 5\)>: say mask="):
        make()(X, attn_mask=jnp.ones((5, 5), bool))


def test_the_constructor_has_a_docstring_that_names_every_argument():
    text = inspect.getdoc(Attention.__init__)
    for name in argument_names(Attention.__init__):
        assert f"  {name}: " in text
