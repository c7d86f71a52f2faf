"""The tutorial's model: one context for the whole sequence, read by a linear decoder."""

from ml_collections import ConfigDict

from attention.training.settings import default_config


def get_config(score: str = "linear") -> ConfigDict:
    config = default_config(score)
    config.name = "pooled"
    config.task.symbols = 32
    config.task.max_length = 8
    config.model.decoder = "pooled"
    config.model.dim = 256
    config.model.heads = 256  # one softmax over positions a feature
    config.train.steps = 2000
    config.eval.lengths = tuple(range(1, 9))
    return config
