"""Time of an update in training, beside the same model in PyTorch (extra `bench`).

Three ways to train the default experiment, in one process, strictly in turn: this project, PyTorch
eager, `torch.compile`. Each of the three makes its data, clips, and applies Adam. Shown are the
median milliseconds an update, and the ratio of each round's times.
"""

import statistics
import time
from collections.abc import Callable, Iterator

import jax

from attention.lab.configs import default_config, read_config
from attention.lab.settings import Settings
from attention.lab.training.build import build
from attention.lab.training.state import completed, initial_state
from attention.lab.training.update import make_train

SCORES = ("mlp", "bilinear")
HERE, EAGER, COMPILED = "attention", "eager", "compiled"
WARM_UP_TURNS = 2  # not timed: the first compiles

Updates = Callable[[int], None]  # makes so many updates


def report(rounds: int, updates: int) -> Iterator[str]:
    """The lines to show, a line a contender, as they are measured.

    Args:
      rounds: how many turns every contender has.
      updates: how many updates make a turn.
    """
    import torch

    from attention.lab.benchmarks.torch_reconstructor import torch_updates

    yield f"jax {jax.__version__} on {jax.devices()[0].device_kind}, torch {torch.__version__}"
    for score in SCORES:
        settings = read_config(default_config(score))
        contenders = {
            HERE: jax_updates(settings),
            EAGER: torch_updates(settings, compiled=False),
            COMPILED: torch_updates(settings, compiled=True),
        }
        yield from lines(score, in_turn(contenders, rounds, updates), updates)


def in_turn(contenders: dict[str, Updates], rounds: int, updates: int) -> dict[str, list[float]]:
    """The seconds of every turn of every contender, after the turns that warm up."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(-WARM_UP_TURNS, rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            run(updates)
            if turn >= 0:
                times[name].append(time.perf_counter() - start)
    return times


def lines(score: str, times: dict[str, list[float]], updates: int) -> list[str]:
    """For each contender the median of its milliseconds an update, and of the rounds' ratios."""
    shown = []
    for name, taken in times.items():
        milliseconds = statistics.median(taken) / updates * 1e3
        ratios = [other / here for other, here in zip(taken, times[HERE], strict=True)]
        shown.append(
            f"{score:9} {name:10} {milliseconds:7.2f} ms an update,"
            f" {statistics.median(ratios):5.2f} times attention"
            f" ({min(ratios):.2f}–{max(ratios):.2f})"
        )
    return shown


def jax_updates(settings: Settings) -> Updates:
    """This project's training loop: as many updates a dispatch as in a run."""
    experiment = build(settings, None)
    train, state = make_train(experiment), initial_state(experiment)

    def run(updates: int) -> None:
        nonlocal state
        until = completed(state) + updates
        while (step := completed(state)) < until:
            stop = min(step + settings.train.log_every_steps, until)
            state, _ = jax.block_until_ready(train(state, experiment.task, stop))

    return run
