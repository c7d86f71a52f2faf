import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from small import small, train_quietly

from attention.lab.errors import UsageError
from attention.lab.parallel import hosts
from attention.lab.parallel.interruption import Interruption
from attention.lab.runs import checkpoints
from attention.lab.training.build import build
from attention.lab.training.state import abstract_state

ROOT = Path(__file__).parents[3]

# 2 processes of 3 devices that train one run

CHANGES = {"train.steps": 80, "train.batch_size": 12, "train.checkpoint_every_steps": 20}
CHANGES |= {"train.log_every_steps": 10, "train.eval_every_steps": 40, "model.dropout": 0.1}
# Each replica has 2 devices, the second replica in both processes: each saves and restores shares.
CHANGES |= {"num_seeds": 3, "train.shard_parameters": True}
CONFIG = f"""
from small import small_config

def get_config(score="dot"):
    return small_config({CHANGES}, score=score)
"""
# The program, but for its patience with a process that is dead, and for a signal that it sends
# to itself when it pauses for the n-th time: the first time before any update.
PROGRAM = f"""
import itertools, os, runpy, sys
from attention.lab.parallel import hosts
from attention.lab.parallel.interruption import Interruption

hosts.HEARTBEAT_SECONDS = 10
reached, pauses = Interruption.reached, itertools.count(1)
signal, pause = int(sys.argv.pop()), int(sys.argv.pop())

def disturbed(self):
    if next(pauses) == pause:
        os.kill(os.getpid(), signal)
    return reached(self)

Interruption.reached = disturbed
runpy.run_path({str(ROOT / "train.py")!r}, run_name="__main__")
"""


