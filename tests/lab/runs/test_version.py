"""That the hash of the code changes with the code that a run depends on, and with no other."""

import pytest

from attention.lab.runs.version import NOT_IN_A_RUN, PACKAGE, code_hash


@pytest.fixture
def package(tmp_path):
    (tmp_path / "lab" / "sweeps").mkdir(parents=True)
    (tmp_path / "lab" / "loop.py").write_text("x = 1")
    (tmp_path / "lab" / "sweeps" / "jobs.py").write_text("x = 1")
    return tmp_path


def hash_of(package):
    code_hash.cache_clear()
    return code_hash(package)


def test_a_file_changed_added_or_renamed_changes_the_hash(package):
    hashes = [hash_of(package)]
    (package / "lab" / "loop.py").write_text("x = 2")
    hashes.append(hash_of(package))
    (package / "lab" / "more.py").write_text("")
    hashes.append(hash_of(package))
    (package / "lab" / "more.py").rename(package / "lab" / "other.py")
    hashes.append(hash_of(package))
    assert len(set(hashes)) == 4
    assert {len(found) for found in hashes} == {12}


def test_what_only_starts_runs_does_not_count(package):
    before = hash_of(package)
    (package / "lab" / "sweeps" / "jobs.py").write_text("x = 2")
    (package / "lab" / "sweeps" / "notes.txt").write_text("no code")
    assert hash_of(package) == before
    assert all((PACKAGE / room).is_dir() for room in NOT_IN_A_RUN)
