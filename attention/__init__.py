"""Attention with any score function: a few lines about two vectors, and everything else follows."""

from attention import biases, masks, normalizers
from attention.attend import attend, attend_with_weights
from attention.forms import Additive, InnerProduct, KeyOnly, Pairwise, form_of
from attention.layers import Attention
from attention.scores import MLP, SCORES, Bilinear, Cosine, Dot, Linear, ScaledDot, Score
from attention.statistics import Statistics, statistics

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
    "Statistics",
    "attend",
    "attend_with_weights",
    "biases",
    "form_of",
    "masks",
    "normalizers",
    "statistics",
]
