"""Copy random sequences of up to 64 symbols, one query a position.

python train.py --config configs/copy64.py          # or :bilinear, …
"""

from ml_collections import ConfigDict

from attention.training.settings import default_config


def get_config(score: str = "mlp") -> ConfigDict:
    config = default_config(score)
    config.name = "copy64"
    config.task.symbols = 64
    config.task.max_length = 64
    config.train.batch_size = 32
    config.train.steps = 1000
    config.eval.lengths = (1, 8, 16, 32, 48, 64)
    return config
