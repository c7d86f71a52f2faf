"""Attention with any score function: a few lines about two vectors, and everything else follows."""

from attention import biases, masks, normalizers, recurrence, score_mods
from attention.attend import attend, attend_sharded, attend_with_weights
from attention.attention_fn import AttentionFn, attention_fn
from attention.dropout import dropout
from attention.forms import (
    Additive,
    InnerProduct,
    KeyOnly,
    Pairwise,
    SquaredDistance,
    form_of,
)
from attention.layers import Attention
from attention.multi_head import MultiHeadAttention
from attention.rotary import rotate
from attention.scores import (
    MLP,
    RBF,
    SCORES,
    Bilinear,
    Cosine,
    Dot,
    GATv2,
    Linear,
    MLPPooling,
    ScaledDot,
    Score,
    Trilinear,
    Uniform,
)
from attention.weight_statistics import Statistics, statistics

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "RBF",
    "SCORES",
    "Additive",
    "Attention",
    "AttentionFn",
    "Bilinear",
    "Cosine",
    "Dot",
    "GATv2",
    "InnerProduct",
    "KeyOnly",
    "Linear",
    "MLPPooling",
    "MultiHeadAttention",
    "Pairwise",
    "ScaledDot",
    "Score",
    "SquaredDistance",
    "Statistics",
    "Trilinear",
    "Uniform",
    "attend",
    "attend_sharded",
    "attend_with_weights",
    "attention_fn",
    "biases",
    "dropout",
    "form_of",
    "masks",
    "normalizers",
    "recurrence",
    "rotate",
    "score_mods",
    "statistics",
]
