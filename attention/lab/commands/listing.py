"""What `train.py --list` shows: all that a command or a config can choose by name."""

from collections.abc import Mapping
from typing import Any

from attention.biases import BIASES
from attention.lab.configs import shipped
from attention.lab.documented import first_line
from attention.lab.models.decoders import DECODERS
from attention.lab.models.encoders import ENCODERS
from attention.lab.repository import CONFIGS
from attention.lab.tasks.catalogue import TASKS
from attention.normalizers import NORMALIZERS
from attention.scores import SCORES


def listing() -> str:
    """A line each, under a title that says which flag takes the names."""
    parts: dict[str, Mapping[str, Any]] = {
        "configs: --config=NAME": shipped(),
        "scores: --config=copy:NAME": SCORES,
        "tasks: each has a config; another by --config.task.name=NAME": TASKS,
        "encoders: --config.model.encoder=NAME": ENCODERS,
        "decoders: --config.model.decoder=NAME": DECODERS,
        "normalizers: --config.model.normalizer=NAME": NORMALIZERS,
        "biases: --config.model.bias=NAME": BIASES,
        "spaces of sweeps: --space=NAME": shipped(CONFIGS / "sweeps"),
    }
    return "\n\n".join(_part(title, choices) for title, choices in parts.items())


def _part(title: str, choices: Mapping[str, Any]) -> str:
    width = max(map(len, choices))
    lines = [f"  {name:{width}}  {first_line(choice)}" for name, choice in choices.items()]
    return "\n".join([title, *lines])
