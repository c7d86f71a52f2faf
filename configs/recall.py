"""Recall the values of up to 4 keys, listed among 8,192 symbols, that come again within 64 tokens.

python train.py --config configs/recall.py          # or :bilinear, …
"""

from ml_collections import ConfigDict

from attention.training.settings import default_config


def get_config(score: str = "mlp") -> ConfigDict:
    config = default_config(score, task="recall")
    config.name = "recall"
    config.task.symbols = 8192
    config.task.max_length = 4
    config.task.span = 64
    config.model.mixer = "convolution"
    config.model.embedding_std = 0.25
    config.train.batch_size = 64
    config.train.steps = 1000
    config.train.eval_every_steps = 500
    config.eval.lengths = (1, 2, 3, 4)
    return config
