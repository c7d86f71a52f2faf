"""Reconstruct the lines of a UTF-8 text, byte by byte.

    python train.py --config configs/text.py                # or --config.task.path=any.txt
    python eval.py --workdir runs/text-mlp --text "any line"

39 s on 2 CPU cores. Bytes of held-out lines right: 0.9979 ± 0.0043 (seeds 100 to 104, of which one
has 0.9903 and the others 0.9998) for the shipped text, 0.9980 ± 0.0013 (seeds 100 and 101) for
1,600 lines of Tang poems. With 900 steps it was 0.9659 on one seed of three.
"""

from ml_collections import ConfigDict

from attention.lab.configs import default_config


def get_config(score: str = "mlp") -> ConfigDict:
    config = default_config(score, task="text")
    config.task.path = ""  # the founding documents of the United States, shipped here
    config.train.steps = 2000
    config.train.batch_size = 32
    return config
