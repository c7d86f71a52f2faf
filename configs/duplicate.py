"""Reproduce random sequences of up to 16 symbols twice, one query a position.

    python train.py --config configs/duplicate.py       # or :bilinear, …

The second time begins where the length says: a GRU over the source from both ends tells each
source position its length. 23 s (mlp) and 19 s (bilinear) on 2 CPU cores. Exact match of mixed
lengths, seeds 100 and 101: mlp 0.9952 ± 0.0047, bilinear 0.9576 ± 0.0599, for at a few lengths one
step looks at the wrong symbol. At length 16, 33 target steps: 0.9979 ± 0.0002 and 0.9998.
"""

from ml_collections import ConfigDict

from attention.training.settings import default_config


def get_config(score: str = "mlp") -> ConfigDict:
    config = default_config(score, task="duplicate")
    config.name = "duplicate"
    config.task.symbols = 64
    config.task.max_length = 16
    config.model.mixer = "gru"
    config.train.batch_size = 64
    config.train.steps = 2000
    config.train.eval_every_steps = 500
    config.eval.lengths = (1, 4, 8, 12, 16)
    return config
