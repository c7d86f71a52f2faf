"""The folder of a sweep, which says what has been done: whoever is killed, it stays true.

sweep.json               the trials
trials/<name>/result.json  the result of a trial that is over: done or failed; the name says what
                         sets the trial apart, and ends in its id, by which sweep.json lists it
groups/<id>.json         the trials of a group, which are trained together, in the order of replicas
groups/<id>/             the run of the group: `python eval.py --workdir groups/<id> --replica 3`
groups/<id>.log          what the process of the group printed
groups/<id>.error        why all trials of the group failed, if they did
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
from attention.lab.runs.directory import Run, is_unbegun
from attention.lab.runs.files import write_atomically
from attention.lab.settings import differences, from_json
from attention.lab.sweeps.trials import Trial, folder_name, short_hash

Result = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """Trials that are trained together.

    Attributes:
      folder: of the sweep.
      id: the name of the group in the folder.
    """

    folder: Path
    id: str

    @property
    def run(self) -> Run:
        """The run in which `train` trains the trials as replicas."""
        return Run(self.folder / "groups" / self.id)

    @property
    def listing(self) -> Path:
        """The file that lists the trials."""
        return self._beside("json")

    @property
    def log(self) -> Path:
        """The file that gets what the process of the group prints."""
        return self._beside("log")

    @property
    def error(self) -> Path:
        """The file that says why all trials failed; there only if they did."""
        return self._beside("error")

    @property
    def trials(self) -> list[Trial]:
        """The trials, in the order of the replicas."""
        entries = json.loads(self.listing.read_text())
        return [Trial(entry["overrides"], from_json(entry["settings"])) for entry in entries]

    def _beside(self, suffix: str) -> Path:
        return self.run.path.with_name(f"{self.id}.{suffix}")  # the id itself may have dots

    def is_over(self) -> bool:
        """Whether nothing is left to train."""
        return self.error.exists() or self.run.result() is not None

    def fail(self, reason: str) -> None:
        """Notes that all trials failed."""
        write_atomically(self.error, reason)

    def restart(self) -> None:
        """Deletes what was trained. A kill leaves all of it, or nothing, to be gone on with."""
        old = self._beside("old")
        shutil.rmtree(old, ignore_errors=True)
        if self.run.path.exists():
            os.replace(self.run.path, old)
        self.error.unlink(missing_ok=True)
        shutil.rmtree(old, ignore_errors=True)

    def record(self) -> None:
        """Writes the results of the trials, if they are over; keeps those that are there.

        A trial that failed, and is done now, gets its new result.
        """
        if not self.is_over():
            return
        result = self.run.result()
        for number, trial in enumerate(self.trials):
            if result is None:
                new: Result = {"status": "failed", "reason": self.error.read_text()}
            else:
                new = _result_of_replica(result, number)
            known = result_of(self.folder, trial)
            if known is None or (known["status"], new["status"]) == ("failed", "done"):
                place = {"group": f"groups/{self.id}", "replica": number}
                file = _result_file(self.folder, trial)
                file.parent.mkdir(parents=True, exist_ok=True)
                content = {"overrides": trial.overrides, **new, **place}
                write_atomically(file, json.dumps(content, indent=2) + "\n")


def _result_of_replica(result: dict[str, Any], number: int) -> Result:
    replica = result["test"]["replicas"][number]
    if replica["failed"]:
        reason = "the loss or the gradient was not finite"
        return {"status": "failed", "reason": reason, "step": replica["step"]}
    test = {name: replica[name] for name in ("all", "by_length")}
    return {"status": "done", "step": replica["step"], "test": test}


def result_of(folder: Path, trial: Trial) -> Result | None:
    """The result of a trial; None while the trial is not over."""
    file = _result_file(folder, trial)
    return json.loads(file.read_text()) if file.exists() else None


def _result_file(folder: Path, trial: Trial) -> Path:
    by_id = folder / "trials" / trial.id  # as older versions called the folder of a trial
    return (by_id if by_id.exists() else folder / "trials" / trial.name) / "result.json"


def check(folder: Path, trials: Sequence[Trial]) -> bool:
    """Refuses a folder that holds anything but a sweep of these trials, or of some of them.

    A sweep of which nothing has come to a checkpoint has nothing to lose: it may be another.

    Returns:
      Whether it holds such another sweep.

    Raises:
      UsageError: the folder holds something else; the message names a difference.
    """
    file = folder / "sweep.json"
    if not file.exists():
        if folder.exists() and (not folder.is_dir() or any(_content(folder))):
            raise UsageError(f"--workdir={folder}: is there and holds no sweep (no sweep.json)")
        return False
    there, now = json.loads(file.read_text()), _listed(trials)
    if there.items() <= now.items():
        return False
    if _is_fruitless(folder):
        return True
    common = there.keys() & now.keys()
    plural = "" if len(there) == 1 else "s"
    difference = (
        f"{len(there)} trial{plural} there, {len(now)} now, {len(common) or 'none'} in common"
    )
    if there.keys() == now.keys():
        field, (old, new) = next(iter(differences(there, now).items()))
        name = field.partition(".settings.")[2] or field
        difference = f"{name}: {old!r} there, {new!r} now"
    raise UsageError(
        f"--workdir={folder}: holds another sweep ({difference}); name another folder by --workdir"
    )


def _is_fruitless(folder: Path) -> bool:
    """Whether no training of a sweep has come to a checkpoint, nor any trial to its end."""
    runs = [path for path in (folder / "groups").glob("*") if path.is_dir()]
    results = (json.loads(file.read_text()) for file in folder.glob("trials/*/result.json"))
    return all(map(is_unbegun, runs)) and all(result["status"] != "done" for result in results)


def begin(folder: Path, trials: Sequence[Trial]) -> bool:
    """Begins a sweep in its folder, or goes on: records trials that are over but have no result.

    Returns:
      Whether it has taken the place of another sweep.

    Raises:
      UsageError: the folder has come to hold something else, as in `check`.
    """
    is_other = check(folder, trials)  # again, now that no other process can change the folder
    if is_other:
        for name in ("groups", "trials"):
            shutil.rmtree(folder / name, ignore_errors=True)
    # Before all else, since this file says what the folder is for.
    listed = json.dumps(_listed(trials), indent=1) + "\n"
    write_atomically(folder / "sweep.json", listed)
    (folder / "groups").mkdir(exist_ok=True)
    for file in (folder / "groups").glob("*.json"):
        Group(folder, file.stem).record()
    return is_other


def left(folder: Path, trials: Sequence[Trial]) -> list[Trial]:
    """The trials that are not done."""
    return [trial for trial in trials if (result_of(folder, trial) or {}).get("status") != "done"]


def make_group(folder: Path, trials: Sequence[Trial]) -> Group:
    """The group of these trials, to be trained: new or half done.

    None of the trials is done. So a group of them that is over has failed, and begins anew.
    """
    group = _group_of(folder, trials)
    listed = json.dumps(list(_listed(trials).values()), indent=1) + "\n"
    write_atomically(group.listing, listed)
    if group.is_over():
        group.restart()
    return group


def _group_of(folder: Path, trials: Sequence[Trial]) -> Group:
    """The group of these trials; what they have in common names it, and their number."""
    unique = short_hash([trial.id for trial in trials])
    older = Group(folder, unique)  # as older versions called it
    if older.listing.exists():
        return older
    first, *others = (trial.overrides for trial in trials)
    common = {
        name: value
        for name, value in first.items()
        if all(other[name] == value for other in others)
    }
    return Group(folder, folder_name(common | {"trials": len(trials)}, unique))


def _listed(trials: Sequence[Trial]) -> dict[str, dict]:
    return {
        trial.id: {
            "overrides": trial.overrides,
            "settings": json.loads(trial.settings.model_dump_json()),
        }
        for trial in trials
    }


def _content(folder: Path) -> list[Path]:
    """The files that a person may have put there: not the lock, nor what a kill left behind."""
    return [file for file in folder.iterdir() if not file.name.startswith(".")]
