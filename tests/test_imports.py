"""The library stands alone: what its files may import."""

import ast
import sys
from pathlib import Path

import pytest

import attention

ROOT = Path(attention.__file__).parent
PACKAGES = {"jax", "flax", "jaxtyping", "numpy", "attention"}
# Rooms for those who have further packages: these are imported where they are used, inside
# functions, and no other file of the library imports the room.
OPTIONAL = {"attention.plot", "attention.interop"}
FILES = sorted(path for path in ROOT.rglob("*.py") if "lab" not in path.relative_to(ROOT).parts)


def module_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source, module):
    """The modules that a source names, and whether each is imported inside a function.

    Of `from package import name`, `package.name` is named, which may be a module.
    """

    def visit(node, inside):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, inside) for alias in child.names)
            if isinstance(child, ast.ImportFrom):
                above = module.split(".")[: -child.level] if child.level else []
                package = ".".join([*above, *([child.module] if child.module else [])])
                yield from ((f"{package}.{alias.name}", inside) for alias in child.names)
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from visit(child, inside or function)

    return list(visit(ast.parse(source), False))


def faults(source, module):
    """What a file of the library imports, but may not."""
    for name, inside in imports(source, module):
        package = name.partition(".")[0]
        known = package in PACKAGES or package in sys.stdlib_module_names
        if not known and not (inside and module in OPTIONAL):
            yield name
        if f"{name}.".startswith("attention.lab."):
            yield name
        if any(f"{name}.".startswith(f"{room}.") for room in OPTIONAL - {module}):
            yield name


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_the_library_imports_four_packages_and_nothing_of_the_lab(path):
    assert not list(faults(path.read_text(), module_of(path)))


def test_every_file_is_looked_at():
    names = {module_of(path) for path in FILES}
    assert {"attention", "attention.attend", "attention.algorithms.tiles"} <= names
    assert not any(name.startswith("attention.lab") for name in names)


@pytest.mark.parametrize(
    ("source", "module", "expected"),
    [
        ("import optax", "attention.forms", ["optax"]),
        ("import numpy, optax.losses", "attention.forms", ["optax.losses"]),
        ("from optax import adam", "attention.forms", ["optax.adam"]),
        ("def f():\n    import optax", "attention.forms", ["optax"]),
        ("def f():\n    import optax", "attention.plot", []),
        ("class C:\n    def f(self):\n        import optax", "attention.interop", []),
        ("import matplotlib", "attention.plot", ["matplotlib"]),
        ("if True:\n    import matplotlib", "attention.plot", ["matplotlib"]),
        ("from attention.lab.tasks import copy", "attention.forms", ["attention.lab.tasks.copy"]),
        ("from attention import lab", "attention.forms", ["attention.lab"]),
        ("from . import lab", "attention.forms", ["attention.lab"]),
        ("from ..lab import tasks", "attention.algorithms.dense", ["attention.lab.tasks"]),
        ("def f():\n    import attention.lab", "attention.plot", ["attention.lab"]),
        ("from attention import plot", "attention.layers", ["attention.plot"]),
        ("from attention.interop import flax", "attention.plot", ["attention.interop.flax"]),
        ("from attention import plotting, labels", "attention.forms", []),
        ("import math\nfrom jax import lax\nimport attention.forms", "attention.masks", []),
    ],
)
def test_a_forbidden_import_is_seen(source, module, expected):
    assert list(faults(source, module)) == expected
