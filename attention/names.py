"""What a name stands for: an entry of a dictionary, or anything that Python can import."""

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any


def find_named(kind: str, table: Mapping[str, Any], name: str) -> Any:
    """The entry of `table` under `name`, or what `name` says where to import.

    Args:
      kind: what the table holds, in a word for messages: "score".
      table: the names that need no path.
      name: a key of `table`, or the dotted path of a user's own, `my_lab.scores:MyScore`.

    Raises:
      ValueError: the name is neither; the message lists the keys of the table. Or the path
        leads nowhere; the message tells why.
      Exception: what the imported module itself raises, as it is.
    """
    if name in table:
        return table[name]
    if ":" not in name:
        choices = ", ".join(table)
        raise ValueError(f"{kind} {name!r} is unknown; choose {choices} or a path module:Name")
    module_name, _, attribute = name.partition(":")
    module = _imported(module_name, f"{kind} {name!r} cannot be imported")
    try:
        return getattr(module, attribute)
    except AttributeError:
        file = getattr(module, "__file__", None) or "built in"
        raise ValueError(
            f"{kind} {name!r} cannot be imported: module {module_name!r} ({file}) has no attribute"
            f" {attribute!r}"
        ) from None


def _imported(name: str, complaint: str) -> ModuleType:
    """The module of a name. What is missing inside the module is another error than its absence."""
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"{complaint}: {name!r} is no name of a module, as my_lab.scores")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        hint = ", which is named without .py" if name.endswith(".py") else ""
        raise ValueError(f"{complaint}: there is no module {error.name!r}{hint}") from None
