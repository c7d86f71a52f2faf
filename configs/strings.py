"""Reverse strings of two symbols, trained on up to 40, tested on up to 500 (arXiv 2207.02098).

    python train.py --config configs/strings.py
    python train.py --config configs/strings.py --config.task.name=duplicate --workdir runs/twice

With two symbols a wrong key is right half of the time, and much leads astray that with 64 does not.
Lengths that begin with short ones help. Tokens right, 128 sequences a length, mlp: reverse 1.0000
at 41, 100, 200 and 500 (seeds 120 to 124); duplicate 1.0000 at 41, 0.9997 ± 0.0010 at 100, 0.997 ±
0.007 at 200, 0.990 ± 0.031 at 500 (seeds 120 to 129: eight make no mistake, the worst has 0.90 at
500). With uniform lengths, as published, reverse has 1.0000 (seeds 130 to 134), but of duplicate
one seed of five is lost (0.91 ± 0.21 at 500). Published, the best transformer: 0.623 and 0.528.
Five seeds take 5 minutes of one CPU core to reverse, 8 to duplicate.
"""

from ml_collections import ConfigDict

from attention.lab.configs import default_config


def get_config(score: str = "mlp") -> ConfigDict:
    config = default_config(score, task="reverse", decoder="location")
    config.task.symbols = 2
    config.task.max_length = 40
    config.task.length_distribution = "log_uniform"
    config.model.heads = 4
    config.model.dim = 32
    config.train.batch_size = 16
    config.train.steps = 4000
    config.train.eval_every_steps = 4000
    config.eval.sequences = 128
    config.eval.batch_size = 64
    config.eval.lengths = (40, 41, 100, 200, 500)
    return config
