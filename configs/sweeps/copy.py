"""What to draw for the copy task: the score, and how fast and how carefully it learns.

    python scripts/sweep.py --config configs/copy.py --space configs/sweeps/copy.py \
        --random 20 --seeds 2 --jobs 2

Each field has a list of values or a range; a draw takes one of each. Fields that only some scores
have, such as `score.options.hidden`, need a sweep of their own.
"""

from typing import Any

from attention.training.ranges import log_uniform


def get_space() -> dict[str, Any]:
    return {
        "score": ["mlp", "bilinear"],
        "optimizer.learning_rate": log_uniform(1e-4, 1e-1),
        "optimizer.clip_norm": log_uniform(0.1, 10.0),
    }
