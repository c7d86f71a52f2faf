"""Reconstruct the lines of a UTF-8 text, byte by byte.

    python train.py --config configs/text.py                # or --config.task.path=any.txt
    python eval.py --workdir runs/text-mlp --text "any line"

About 57 s on one of 2 busy CPU cores. Bytes of held-out lines right: 0.9971 (seed 100) for the
shipped text; 0.992 (seed 0, 800 steps) for 1,887 lines of Tang poems.
"""

from ml_collections import ConfigDict

from attention.training.settings import default_config


def get_config(score: str = "mlp") -> ConfigDict:
    config = default_config(score, task="text")
    config.name = "text"
    config.task.path = ""  # the founding documents of the United States, shipped here
    config.train.steps = 900
    config.train.batch_size = 32
    return config
