"""That help says what the source says."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from attention.lab.documented import first_line, meanings
from attention.lab.fields import Section

CONFIGS = Path(__file__).parents[2] / "configs"


class Base:
    """A base.

    Args:
      width: of the base,
        in two lines: with a colon.
      depth: of the base.

    Raises:
      ValueError: never.
    """

    def __init__(self, width: int, *, depth: int = 2):
        pass


class Derived(Base):
    """One with more.

    Attributes:
      depth: of the one derived.
      sides (int): how many.
    """


class Sizes(Section):
    """Two sizes."""

    height: Annotated[int, Field(ge=1)] = 3  # in pixels
    unsaid: int = 4
    mark: str = "#"  # a sign


def score(*, slope=2.0):
    """A function.

    Args:
      slope: of the line.
    """
    del slope  # no meaning


def test_docstrings_tell_what_arguments_and_attributes_mean():
    base = {"width": "of the base, in two lines: with a colon.", "depth": "of the base."}
    assert meanings(Base) == base
    derived = {"depth": "of the one derived.", "sides": "how many."}
    assert meanings(Derived) == base | derived
    assert meanings(score) == {"slope": "of the line."}


def test_comments_tell_what_fields_mean():
    assert meanings(Sizes) == {"height": "in pixels", "mark": "a sign"}


def test_what_has_no_source_tells_nothing():
    made: dict = {}
    exec("def f(*, a=1):\n    return a", made)
    assert meanings(made["f"]) == {}
    assert meanings(max) == {}


def test_the_first_line_is_of_a_file_a_class_or_an_instance():
    assert first_line(CONFIGS / "copy.py").startswith("Copy random sequences")
    assert first_line(Derived) == first_line(Derived(1)) == "One with more."
    assert first_line(score) == "A function."