class Two:
    """Two processes that run the same command, and what they show."""

    def __init__(self, directory):
        self.run = directory / "run"
        self._directory, self._processes = directory, []
        (directory / "two.py").write_text(CONFIG)

    def start(self, pause=0, number=0):
        """Starts both; the second sends itself this signal at this pause."""
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        disturbances = [(0, 0), (pause, number)]
        self._processes = [self._start(n, port, *disturbances[n]) for n in range(2)]

    def _start(self, number, port, pause, disturbance):
        flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=3"
        path = os.pathsep.join([str(ROOT / "tests"), str(ROOT), *sys.path])
        with (self._directory / str(number)).open("w") as output:
            return subprocess.Popen(
                [
                    *(sys.executable, "-c", PROGRAM, "--config=two.py", "--workdir=run"),
                    *(f"--coordinator_address=localhost:{port}", "--num_processes=2"),
                    *(f"--process_id={number}", str(pause), str(int(disturbance))),
                ],
                cwd=self._directory,
                env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def saved(self):
        """The newest step that is committed."""
        return max(checkpoints.steps(self.run / "checkpoints"), default=0)

    def end(self):
        return [process.wait(timeout=120) for process in self._processes]

    def shown(self, number):
        """What one showed, without what JAX's communication says."""
        lines = (self._directory / str(number)).read_text().splitlines(keepends=True)
        return "".join(line for line in lines if "peer ranks" not in line and line.strip())

    def kill(self):
        for process in self._processes:
            process.kill()
            process.wait()


@pytest.fixture
def two(tmp_path):
    two = Two(tmp_path)
    yield two
    two.kill()


def log(run):
    return list(map(json.loads, (run / "metrics.jsonl").read_text().splitlines()))


def test_a_run_of_two_processes_survives_a_kill_and_a_signal_of_one(two, tmp_path):
    two.start(6, signal.SIGKILL)
    statuses = two.end()
    assert statuses[1] == -signal.SIGKILL
    assert statuses[0] != 0  # without the other it cannot go on
    assert "step 50/80" in two.shown(0)
    assert "step 60/80" not in two.shown(0)
    saved = two.saved()
    assert saved in (20, 40)  # the newest may have been under way

    two.start(3, signal.SIGTERM)
    assert two.end() == [143, 143]
    assert "devices: replicas over 3, each batch over 2\n" in two.shown(0)
    assert f"going on from step {saved}\n" in two.shown(0)
    assert f"SIGTERM at step {saved + 20}: saved in run\n" in two.shown(0)
    assert two.shown(1) == ""

    two.start()
    assert two.end() == [0, 0]
    assert f"going on from step {saved + 20}\n" in two.shown(0)
    assert two.shown(1) == ""

    shares = (two.run / "checkpoints" / "80").glob("ocdbt.process_*/d/*")
    assert {share.parts[-3] for share in shares} == {"ocdbt.process_0", "ocdbt.process_1"}

    settings, alone = small(CHANGES, score="dot"), tmp_path / "alone"
    train_quietly(settings, alone)  # here, on one device
    like = abstract_state(build(settings, None))
    ours, theirs = (
        checkpoints.restore(run / "checkpoints", vars(like)) for run in (two.run, alone)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, theirs)
    assert (two.run / "eval.json").read_bytes() == (alone / "eval.json").read_bytes()
    for ours, theirs in zip(log(two.run), log(alone), strict=True):
        assert (ours["step"], ours["kind"]) == (theirs["step"], theirs["kind"])
        assert ours.get("loss") == pytest.approx(theirs.get("loss"), abs=1e-5)


# What finds the others


@pytest.fixture
def joined(monkeypatch):
    """With what arguments JAX is told to join."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *where, **_: calls.append(where))
    for name in (*hosts.SLURM, "JAX_COORDINATOR_ADDRESS", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    return calls


SLURM = dict(zip(hosts.SLURM, ("17", "n[1-2]", "2", "1", "0"), strict=True))


@pytest.mark.parametrize(
    ("environment", "packages", "expected"),
    [
        ({}, [], False),
        ({"JAX_COORDINATOR_ADDRESS": "a:1"}, [], True),
        (SLURM, [], True),
        (SLURM | {"SLURM_NTASKS": "1"}, [], False),
        ({"SLURM_JOB_ID": "17", "SLURM_NTASKS": "2"}, [], False),  # a shell in an allocation
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, ["libtpu"], True),
        ({"TPU_WORKER_HOSTNAMES": "a"}, ["libtpu"], False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, [], False),
    ],
)
def test_several_processes_are_found_in_the_environment(
    joined, monkeypatch, environment, packages, expected
):
    monkeypatch.setattr(hosts.importlib.util, "find_spec", lambda n: n if n in packages else None)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    hosts.join(None, None, None)
    assert joined == ([(None, None, None)] if expected else [])


def test_flags_come_before_the_environment(joined, monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "a:1")
    hosts.join("b:2", 3, 1)
    assert joined == [("b:2", 3, 1)]
    hosts.join("b:2", 1, 0)
    assert len(joined) == 1  # one process needs nobody


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("b:2", None, 1), "--num_processes is missing"),
        ((None, 2, 1), "--coordinator_address is missing"),
        (("b", 2, 1), "--coordinator_address=b: give host:port"),
        (("b:2", 2, 2), "--process_id=2: of --num_processes=2 processes, the ids are 0 to 1"),
        (("b:2", 0, 0), "--process_id=0: of --num_processes=0"),
    ],
)
def test_flags_that_do_not_fit_are_refused(joined, flags, told):
    with pytest.raises(UsageError, match=f"^{told}"):
        hosts.join(*flags)
    assert joined == []


# What they agree on


@pytest.fixture
def beside(monkeypatch):
    """Makes this the second of two processes, of which the first says what it is told to."""

    def beside(first):
        monkeypatch.setattr(hosts, "are_several", lambda: True)
        monkeypatch.setattr(hosts, "_of_all", lambda own: np.stack([first, own]))

    return beside


def test_the_error_of_another_process_is_an_error_here(beside):
    beside(hosts._padded("config.x=ü: no"))
    with pytest.raises(UsageError, match=r"^config.x=ü: no$"), hosts.in_agreement():
        pass


def test_an_error_that_is_too_long_is_cut_between_letters(beside):
    beside(hosts._padded("x" + 1500 * "ü"))
    with pytest.raises(UsageError, match=r"^xü{999}$"), hosts.in_agreement():
        pass


@pytest.mark.parametrize("error", [UsageError, OSError])
def test_an_error_here_is_told_to_the_others(beside, error):
    beside(hosts._padded(""))
    with pytest.raises(UsageError, match=r"^mine$"), hosts.in_agreement():
        raise error("mine")


def test_without_an_error_all_go_on(beside):
    beside(hosts._padded(""))
    with hosts.in_agreement():
        pass


def test_processes_that_would_do_different_things_are_refused(beside, monkeypatch):
    said = []
    with monkeypatch.context() as patch:
        patch.setattr(hosts, "are_several", lambda: True)
        patch.setattr(hosts, "_of_all", lambda own: said.append(own) or own[None])
        hosts.check_alike(b"config", b"data")
    beside(said[0])
    hosts.check_alike(b"config", b"data")
    with pytest.raises(UsageError, match="start all by the same command"):
        hosts.check_alike(b"config", b"date")


def test_the_signal_of_another_process_counts_here(beside):
    interruption = Interruption()
    beside(np.int32(signal.SIGTERM))
    assert interruption.reached()
    assert interruption.name == "SIGTERM"


def test_alone_there_is_nobody_to_ask():
    assert not hosts.are_several()
    assert hosts.is_first()
    assert (hosts.from_first(7), hosts.greatest(5)) == (7, 5)
    with pytest.raises(OSError, match=r"^mine$"), hosts.in_agreement():
        raise OSError("mine")
