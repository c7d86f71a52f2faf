"""Which experiments `claims.py` reruns: quick ones are smaller versions of the full ones.

Each function takes `full` and returns the experiments by what sets them apart: the row and the
column of a table.
"""

from typing import Any

from attention.lab.claims.experiments import Experiment, experiment

FIRST_SEED = 100
SEEDS = {False: 3, True: 5}
SEQUENCES = {False: 512, True: 4096}  # of a test
LONG_SEQUENCES = {False: 64, True: 128}  # of a test on long sequences

STATIC = ("uniform", "linear", "mlp_pooling")
SCORES = {
    False: (*STATIC, "mlp", "bilinear"),
    True: (*STATIC, "mlp", "gatv2", "bilinear", "dot", "scaled_dot", "cosine", "rbf"),
}
SHORT = {False: 6, True: 16}  # sequences of which the order or the length matters
POOLING_SCORES = ("uniform", "linear", "mlp_pooling")
CELLS = ("elman", "gru", "lstm")
LENGTHS = {False: (4, 8, 16), True: (4, 8, 16, 32, 64)}  # of copies by recurrent networks
POOLED_LENGTHS = {False: (2, 4, 8), True: (2, 4, 8, 16)}
TESTED_LENGTHS = {False: (16, 64, 256), True: (16, 32, 64, 256, 1024)}
PUBLISHED_LENGTHS = {False: (64, 200, 500), True: (41, 50, *range(75, 501, 25))}
PUBLISHED = {"reverse": 0.623, "duplicate": 0.528}  # arXiv 2207.02098, its best transformer

Grid = dict[tuple[Any, Any], Experiment]


def scores(full: bool) -> Grid:
    """Task × score. Each task at the greatest length that it is trained on."""
    return {
        (task, score): _of_task(task, score, full)
        for task in _tasks(full)
        for score in SCORES[full]
    }


def _tasks(full: bool) -> tuple[str, ...]:
    return ("copy", "lookup", "sort", *(("reverse", "recall") if full else ()))


def greatest_length(task: str, full: bool) -> int:
    """What a task of `scores` is trained up to."""
    return {"copy": 16, "lookup": 10, "recall": 4}.get(task, SHORT[full])


# In place of a decoder that knows where it has looked: a query a position, and a GRU over the
# source that tells each position its distance from the end.
PARALLEL = {
    "model.decoder": "parallel",
    "model.mixer": "gru",
    "model.positions": "learned",
    "model.normalizer": "softmax",
    "model.embedding_std": 0.5,
}


def _of_task(task: str, score: str, full: bool) -> Experiment:
    """A task by the config that has it.

    Reverse is without its location: the score alone decides what differs between queries.
    """
    length = greatest_length(task, full)
    smaller = {"train.steps": 600, "task.symbols": 32} if task == "sort" and not full else {}
    parallel = PARALLEL if task == "reverse" else {}
    own = {"task.max_length": length, "eval.lengths": (length,), **smaller, **parallel}
    return _experiment(task, score, full, own)


def digits(full: bool) -> Grid:
    """Network on each patch or not × score."""
    return {
        (mixer, score): _experiment("digits", score, full, {"model.mixer": mixer})
        for mixer in ("none", "feedforward")
        for score in POOLING_SCORES
    }


def recurrent(full: bool) -> Grid:
    """Model, without or with attention × length, each trained up to the length it is tested at."""
    kinds = {cell: (cell, "none") for cell in CELLS} | {"gru + mlp attention": ("gru", "mlp")}
    return {
        (kind, length): of_cell(cell, score, length, full)
        for kind, (cell, score) in kinds.items()
        for length in LENGTHS[full]
    }


def of_cell(cell: str, score: str, length: int, full: bool, steps: int = 0) -> Experiment:
    """A recurrent encoder and decoder."""
    sizes: dict[str, Any] = {"model.dim": 128} if full else {"train.batch_size": 32}
    sizes["train.steps"] = steps or (1500 if full else 600)
    parts = {"model.decoder": cell, "model.mixer": cell}
    lengths = {"task.max_length": length, "eval.lengths": (length,)}
    return _experiment("copy_gru", score, full, parts | lengths | sizes)


def pooled(full: bool) -> Grid:
    """Softmaxes × length, each trained up to the length it is tested at."""
    steps = {} if full else {"train.steps": 500}
    return {
        (heads, length): _experiment(
            "pooled",
            "linear",
            full,
            {"model.heads": heads, "task.max_length": length, "eval.lengths": (length,), **steps},
        )
        for heads in (1, 256)
        for length in POOLED_LENGTHS[full]
    }


