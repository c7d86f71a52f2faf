"""Logs: `metrics.jsonl` for programs, TensorBoard for people."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from attention.lab.analysis.mean_sd import means
from attention.lab.parallel.replicas import seeds
from attention.lab.runs.files import write_atomically
from attention.lab.settings import Settings

METRICS = "metrics.jsonl"
TAIL_BYTES = 2**16  # many lines; a whole file may be large, and is looked at again and again

Line = dict[str, Any]  # step, kind, the replica if there are several, and its metrics


class Log:
    """The logs of one run. Use as a context manager.

    Args:
      path: the run's directory.
      settings: written as text.
      step: what is logged beyond this step, by a run that was killed, is dropped.
    """

    def __init__(self, path: Path, settings: Settings, step: int):
        _drop_after(path, step)
        self._lines = (path / METRICS).open("a")
        self._settings, self._seeds = settings, seeds(settings)
        self._events, self._files = str(path / "tensorboard"), 0
        self._writer = _event_writer(self._events, purge_step=step + 1)
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
        TensorBoard gets the mean. The lines can be read at once: they are what others show
        as the progress of the run.

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
        self._lines.flush()
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
        # The lines are there already. tensorboardX's own flush does not wait for its queue;
        # closing does. The next events go to a file of another name.
        self._writer.close()
        self._files += 1
        self._writer = _event_writer(self._events, filename_suffix=f".{self._files}")


class NoLog(Log):
    """The log of a process which writes none."""

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


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a run's `metrics.jsonl`, the oldest first; none where there is no such file.

    Args:
      path: the run's directory.
    """
    file = path / METRICS
    for text in file.read_text().splitlines() if file.exists() else ():
        try:
            yield json.loads(text)
        except ValueError:
            return  # the last line, which is being written, or which a kill left half written


def last_step(path: Path) -> int | None:
    """The step of the newest whole line of a run's `metrics.jsonl`; None where there is none.

    It reads the end of the file alone. Of a run that was killed, and has not yet gone on, this
    may be a step beyond the newest checkpoint.

    Args:
      path: the run's directory.
    """
    try:
        with (path / METRICS).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return None
    for text in reversed(lines):
        try:
            return json.loads(text)["step"]
        except ValueError:
            continue  # the last line may be half written; the tail may begin within a line
    return None


def _drop_after(path: Path, step: int) -> None:
    kept = [json.dumps(line) + "\n" for line in read_lines(path) if line["step"] <= step]
    if (path / METRICS).exists():
        write_atomically(path / METRICS, "".join(kept))


def _event_writer(directory: str, **options: Any) -> Any:
    """A writer for TensorBoard."""
    # Here, since it imports torch wherever that is installed, for seconds: those who only read
    # a log need not wait for it.
    from tensorboardX import SummaryWriter

    return SummaryWriter(directory, **options)


def _flat(nested: dict[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{path}{name}.")
        else:
            flat[path + name] = value if isinstance(value, int | float | str) else str(value)
    return flat
