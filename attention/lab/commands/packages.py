"""Packages that only some commands need, and the extras that have them."""

import importlib.util

from attention.lab.errors import UsageError


def is_installed(package: str) -> bool:
    """Whether a package can be imported; it is not imported for that."""
    return importlib.util.find_spec(package) is not None


def require(package: str, extra: str) -> None:
    """Refuses to begin without a package.

    Args:
      package: its name.
      extra: the extra of this distribution that has it.

    Raises:
      UsageError: it is not installed.
    """
    if not is_installed(package):
        raise UsageError(f"{package} is not installed; it is in the extra {extra!r}")