BUILT_IN = ("copy", "alibi")  # its bias −|t − i| is largest at the answer
WAYS: dict[str, dict[str, Any]] = {
    "sinusoidal": {"model.positions": "sinusoidal"},
    "rotary": {"model.positions": "rotary"},
    "relative": {"model.positions": "none", "model.bias": "relative"},
    # Of one head the slope would be 2⁻⁸, and 16 places make next to no difference.
    "alibi": {"model.positions": "none", "model.bias": "alibi", "model.heads": 8},
    "location, softmax": {"model.normalizer": "softmax"},
    "location, entmax15": {"model.normalizer": "entmax15"},
    "location, sparsemax": {"model.normalizer": "sparsemax"},
}
WAY_OF_LONG = "location, sparsemax"
LEFT_OUT = {False: ("location, entmax15",), True: ()}


def generalisation(full: bool) -> Grid:
    """(Task, way to tell positions) × score; all trained up to 16."""
    return {
        ((task, way), score): _of_way(task, way, score, full)
        for task in ("copy", "reverse")
        for way in WAYS
        if way not in LEFT_OUT[full]
        for score in (*(("mlp",) if full else ()), "bilinear", "uniform")
        if full or not _is_slow(task, way, score)
    }


def _is_slow(task: str, way: str, score: str) -> bool:
    """Whether it is left to `--full`: what takes a GRU, and a zero score with no bias to learn."""
    takes_gru = task == "reverse" and not way.startswith("location")
    return takes_gru or (score == "uniform" and way not in ("relative", "alibi", WAY_OF_LONG))


def _of_way(task: str, way: str, score: str, full: bool) -> Experiment:
    """Reverse with a query a position needs to know the length: a GRU tells it, as in `scores`."""
    changes: dict[str, Any] = {
        "task.name": task,
        "eval.lengths": TESTED_LENGTHS[full],
        "eval.sequences": LONG_SEQUENCES[full],
        "eval.batch_size": 64,
        **WAYS[way],
    }
    if way.startswith("location"):
        return _experiment("long", score, full, changes | ({} if full else {"train.steps": 600}))
    changes["model.queries"] = "shared"
    if task == "reverse":
        changes |= {"model.mixer": "gru", "train.batch_size": 64}
        changes["train.steps"] = 2000
    return _experiment("copy", score, full, changes)


def learned_positions() -> Experiment:
    """What is refused: lengths that learned positions do not have."""
    return _experiment("copy", "mlp", False, {"eval.lengths": (32,)})


def published(full: bool) -> Grid:
    """Task × score, by the protocol of arXiv 2207.02098."""
    return {
        (task, score): _experiment(
            "strings",
            score,
            full,
            {
                "task.name": task,
                "eval.lengths": PUBLISHED_LENGTHS[full],
                "eval.sequences": LONG_SEQUENCES[full],
            }
            | ({} if full else {"train.steps": 2000}),
        )
        for task in PUBLISHED
        for score in (("mlp", "bilinear", "uniform") if full else ("mlp",))
    }


def recurrence(full: bool) -> Grid:
    """Task × where recurrence is, with the bilinear score."""
    length = {"task.max_length": SHORT[full], "eval.lengths": (SHORT[full],)}

    def of(config: str, changes: dict[str, Any]) -> Experiment:
        steps = 600 if config == "sort" else 1200
        smaller = {} if full else {"train.steps": steps, "task.symbols": 32}
        return _experiment(config, "bilinear", full, length | smaller | changes)

    bare = {**PARALLEL, "model.mixer": "none"}
    return {
        ("sort", "none"): of("sort", {"model.decoder": "parallel"}),
        ("sort", "encoder"): of("sort", {"model.decoder": "parallel", "model.mixer": "gru"}),
        ("sort", "decoder"): _of_task("sort", "bilinear", full),
        ("reverse", "none"): of("reverse", bare),
        ("reverse", "encoder"): of("reverse", PARALLEL),
        ("reverse", "weights"): of("reverse", {}),
        ("duplicate", "none"): of("duplicate", bare),
        ("duplicate", "encoder"): of("duplicate", PARALLEL),
        ("duplicate", "weights"): of("duplicate", {}),
    }


def _experiment(config: str, score: str, full: bool, changes: dict[str, Any]) -> Experiment:
    shared = {
        "seed": FIRST_SEED,
        "num_seeds": SEEDS[full],
        "eval.sequences": SEQUENCES[full],
        "train.eval_every_steps": 100_000,  # the end is enough
    }
    return experiment(config, score, shared | changes)
