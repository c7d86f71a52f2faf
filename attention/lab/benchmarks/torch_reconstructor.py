"""The default experiment in PyTorch (extra `bench`): its data, its model, its training loop."""

from typing import Any

import torch
from torch import Tensor, nn

from attention.lab.benchmarks.training import Updates
from attention.lab.settings import Settings
from attention.lab.tasks.batch import END, PAD, RESERVED


def torch_updates(settings: Settings, *, compiled: bool) -> Updates:
    """The same model, loss and optimizer as the experiment's, in PyTorch."""
    model = TorchReconstructor(settings)
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
    """Random tokens, which are source and target, and how many of them count, `END` included."""
    task: Any = settings.task  # the default one, of random symbols
    size, longest = settings.train.batch_size, task.max_length
    length = torch.randint(1, longest + 1, (size,))
    steps = torch.arange(longest + 1)[None]
    symbols = torch.randint(RESERVED, RESERVED + task.symbols, (size, longest + 1))
    tokens = torch.where(steps < length[:, None], symbols, PAD)
    return torch.where(steps == length[:, None], END, tokens), length + 1


class TorchReconstructor(nn.Module):
    """`Encoder` and `ParallelDecoder` of the default experiment, for a score mlp or bilinear."""

    def __init__(self, settings: Settings):
        super().__init__()
        task: Any = settings.task  # the default one, of random symbols
        self.score = settings.score.name
        time, dim = task.max_length + 1, settings.model.dim
        vocabulary = task.symbols + RESERVED
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
