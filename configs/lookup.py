"""Look up each key of a dictionary of up to 10 keys that is new in every example.

python train.py --config configs/lookup.py          # or :linear, …
"""

from ml_collections import ConfigDict

from attention.training.settings import default_config


def get_config(score: str = "mlp") -> ConfigDict:
    config = default_config(score, task="lookup")
    config.name = "lookup"
    config.task.symbols = 10
    config.task.max_length = 10
    config.model.positions = "none"  # a dictionary has no order
    config.train.steps = 400
    config.eval.lengths = (1, 2, 4, 6, 8, 10)
    return config
