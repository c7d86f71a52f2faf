"""That what an experiment takes is counted before it is made, and refused if there is less."""

import io

import jax
import pytest
from command_lines import COPY, run
from command_lines import here as here
from rich.console import Console
from small import files, small

from attention.lab.errors import UsageError
from attention.lab.runs.directory import open_for_training
from attention.lab.training import memory
from attention.lab.training.build import build
from attention.lab.training.memory import check_memory, in_words, sizes_of
from attention.lab.training.state import abstract_state
from attention.lab.training.trained_run import evaluate

HUGE = [
    "--config.task.symbols=2000000000",
    "--config.model.dim=10000000",
    "--config.num_seeds=65536",
    "--config.train.batch_size=100000000",
    "--config.eval.batch_size=100000000",
    "--config.score.options.hidden=2000000000",
    "--config.model.heads=64 --config.model.dim=6400000",
    "--config.task.name=sort --config.task.symbols=100000000",
    "--config.train.batch_size=900000 --config.train.steps=2147483647",
]


@pytest.fixture
def has(monkeypatch):
    """Gives the device so many bytes."""

    def has(size):
        monkeypatch.setattr(memory, "memory_of", lambda device: size)

    return has


@pytest.mark.parametrize("flags", HUGE)
def test_what_cannot_be_is_refused_in_a_line_with_the_numbers(monkeypatch, here, has, flags):
    has(2 * 10**9)
    status, out, err = run(monkeypatch, "train.py", COPY, *flags.split())
    assert (status, out, err.count("\n")) == (2, "", 1)
    field = max(flags.split(), key=lambda flag: int(flag.rpartition("=")[2].replace("sort", "0")))
    if "steps" in field:  # which take no memory
        field = flags.split()[0]
    assert err.startswith(f"error: {field.removeprefix('--')}: ")
    assert "B of memory (" in err
    assert " has 2 GB" in err
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("num_seeds=1000000", "less than or equal to 65536"),
        ("train.steps=100000000000000000000", "less than or equal to 2147483647"),
        ("train.steps=1e20", "1e20"),
        ("train.keep_checkpoints=2147483648", "less than or equal to 2147483647"),
        ("task.symbols=2147483647", "less than or equal to 2147483644"),
        ("score.options.hidden=0", "from 1 to 2147483647"),
        ("optimizer.clip_norm=1e300", "less than or equal to"),
    ],
)
def test_what_no_program_could_count_is_refused_by_its_field(monkeypatch, here, flag, told):
    status, out, err = run(monkeypatch, "train.py", COPY, f"--config.{flag}")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert flag.partition("=")[0] in err
    assert told in err
    assert list(here.iterdir()) == []


def test_a_run_is_refused_by_less_memory_than_it_takes_and_not_by_more(has):
    experiment = build(small({"num_seeds": 3}), None)
    takes = memory._Memory(experiment).of_training()
    state = abstract_state(experiment)
    assert takes["parameters"] == memory.bytes_of(state.parameters)
    assert takes["optimizer"] == memory.bytes_of(state.optimizer)
    assert takes["the copy that is saved"] == takes["parameters"] + takes["optimizer"]
    assert takes["gradient"] == takes["parameters"] // 3  # replicas take turns on a CPU
    needed = max(sum(takes.values()), sum(memory._Memory(experiment).of_evaluation(None).values()))
    has(2 * needed)  # beyond what is certain, the estimate of what a gradient keeps counts too
    check_memory(experiment)
    has(needed - 1)
    with pytest.raises(UsageError, match=r"^config\.num_seeds=3: "):
        check_memory(experiment)
    has(None)
    check_memory(experiment)


def test_replicas_that_are_computed_at_once_take_memory_at_once(monkeypatch):
    experiment = build(small({"num_seeds": 3}), None)
    in_turn = memory._Memory(experiment).of_training()
    monkeypatch.setattr(memory, "takes_turns", lambda: False)
    at_once = memory._Memory(experiment).of_training()
    for part in ("gradient", "batch", "its largest array"):
        assert at_once[part] == 3 * in_turn[part]
    assert at_once["parameters"] == in_turn["parameters"]


def test_held_out_sequences_count_for_each_replica_padded_to_whole_batches():
    experiment = build(small({"num_seeds": 3}), None)  # 11 sequences in batches of 4
    held_out = memory._Memory(experiment).of_evaluation(None)["held-out sequences"]
    time = small().task.max_length + 1
    assert held_out == 3 * 12 * 4 * (3 * time + 2)


def test_what_a_gradient_keeps_is_refused_only_where_it_is_far_more(has):
    experiment = build(small({"train.batch_size": 509}), None)
    has(1)
    kept = sum(memory._Memory(experiment).kept_of_batch().values())
    certain = sum(memory._Memory(experiment).of_training().values())
    assert kept > 2 * certain
    has(kept // memory.FAR_MORE)
    check_memory(experiment)
    has(kept // memory.FAR_MORE - 1)
    with pytest.raises(UsageError, match=r"about .*\(what a gradient keeps of a batch"):
        check_memory(experiment)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "scores of a batch 7×2×5×5, about 1.4 kB, kept for the gradient"),
        ({"task.max_length": 1021}, "7×2×1022×1022, about 58.5 MB, not kept whole"),
        ({"model.decoder": "pooled"}, "scores of a batch 7×2×1×5"),
        ({"model.decoder": "location", "model.positions": "none"}, "kept for the gradient"),
    ],
)
def test_the_sizes_are_told_at_the_start(has, changes, told):
    has(10**12)
    experiment = build(small(changes), None)
    line = sizes_of(experiment)
    count = sum(leaf.size for leaf in jax.tree.leaves(experiment.shapes))
    assert line.startswith(f"{count:,} parameters; at least ")
    several = sizes_of(build(small({**changes, "num_seeds": 3}), None))
    assert several.startswith(f"{count:,} parameters in each of 3 replicas; at least ")
    assert " of 1 TB of memory; " in line
    assert told in line


def test_without_attention_there_are_no_scores_to_tell():
    settings = small({"model.decoder": "gru", "score.name": "none"}, score="dot")
    assert "scores" not in sizes_of(build(settings, None))


LONG = {"model.decoder": "location", "model.positions": "none", "train.steps": 1}


@pytest.mark.parametrize("length", [10**5, 10**8])
def test_an_evaluation_that_cannot_be_is_refused_by_its_lengths(here, has, length):
    with open_for_training(here, small(LONG), None):
        before = files(here)
    has(10**10)
    with pytest.raises(UsageError, match=rf"^--lengths={length}: evaluation takes at least "):
        evaluate(here, None, [2, length], Console(file=io.StringIO()))
    with pytest.raises(UsageError, match="--lengths: lists 1025 lengths"):
        evaluate(here, None, [2] * 1025, Console(file=io.StringIO()))
    assert files(here) == before


def test_lengths_that_cannot_be_are_refused_by_training():
    with pytest.raises(UsageError, match=r"^config\.eval\.lengths=100000000: evaluation takes "):
        check_memory(build(small({**LONG, "eval.lengths": (2, 10**8)}), None))


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_600, "1 MB"), (23_456_789, "23.5 MB")],
)
def test_bytes_are_told_in_three_digits_and_a_unit(size, words):
    assert in_words(size) == words
