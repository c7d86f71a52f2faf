"""Logs of a run: `metrics.jsonl` for programs, TensorBoard for people."""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from attention.lab.analysis.mean_sd import means
from attention.lab.analysis.naming import shown
from attention.lab.parallel.replicas import named, seeds
from attention.lab.runs.files import write_atomically
from attention.lab.settings import Settings, task_of

METRICS = "metrics.jsonl"
# Many lines: sweeps look for the newest line again and again, in files that may be large.
TAIL_BYTES = 2**16
# In TensorBoard, where each curve takes a file that is open; of more replicas the first.
MOST_CURVES = 16
# What tensorboardX imports where it is installed, for seconds, though it is not for us.
UNUSED = ("boto3", "comet_ml", "google.cloud.storage", "torch")

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
        self._task = task_of(settings)
        self._events, self._files = path / "tensorboard", 0
        self._open_writers(purge_step=step + 1)
        if step == 0:
            text = settings.model_dump_json(indent=2)
            self._writer.add_text("config", f"```\n{text}\n```", 0)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *exception: object) -> None:
        self._lines.close()
        self._close_writers()

    def scalars(self, step: int, name: str, replicas: dict[int, dict[str, Any]]) -> None:
        """Logs metrics after `step` updates.

        Each replica gets a line in `metrics.jsonl`, with the replica's number and seed if there
        are several replicas; TensorBoard gets the mean, and a curve for each of the first replicas.
        The lines can be read as soon as this returns: other programs show the progress of the run
        from them.

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
        curves = {self._writer: means(list(replicas.values()))}
        curves |= {w: replicas[n] for n, w in self._of_replica.items() if n in replicas}
        for writer, metrics in curves.items():
            for metric, value in self._scalars_of(metrics).items():
                writer.add_scalar(f"{name}/{metric}", value, step)

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Logs a picture (height × width × 3, 0 to 255) after `step` updates."""
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def result(self, step: int, metrics: dict[str, Any]) -> None:
        """Logs the hyper-parameters beside the test metrics that they led to."""
        numbers = {f"test/{name}": value for name, value in self._scalars_of(metrics).items()}
        self._writer.add_hparams(_flat(self._settings.model_dump()), numbers, "hparams", step)

    def flush(self) -> None:
        """Puts everything on disk: before a checkpoint, so that no log lags behind it."""
        # The lines are on disk already. tensorboardX's flush() does not wait for its queue of
        # events; close() does. The next events go to a file of another name.
        self._close_writers()
        self._files += 1
        self._open_writers(filename_suffix=f".{self._files}")

    def _open_writers(self, **options: Any) -> None:
        """Opens what writes the means, and what writes each of the first replicas, if several."""
        count = self._settings.num_replicas
        curves = range(min(count, MOST_CURVES)) if count > 1 else ()
        folders = {n: named(self._settings, [n]).replace(" ", "_") for n in curves}
        self._writer = _event_writer(self._events, **options)
        self._of_replica = {
            number: _event_writer(self._events / folder, **options)
            for number, folder in folders.items()
        }

    def _close_writers(self) -> None:
        for writer in (self._writer, *self._of_replica.values()):
            writer.close()

    def _scalars_of(self, metrics: Mapping[str, Any]) -> dict[str, int | float]:
        """What is worth a curve: the number of sequences is always the same."""
        return {
            name: value
            for name, value in shown(metrics, self._task).items()
            if isinstance(value, int | float) and name != "sequences"
        }


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


def _event_writer(directory: Path, **options: Any) -> Any:
    """A writer for TensorBoard."""
    # Imported here, for a program that only reads a log need not wait for it.
    with _not_imported(UNUSED):
        from tensorboardX import SummaryWriter

    return SummaryWriter(str(directory), **options)


@contextmanager
def _not_imported(modules: Sequence[str]) -> Iterator[None]:
    """Makes modules that are not imported yet look as if they were not installed."""
    hidden = [name for name in modules if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def _flat(nested: dict[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{path}{name}.")
        else:
            flat[path + name] = value if isinstance(value, int | float | str) else str(value)
    return flat
