"""How large the experiments behind the claims are: quick ones, or those of the full table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STATIC = ("uniform", "linear", "mlp_pooling")  # scores that ignore the query


@dataclass(frozen=True)
class Size:
    """All numbers in which quick and full experiments differ.

    Attributes:
      name: the flag that asks for it.
      about: what the page says of it.
      seeds: replicas of each experiment.
      sequences: of a test.
      long_sequences: of a test on sequences that are longer than in training.
      short: longest sequence of the tasks in which the order or the length matters.
      changes: what is changed in config files, by the name of the file.
      tasks: those on which scores are compared.
      scores: those that are compared.
      recurrent_lengths: of copies by recurrent networks.
      gives_equal_time: whether models without attention are trained once more, for as long as the
        model with attention took.
      pooled_lengths: of copies from one context.
      tested_lengths: of sequences after training up to 16.
      has_all_ways: whether every way to tell positions is tried with every score, the slow too.
      way_scores: scores with which ways to tell positions are tried.
      published_lengths: tested by the published protocol.
      published_scores: tested by the published protocol.
      cost_lengths: at which the cost is measured.
      cost_rounds: measurements of each time.
    """

    name: str
    about: str
    seeds: int
    sequences: int
    long_sequences: int
    short: int
    changes: Mapping[str, Mapping[str, Any]]
    tasks: tuple[str, ...]
    scores: tuple[str, ...]
    recurrent_lengths: tuple[int, ...]
    gives_equal_time: bool
    pooled_lengths: tuple[int, ...]
    tested_lengths: tuple[int, ...]
    has_all_ways: bool
    way_scores: tuple[str, ...]
    published_lengths: tuple[int, ...]
    published_scores: tuple[str, ...]
    cost_lengths: tuple[int, ...]
    cost_rounds: int


QUICK = Size(
    name="quick",
    about="fewer scores, shorter sequences and fewer updates than `--full`",
    seeds=3,
    sequences=512,
    long_sequences=64,
    short=6,
    changes={
        "sort": {"train.steps": 600, "task.symbols": 32},
        "reverse": {"train.steps": 1200, "task.symbols": 32},
        "duplicate": {"train.steps": 1200, "task.symbols": 32},
        "copy_gru": {"train.steps": 600, "train.batch_size": 32},
        "pooled": {"train.steps": 500},
        "long": {"train.steps": 600},
        "strings": {"train.steps": 2000},
    },
    tasks=("copy", "lookup", "sort"),
    scores=(*STATIC, "mlp", "bilinear"),
    recurrent_lengths=(4, 8, 16),
    gives_equal_time=False,
    pooled_lengths=(2, 4, 8),
    tested_lengths=(16, 64, 256),
    has_all_ways=False,
    way_scores=("bilinear", "uniform"),
    published_lengths=(64, 200, 500),
    published_scores=("mlp",),
    cost_lengths=(256, 512, 1024, 2048, 4096),
    cost_rounds=3,
)

FULL = Size(
    name="full",
    about="",
    seeds=5,
    sequences=4096,
    long_sequences=128,
    short=16,
    changes={"copy_gru": {"train.steps": 1500, "model.dim": 128}},
    tasks=("copy", "lookup", "sort", "reverse", "recall"),
    scores=(*STATIC, "mlp", "gatv2", "bilinear", "dot", "scaled_dot", "cosine", "rbf"),
    recurrent_lengths=(4, 8, 16, 32, 64),
    gives_equal_time=True,
    pooled_lengths=(2, 4, 8, 16),
    tested_lengths=(16, 32, 64, 256, 1024),
    has_all_ways=True,
    way_scores=("mlp", "bilinear", "uniform"),
    published_lengths=(41, 50, *range(75, 501, 25)),
    published_scores=("mlp", "bilinear", "uniform"),
    cost_lengths=(256, 512, 1024, 2048, 4096, 8192),
    cost_rounds=7,
)
