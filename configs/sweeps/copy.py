"""What to draw for the copy task: the score, and how fast and how carefully it learns.

    python scripts/sweep.py --config configs/copy.py --space configs/sweeps/copy.py \
        --random 20 --seeds 2 --jobs 2

Each field has a list of values or a range; a draw takes one of each. Fields that only some scores
have, such as `score.options.hidden`, need a sweep of their own.

That command trains 40 runs in two programs, in 163 s of processor time. All 7 draws of mlp with a
learning rate from 0.0033 to 0.084, and all 6 of bilinear from 0.0011 to 0.013, reach an exact match
of 0.9999 or more (mixed lengths, mean of seeds 0 and 1) after 400 updates, whatever the clip norm;
bilinear at 0.019 reaches 0.96 ± 0.05, mlp at 0.0023 0.995 ± 0.007, and no draw below 0.001 more
than 0.77.
"""

from typing import Any

from attention.lab.sweeps.distributions import log_uniform


def get_space() -> dict[str, Any]:
    return {
        "score": ["mlp", "bilinear"],
        "optimizer.learning_rate": log_uniform(1e-4, 1e-1),
        "optimizer.clip_norm": log_uniform(0.1, 10.0),
    }
