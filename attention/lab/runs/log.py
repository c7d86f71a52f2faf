"""Logs of a run: `metrics.jsonl` for programs, TensorBoard for people."""

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
# Many lines: sweeps look for the newest line again and again, in files that may be large.
TAIL_BYTES = 2**16

Line = dict[str, Any]  # step, kind, replica and seed if there are several replicas, metrics


class Log:
    """The logs of one run. Use as a context manager.

    Args:
      path: the run's directory.
      settings: the settings of the experiment, which are logged as text.
      step: updates completed. Lines beyond this step, which a run that was killed has left,
        are dropped.
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
        """Logs metrics after `step` updates.

        Each replica gets a line in `metrics.jsonl`, with the replica's number and seed if there
        are several replicas; TensorBoard gets the mean. The lines can be read as soon as this
        returns: other programs show the progress of the run from them.

        Args:
          step: updates completed.
          name: of the group of metrics: `train`, `validation` or `test`.
          replicas: the metrics of each replica, by the replica's number.
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
        """Logs a picture (height × width × 3, 0 to 255) after `step` updates."""
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def result(self, step: int, metrics: dict[str, Any]) -> None:
        """Logs the hyper-parameters beside the test metrics that they led to."""
        numbers = {f"test/{k}": v for k, v in metrics.items() if isinstance(v, int | float)}
        self._writer.add_hparams(_flat(self._settings.model_dump()), numbers, "hparams", step)

    def flush(self) -> None:
        """Puts everything on disk: before a checkpoint, so that no log lags behind it."""
        # The lines are on disk already. tensorboardX's flush() does not wait for its queue of
        # events; close() does. The next events go to a file of another name.
        self._writer.close()
        self._files += 1
        self._writer = _event_writer(self._events, filename_suffix=f".{self._files}")


class NoLog(Log):
    """In the place of a log, for a process that writes none: it ignores every call."""

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

    Only the end of the file is read. If the run was killed and has not yet gone on, the step may
    be beyond the newest checkpoint.

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
    # Imported here, since tensorboardX imports torch if that is installed, which takes seconds:
    # a program that only reads a log need not wait for it.
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
