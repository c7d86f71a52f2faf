"""Attention with any score function: a few lines about two vectors, and everything else follows."""

from attention import masks, normalizers
from attention.attend import attend, attend_with_weights
from attention.forms import Additive, InnerProduct, KeyOnly, Pairwise, form_of
from attention.layers import Attention
from attention.scores import MLP, SCORES, Bilinear, Cosine, Dot, Linear, ScaledDot, Score

__all__ = [
    "MLP",
    "SCORES",
    "Additive",
    "Attention",
    "Bilinear",
    "Cosine",
    "Dot",
    "InnerProduct",
    "KeyOnly",
    "Linear",
    "Pairwise",
    "ScaledDot",
    "Score",
    "attend",
    "attend_with_weights",
    "form_of",
    "masks",
    "normalizers",
]
