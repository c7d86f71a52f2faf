"""That the engine `ray` of `scripts/sweep.py` loses nothing, whoever is killed."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_lines import COPY, ROOT, TINY, run
from small import files
from small_sweeps import SWEEP, is_locked, wait_for

FLAGS = [COPY, *TINY, "--grid=score=linear,dot", "--workdir=sweep", "--engine=ray"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--address=127.0.0.1:1"], "--address=127.0.0.1:1: no Ray cluster answers"),
        (["--address=nowhere"], "--address=nowhere: no Ray cluster answers"),
        (["--resources=TPU"], "--resources='TPU': 'TPU' is not a name with"),
        (["--resources=TPU=4,GPU=1.5"], "'GPU=1.5' is not a name with a whole number"),
        (["--resources=TPU=0"], "'TPU=0' is not"),
        (["--resources=memory=9"], "'memory=9' is not"),
        (["--jobs=2"], "--jobs=2: of engine local; see --resources"),
        (["--engine=local", "--address=auto"], "--address=auto: of engine ray"),
    ],
)
def test_bad_input_is_told_in_one_line_before_anything_starts(monkeypatch, here, flags, told):
    status, out, err = run(monkeypatch, SWEEP, *FLAGS, *flags)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert told in err
    assert files(here) == {}


def test_without_ray_the_extra_is_named(monkeypatch, here):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    status, _, err = run(monkeypatch, SWEEP, *FLAGS)
    assert (status, files(here)) == (2, {})
    assert err == "error: --engine=ray: needs the extra `sweep`: pip install -e '.[sweep]'\n"


@contextmanager
def fake_cluster():
    """Its address, the process of its second machine, and what kills that."""
    script = Path(__file__).with_name("fake_cluster.py")
    with subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
        text=True,
    ) as process:
        address, second = process.stdout.readline().split()

        def kill_second():
            process.stdin.write("\n")
            process.stdin.flush()

        yield address, int(second), kill_second
        process.stdin.close()


@contextmanager
def driver(address):
    """A sweep on a cluster."""
    with subprocess.Popen(
        [sys.executable, ROOT / SWEEP, *FLAGS, f"--address={address}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def parent(process):
    """Of a process, by its number."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def imports_jax(process):
    """Whether a process, by its number, runs and has loaded the library that JAX is made of."""
    try:
        return "jaxlib" in Path(f"/proc/{process}/maps").read_text()
    except OSError:  # it has ended
        return False


def training():
    """The processes that train a group of a sweep in this directory."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (place / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if {b"attention.lab.sweeps.train_group", bytes(Path.cwd() / "sweep")} <= set(arguments):
            found.append(int(place.name))
    return found


def two_in_training():
    """The processes of two groups that train, or none.

    A child that is about to become git looks like its parent for a moment, and has ended in the
    next: so both are counted and looked at together.
    """
    found = training()
    return found if len(found) == 2 and all(map(imports_jax, found)) else []


def test_killed_workers_machines_and_drivers_lose_no_trial(monkeypatch, here):
    groups, trials = here / "sweep" / "groups", here / "sweep" / "trials"

    def locked():
        return [lock.parent for lock in groups.glob("*/.lock") if is_locked(lock.parent)]

    with fake_cluster() as (address, second, kill_second), driver(address) as killed:
        wait_for(lambda: len(locked()) == 2)
        first = wait_for(two_in_training)
        workers = {parent(child) for child in first}
        assert not any(map(imports_jax, workers))  # which would take them seconds
        (worker,) = {worker for worker in workers if parent(worker) != second}
        os.kill(worker, signal.SIGKILL)
        kill_second()
        wait_for(lambda: not set(first) & set(training()))
        assert not list(groups.glob("*/result.json"))  # they did not just come to their end

        # One after another on the machine that is left.
        wait_for(lambda: list(trials.glob("*/result.json")) and locked())
        killed.kill()
        told = killed.stdout.read()
        assert "2 of 2 trials to train, as 2 groups, each with TPU=1 of Ray's cluster, 2 at" in told
        wait_for(lambda: not training())
        (done,) = trials.glob("*/result.json")
        group = here / "sweep" / json.loads(done.read_text())["group"]
        before = files(group), files(done.parent)

        with driver(address) as again:
            told = again.communicate(timeout=100)[0]
        assert again.returncode == 0, told
        assert "1 of 2 trials to train, as 1 groups, each with TPU=1" in told
        assert (files(group), files(done.parent)) == before
    assert len(list(trials.glob("*/result.json"))) == len(list(groups.glob("*/result.json"))) == 2
    status, out, err = run(monkeypatch, SWEEP, *FLAGS, f"--address={address}")
    assert (status, err) == (0, "")
    assert "sweep: finished already, nothing to do" in out
