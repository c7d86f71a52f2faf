"""That a job says how far its training is."""

import pytest
from small_sweeps import finish

from attention.lab.sweeps.folder import make_group
from attention.lab.sweeps.jobs import Job


class Training:
    """Goes on until a test ends it."""

    end: str | None = None
    stops = 0

    def ending(self):
        return self.end

    def stop(self):
        self.stops += 1


@pytest.fixture
def job(begun):
    """A job whose training goes on."""
    job = Job(make_group(*begun))
    job.training = Training()
    return job


def state(job):
    job.look()
    return job.state


def test_progress_is_the_newest_step_that_the_run_logged(job):
    assert state(job) == "waiting"
    job.group.log.write_text("step 2/2  is what it prints for people\n")
    assert state(job) == "starting"
    job.group.run.path.mkdir()
    lines = job.group.run.path / "metrics.jsonl"
    lines.write_text('{"step": 1, "ki')
    assert state(job) == "starting"
    lines.write_text('{"step": 1, "kind": "train"}\n{"step": 2, "kind": "tr')
    assert state(job) == "step 1/2"
    assert job.is_running


def test_what_is_over_is_counted(job):
    finish(job.group, failed=[1])
    job.group.record()
    job.training.end = "status 1"
    assert state(job) == "2 done, 1 failed"
    assert not job.is_running


@pytest.mark.parametrize(
    ("printed", "last"),
    [
        (None, "it printed nothing"),
        (b"\n", "it printed nothing"),
        (b"Traceback\n  line 3\nValueError: \xff is odd\n\n", "ValueError: \ufffd is odd"),
    ],
)
def test_of_what_died_the_last_words_are_told(job, printed, last):
    if printed is not None:
        job.group.log.write_bytes(printed)
    job.training.end = "status -9"
    assert state(job) == f"ended with status -9, see {job.group.log}: {last}"


def test_what_is_asked_to_stop_is_asked_once(job):
    job.stop()
    job.stop()
    assert job.training.stops == 1
    job.training.end = "status 143"
    assert state(job) == "stopped"
