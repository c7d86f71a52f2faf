"""That the hash of the code changes with the code, and with nothing else."""

import textwrap

import pytest

from attention.lab.runs.version import NOT_IN_A_RUN, PACKAGE, code_hash, without_words

SOURCE = '''
"""What it is
for."""

# A comment.
def half(x):  # of a number
    """Half of it."""
    told = "# no comment"

    return x / 2
'''
WORDS = {
    "comment": ("# A comment.", "# Another comment,\n# of two lines."),
    "trailing_comment": ("  # of a number", ""),
    "docstring": ('"""Half of it."""', '"""Half of it.\n\n    Exactly.\n    """'),
    "docstring_of_the_module": ("What it is\nfor.", "What it is for."),
    "blank_line": ("\n\n    return", "\n    return"),
}
CODE = {
    "number": ("x / 2", "x / 3"),
    "string": ("# no comment", "# a comment"),
    "name": ("half", "a_half"),
}


def test_words_are_left_out_by_hand():
    assert without_words(SOURCE) == textwrap.dedent(
        """\
        def half(x):
            told = "# no comment"
            return x / 2"""
    )


@pytest.fixture
def package(tmp_path):
    (tmp_path / "lab" / "sweeps").mkdir(parents=True)
    (tmp_path / "lab" / "loop.py").write_text(SOURCE)
    (tmp_path / "lab" / "sweeps" / "jobs.py").write_text("x = 1")
    return tmp_path


def hash_of(package):
    code_hash.cache_clear()
    return code_hash(package)


@pytest.mark.parametrize(("old", "new"), WORDS.values(), ids=WORDS)
def test_words_do_not_change_the_hash(package, old, new):
    before = hash_of(package)
    assert old in SOURCE
    (package / "lab" / "loop.py").write_text(SOURCE.replace(old, new))
    assert hash_of(package) == before


@pytest.mark.parametrize(("old", "new"), CODE.values(), ids=CODE)
def test_code_changes_the_hash(package, old, new):
    before = hash_of(package)
    assert old in SOURCE
    (package / "lab" / "loop.py").write_text(SOURCE.replace(old, new))
    assert hash_of(package) != before


def test_a_file_more_and_a_file_renamed_change_the_hash(package):
    before = hash_of(package)
    (package / "lab" / "more.py").write_text("")
    more = hash_of(package)
    (package / "lab" / "more.py").rename(package / "lab" / "other.py")
    assert len({before, more, hash_of(package)}) == 3


def test_what_only_starts_runs_does_not_count(package):
    before = hash_of(package)
    (package / "lab" / "sweeps" / "jobs.py").write_text("x = 2")
    assert hash_of(package) == before
    assert all((PACKAGE / room).is_dir() for room in NOT_IN_A_RUN)
