"""What a name stands for: an entry of a dictionary, or anything that Python can import."""

import importlib
from collections.abc import Mapping
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
    """
    if name in table:
        return table[name]
    if ":" not in name:
        choices = ", ".join(table)
        raise ValueError(f"{kind} {name!r} is unknown; choose {choices} or a path module:Name")
    module_name, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{kind} {name!r} cannot be imported: {error}") from error
