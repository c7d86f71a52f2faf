"""Logs: `metrics.jsonl` for programs, TensorBoard for people."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter

from attention.lab.analysis.mean_sd import means
from attention.lab.parallel.replicas import seeds
from attention.lab.runs.files import write_atomically
from attention.lab.settings import Settings


class Log:
    """The logs of one run. Use as a context manager.

    Args:
      path: the run's directory.
      settings: written as text.
      step: what is logged beyond this step, by a run that was killed, is dropped.
    """

    def __init__(self, path: Path, settings: Settings, step: int):
        self._file = path / "metrics.jsonl"
        _drop_after(self._file, step)
        self._lines = self._file.open("a")
        self._settings, self._seeds = settings, seeds(settings)
        self._events, self._files = str(path / "tensorboard"), 0
        self._writer = SummaryWriter(self._events, purge_step=step + 1)
        if step == 0:
            text = settings.model_dump_json(indent=2)
            self._writer.add_text("config", f"```\n{text}\n```", 0)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *exception: object) -> None:
        self._lines.close()
        self._writer.close()

    def scalars(self, step: int, name: str, replicas: dict[int, dict[str, Any]]) -> None:
        """Metrics after `step` updates; `name` groups them (`train`, `validation`, …).

        Each replica gets a line, which says its number and its seed if there are several;
        TensorBoard gets the mean.

        Args:
          step: updates completed.
          name: of the group.
          replicas: the metrics of each replica, by its number.
        """
        several = self._settings.num_replicas > 1
        for number, metrics in replicas.items():
            which = {"replica": number, "seed": self._seeds[number]} if several else {}
            line = {"step": step, "kind": name, **which, **metrics}
            self._lines.write(json.dumps(line) + "\n")
        for metric, value in means(list(replicas.values())).items():
            if isinstance(value, int | float):
                self._writer.add_scalar(f"{name}/{metric}", value, step)

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """A picture after `step` updates."""
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def result(self, step: int, metrics: dict[str, Any]) -> None:
        """The hyper-parameters beside what they led to."""
        numbers = {f"test/{k}": v for k, v in metrics.items() if isinstance(v, int | float)}
        self._writer.add_hparams(_flat(self._settings.model_dump()), numbers, "hparams", step)

    def flush(self) -> None:
        """Puts everything on disk: before a checkpoint, so that no log lags behind it."""
        self._lines.flush()
        # tensorboardX's own flush does not wait for its queue; closing does. The next events
        # go to a file of another name.
        self._writer.close()
        self._files += 1
        self._writer = SummaryWriter(self._events, filename_suffix=f".{self._files}")


class NoLog(Log):
    """That of a process which writes none."""

    def __init__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        pass

    def scalars(self, step: int, name: str, replicas: dict[int, dict[str, Any]]) -> None:
        pass

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        pass

    def result(self, step: int, metrics: dict[str, Any]) -> None:
        pass

    def flush(self) -> None:
        pass


def _drop_after(file: Path, step: int) -> None:
    if not file.exists():
        return
    kept = []
    for line in file.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            break  # the last line of a killed run
    write_atomically(file, "".join(kept))


def _flat(nested: dict[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{path}{name}.")
        else:
            flat[path + name] = value if isinstance(value, int | float | str) else str(value)
    return flat
