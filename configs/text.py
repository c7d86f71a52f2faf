"""Reconstruct the lines of a UTF-8 text, byte by byte."""

from ml_collections import ConfigDict

from attention.training.settings import default_config


def get_config(score: str = "mlp") -> ConfigDict:
    config = default_config(score, task="text")
    config.name = "text"
    config.task.path = ""  # the founding documents of the United States, shipped here
    config.train.steps = 900
    config.train.batch_size = 32
    return config
