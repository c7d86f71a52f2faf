"""Updates per second, beside the same model in PyTorch (extra `bench`).

    python scripts/benchmark_training.py

Three ways to train the default copy experiment, in one process, strictly in turn: this
project, PyTorch eager, `torch.compile`. Each makes its own data, clips, and applies
Adam. Prints the median milliseconds an update, and the ratio of each round's times.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import torch
from torch import Tensor, nn

from attention.lab.settings import (
    CopySettings,
    Settings,
    default_config,
    read_settings,
)
from attention.lab.tasks.batch import END, PAD, RESERVED
from attention.lab.training.build import build
from attention.lab.training.state import completed, initial_state
from attention.lab.training.update import make_train

Updates = Callable[[int], None]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="times that each gets its turn")
    parser.add_argument("--updates", type=int, default=100, help="updates in a turn")
    arguments = parser.parse_args()
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, torch {torch.__version__}")
    for score in ("mlp", "bilinear"):
        settings = read_settings(default_config(score).to_dict())
        contenders = {
            "attention": jax_updates(settings),
            "eager": torch_updates(settings, compiled=False),
            "compiled": torch_updates(settings, compiled=True),
        }
        times = in_turn(contenders, arguments.rounds, arguments.updates)
        for name, seconds in times.items():
            milliseconds = statistics.median(seconds) / arguments.updates * 1e3
            ratios = [other / own for other, own in zip(seconds, times["attention"], strict=True)]
            print(
                f"{score:9} {name:10} {milliseconds:7.2f} ms an update,"
                f" {statistics.median(ratios):5.2f} times that of attention"
                f" ({min(ratios):.2f}–{max(ratios):.2f})"
            )


def in_turn(contenders: dict[str, Updates], rounds: int, updates: int) -> dict[str, list[float]]:
    """Seconds of each turn of each contender, after two turns to warm up."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(-2, rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            run(updates)
            if turn >= 0:
                times[name].append(time.perf_counter() - start)
    return times


def jax_updates(settings: Settings) -> Updates:
    """This project's own training loop, 50 updates a dispatch as in a run."""
    experiment = build(settings, None)
    train, state = make_train(experiment), initial_state(experiment)

    def run(updates: int) -> None:
        nonlocal state
        until = completed(state) + updates
        while (step := completed(state)) < until:
            stop = min(step + settings.train.log_every_steps, until)
            state, _ = jax.block_until_ready(train(state, experiment.task, stop))

    return run


def torch_updates(settings: Settings, *, compiled: bool) -> Updates:
    """The same model, loss and optimizer in PyTorch."""
    model = TorchCopy(settings)
    optimizer = torch.optim.Adam(model.parameters(), settings.optimizer.learning_rate)
    loss = torch.compile(model.loss) if compiled else model.loss

    def run(updates: int) -> None:
        for _ in range(updates):
            optimizer.zero_grad()
            loss(*torch_batch(settings)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings.optimizer.clip_norm)
            optimizer.step()

    return run


def torch_batch(settings: Settings) -> tuple[Tensor, Tensor]:
    """Tokens and their number, `END` included."""
    assert isinstance(settings.task, CopySettings)
    size, longest = settings.train.batch_size, settings.task.max_length
    length = torch.randint(1, longest + 1, (size,))
    steps = torch.arange(longest + 1)[None]
    symbols = torch.randint(RESERVED, RESERVED + settings.task.symbols, (size, longest + 1))
    tokens = torch.where(steps < length[:, None], symbols, PAD)
    return torch.where(steps == length[:, None], END, tokens), length + 1


class TorchCopy(nn.Module):
    """`Encoder` and `ParallelDecoder` of the default copy experiment."""

    def __init__(self, settings: Settings):
        super().__init__()
        assert isinstance(settings.task, CopySettings)
        self.score = settings.score.name
        time, dim = settings.task.max_length + 1, settings.model.dim
        vocabulary = settings.task.symbols + RESERVED
        self.embedding = nn.Embedding(vocabulary, dim)
        self.positions = nn.Parameter(torch.randn(time, dim) * settings.model.embedding_std)
        self.queries = nn.Parameter(torch.randn(time, dim) * settings.model.embedding_std)
        if self.score == "mlp":
            hidden = settings.score.options["hidden"]
            self.query_weight = nn.Linear(dim, hidden, bias=False)
            self.key_weight = nn.Linear(dim, hidden)
            self.readout = nn.Parameter(torch.randn(hidden) / hidden**0.5)
        else:
            self.weight = nn.Linear(dim, dim, bias=False)
        self.output = nn.Linear(dim, vocabulary)

    def loss(self, tokens: Tensor, length: Tensor) -> Tensor:
        memory = self.embedding(tokens) + self.positions
        counts = torch.arange(tokens.shape[1])[None] < length[:, None]
        logits = self.output(self.context(memory, counts[:, None]))
        losses = nn.functional.cross_entropy(logits.mT, tokens, reduction="none")
        return (losses * counts).sum() / counts.sum()

    def context(self, memory: Tensor, mask: Tensor) -> Tensor:
        if self.score == "bilinear":
            queries = self.weight(self.queries).expand(len(memory), -1, -1)
            return nn.functional.scaled_dot_product_attention(
                queries, memory, memory, attn_mask=mask, scale=1.0
            )
        hidden = self.query_weight(self.queries)[None, :, None] + self.key_weight(memory)[:, None]
        scores = torch.tanh(hidden) @ self.readout
        return scores.masked_fill(~mask, float("-inf")).softmax(-1) @ memory


if __name__ == "__main__":
    main()
