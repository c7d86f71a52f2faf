from dataclasses import dataclass
from itertools import combinations

import jax
import pytest

from attention import masks
from attention.lab.tasks.copy import Copy
from attention.lab.tasks.duplicate import Duplicate
from attention.lab.tasks.reverse import Reverse
from attention.pytrees import register_dataclass, static


@register_dataclass
@dataclass(frozen=True)
class Point:
    x: object
    name: str = static(default="origin")


@register_dataclass
@dataclass(frozen=True)
class Pixel:
    x: object
    name: str = static(default="origin")


LOOK_ALIKES = [
    (Point(1.0), Pixel(1.0)),
    (masks.causal(offset=2), masks.window(2)),
    *combinations([Copy(3, 5), Duplicate(3, 5), Reverse(3, 5)], 2),
]


@pytest.mark.parametrize(("one", "other"), LOOK_ALIKES)
def test_classes_with_equal_fields_have_structures_of_their_own(one, other):
    assert jax.tree.structure(one) != jax.tree.structure(other)


def test_structures_are_equal_where_class_and_static_fields_are():
    assert jax.tree.structure(Point(1.0)) == jax.tree.structure(Point(2.0))
    assert jax.tree.structure(Point(1.0)) != jax.tree.structure(Point(1.0, "elsewhere"))


def test_leaves_are_the_fields_that_are_not_static_and_known_by_name():
    leaves, structure = jax.tree.flatten(Point({"a": 1, "b": 2}, "here"))
    assert leaves == [1, 2]
    assert jax.tree.unflatten(structure, [3, 4]) == Point({"a": 3, "b": 4}, "here")
    ((path, _),) = jax.tree_util.tree_leaves_with_path(Point(1.0))
    assert jax.tree_util.keystr(path) == ".x"
