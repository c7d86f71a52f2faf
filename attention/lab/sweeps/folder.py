"""The folder of a sweep, which says what has been done: whoever is killed, it stays true.

sweep.json               the trials
trials/<id>/result.json  of a trial that is over: done or failed
groups/<id>.json         trials that were trained together, in the order of the replicas
groups/<id>/             their run: `python eval.py --workdir <it> --replica 3`
groups/<id>.log          what it printed
groups/<id>.error        why all of them failed
results.csv, curves.png, fields.png  made anew at the end of every sweep
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention.lab.errors import UsageError
from attention.lab.runs.directory import Run
from attention.lab.runs.files import write_atomically
from attention.lab.settings import Settings, differences
from attention.lab.sweeps.trials import Trial, short_hash

Result = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """Trials that are trained together."""

    folder: Path
    id: str

    @property
    def run(self) -> Run:
        """What `train` makes of them."""
        return Run(self.folder / "groups" / self.id)

    @property
    def log(self) -> Path:
        """What their process prints."""
        return self.run.path.with_suffix(".log")

    @property
    def error(self) -> Path:
        """Says why all of them failed, if they did."""
        return self.run.path.with_suffix(".error")

    @property
    def trials(self) -> list[Trial]:
        """In the order of the replicas."""
        listed = json.loads(self.run.path.with_suffix(".json").read_text())
        # From JSON, pydantic takes a list for a tuple.
        return [
            Trial(one["overrides"], Settings.model_validate_json(json.dumps(one["settings"])))
            for one in listed
        ]

    def is_over(self) -> bool:
        """Whether nothing is left to train."""
        return self.error.exists() or self.run.result() is not None

    def fail(self, reason: str) -> None:
        """Notes that all of them failed."""
        write_atomically(self.error, reason)

    def restart(self) -> None:
        """Puts away what was trained, at once or, if killed, not at all."""
        old = self.run.path.with_suffix(".old")
        shutil.rmtree(old, ignore_errors=True)
        if self.run.path.exists():
            os.replace(self.run.path, old)
        self.error.unlink(missing_ok=True)
        shutil.rmtree(old, ignore_errors=True)

    def record(self) -> None:
        """Writes the result of each trial, if they are over and it is not there."""
        if not self.is_over():
            return
        result = self.run.result()
        for number, trial in enumerate(self.trials):
            if result is None:
                found: Result = {"status": "failed", "reason": self.error.read_text()}
            else:
                found = _of_replica(result, number)
            known = result_of(self.folder, trial)
            if known is None or (known["status"], found["status"]) == ("failed", "done"):
                place = {"group": f"groups/{self.id}", "replica": number}
                file = _result_file(self.folder, trial)
                file.parent.mkdir(parents=True, exist_ok=True)
                content = {"overrides": trial.overrides, **found, **place}
                write_atomically(file, json.dumps(content, indent=2) + "\n")


def _of_replica(result: dict[str, Any], number: int) -> Result:
    replica = result["test"]["replicas"][number]
    if replica["failed"]:
        reason = f"at step {replica['step']} the loss or the gradient was not finite"
        return {"status": "failed", "reason": reason, "step": replica["step"]}
    test = {name: replica[name] for name in ("all", "by_length")}
    return {"status": "done", "step": replica["step"], "test": test}


def result_of(folder: Path, trial: Trial) -> Result | None:
    """The result of a trial, None while it is not over."""
    file = _result_file(folder, trial)
    return json.loads(file.read_text()) if file.exists() else None


def _result_file(folder: Path, trial: Trial) -> Path:
    return folder / "trials" / trial.id / "result.json"


def check(folder: Path, trials: Sequence[Trial]) -> None:
    """Refuses a folder of something else: neither of these trials, nor of some of them.

    Raises:
      UsageError: it names what is different.
    """
    file = folder / "sweep.json"
    if not file.exists():
        if folder.exists() and (not folder.is_dir() or any(_content(folder))):
            raise UsageError(f"--workdir={folder}: is there and holds no sweep (no sweep.json)")
        return
    there, now = json.loads(file.read_text()), _listed(trials)
    if there.items() <= now.items():
        return
    if there.keys() == now.keys():
        changed = differences(there, now)
        field, (old, new) = next(iter(changed.items()))
        told = f"{field.partition('.settings.')[2] or field}: {old!r} there, {new!r} now"
    else:
        told = f"{len(there)} trials there, {len(now)} now, {len(there.keys() & now.keys())} common"
    raise UsageError(f"--workdir={folder}: holds another sweep ({told}); name another folder")


def begin(folder: Path, trials: Sequence[Trial]) -> None:
    """Fills the folder of a sweep; records what was trained and not recorded."""
    # Before all else: it says whose folder this is.
    write_atomically(folder / "sweep.json", json.dumps(_listed(trials), indent=1) + "\n")
    (folder / "groups").mkdir(exist_ok=True)
    for file in (folder / "groups").glob("*.json"):
        Group(folder, file.stem).record()


def left(folder: Path, trials: Sequence[Trial]) -> list[Trial]:
    """The trials that are not done."""
    return [trial for trial in trials if (result_of(folder, trial) or {}).get("status") != "done"]


def make_group(folder: Path, trials: Sequence[Trial]) -> Group:
    """The group of these trials: new, half done, or to be tried again if all it left is failed."""
    group = Group(folder, short_hash([trial.id for trial in trials]))
    listed = json.dumps(list(_listed(trials).values()), indent=1) + "\n"
    write_atomically(group.run.path.with_suffix(".json"), listed)
    if group.is_over():
        group.restart()
    return group


def _listed(trials: Sequence[Trial]) -> dict[str, dict]:
    return {
        trial.id: {
            "overrides": trial.overrides,
            "settings": json.loads(trial.settings.model_dump_json()),
        }
        for trial in trials
    }


def _content(folder: Path) -> list[Path]:
    """What a person may have put there: not the lock, nor what a kill left half written."""
    return [file for file in folder.iterdir() if not file.name.startswith(".")]
