"""Sort random sequences of up to 16 distinct symbols, with a GRU decoder.

    python train.py --config configs/sort.py            # or :bilinear, …

The next symbol is the least one above the symbol before, which the state of the decoder asks
for. 27 s (mlp) and 19 s (bilinear) on 2 CPU cores. Exact match at length 16, greedy decoding,
seeds 100 and 101: mlp 0.9989 ± 0.0012, bilinear 0.9910 ± 0.0059; of mixed lengths 0.9994 ± 0.0005
and 0.9956 ± 0.0003.
"""

from ml_collections import ConfigDict

from attention.training.settings import default_config


def get_config(score: str = "mlp") -> ConfigDict:
    config = default_config(score, task="sort")
    config.name = "sort"
    config.task.symbols = 64
    config.task.max_length = 16
    config.model.decoder = "gru"
    config.model.positions = "none"  # where a symbol stands does not matter
    config.train.batch_size = 64
    config.train.steps = 1200
    config.train.eval_every_steps = 500
    config.eval.lengths = (1, 4, 8, 12, 16)
    return config
