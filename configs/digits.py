"""Classify 8 × 8 images of digits by attention pooling over patches of 2 × 2 pixels.

python train.py --config configs/digits.py
"""

from ml_collections import ConfigDict

from attention.training.settings import default_config


def get_config(score: str = "mlp_pooling") -> ConfigDict:
    config = default_config(score, task="digits")
    config.name = "digits"
    config.task.patch = 2
    config.model.decoder = "pooled"
    config.model.heads = 8
    config.train.steps = 1000
    config.train.batch_size = 64
    return config
