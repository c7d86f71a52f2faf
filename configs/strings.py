"""Reverse strings of two symbols, trained on up to 40, tested on up to 500 (arXiv 2207.02098).

    python train.py --config configs/strings.py
    python train.py --config configs/strings.py --config.task.name=duplicate --workdir runs/twice

With two symbols a wrong key is right half of the time, and much leads astray that with 64 does
not: several heads and lengths that begin with short ones are needed. Tokens right at 41, 100, 200
and 500, mlp, seeds 110 to 114: reverse 1.000 ± 0.001 at each, duplicate 0.95 ± 0.11 at each: four
seeds with 0.998 and more, the fifth is lost where it has to begin again. Published, the best
transformer: 0.623 and 0.528. Five seeds took seven minutes on two CPU cores that had other work.
"""

from ml_collections import ConfigDict

from attention.training.settings import default_config


def get_config(score: str = "mlp") -> ConfigDict:
    config = default_config(score, task="reverse")
    config.name = "strings"
    config.task.symbols = 2
    config.task.max_length = 40
    config.task.length_distribution = "log_uniform"
    config.model.decoder = "location"
    config.model.mixer = "convolution"
    config.model.positions = "none"
    config.model.normalizer = "sparsemax"
    config.model.embedding_std = 0.25
    config.model.heads = 4
    config.model.dim = 32
    config.train.batch_size = 16
    config.train.steps = 4000
    config.train.eval_every_steps = 4000
    config.eval.sequences = 128
    config.eval.batch_size = 64
    config.eval.lengths = (40, 41, 100, 200, 500)
    return config
