"""Names: of what the package has, or the dotted path of what a user has written."""

import importlib
from collections.abc import Mapping
from typing import Any


def find_named(kind: str, table: Mapping[str, Any], name: str) -> Any:
    """What a name stands for.

    Args:
      kind: what is looked for, for the error message: "score".
      table: what the package has, by name.
      name: a key of the table, or the path of a user's own, `my_lab.scores:MyScore`.

    Raises:
      ValueError: there is no such thing; the message lists the choices.
    """
    if name in table:
        return table[name]
    if ":" not in name:
        choices = ", ".join(table)
        raise ValueError(f"{kind} {name!r} is unknown; choose {choices} or a path module:Name")
    module_name, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{kind} {name!r} cannot be imported: {error}") from error
    if not callable(found):
        raise ValueError(f"{kind} {name!r} is a {type(found).__name__}, not a class or function")
    return found
