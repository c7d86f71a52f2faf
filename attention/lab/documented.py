"""What the source of a class or function says about it: a line, and the meaning of its fields.

So a person who types `--help` reads what a reader of the code reads, and nothing is written twice.
"""

import ast
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECTION = re.compile(r"^(?:Args|Attributes):\n((?:[ ]+.*\n?|\n)+)", re.MULTILINE)
ENTRY = re.compile(r"^(\w+)(?: \(.*?\))?: (.*(?:\n[ ]+.*)*)", re.MULTILINE)
LIBRARIES = ("builtins", "abc", "flax", "pydantic")  # whose classes have no fields of a config
FIELD = re.compile(r"^ {4}(\w+): ")


def first_line(documented: Any) -> str:
    """The first line of a docstring: of a file, or of a class, function or its instance."""
    if isinstance(documented, Path):
        text = ast.get_docstring(ast.parse(documented.read_bytes()))
    else:
        is_named = isinstance(documented, type) or inspect.isroutine(documented)
        text = inspect.getdoc(documented if is_named else type(documented))
    return (text or "").partition("\n")[0]


def meanings(documented: Callable[..., Any]) -> dict[str, str]:
    """What the arguments or attributes of a class or function mean, as far as its source says.

    Docstrings say it in a section `Args:` or `Attributes:`; a field of a class may have a comment
    behind it instead. What a class does not say, its bases may.
    """
    found: dict[str, str] = {}
    for each in reversed(getattr(documented, "__mro__", (documented,))):
        if str(each.__module__).partition(".")[0] not in LIBRARIES:
            found |= _comments(each) | _entries(each)
    return found


def _entries(documented: Any) -> dict[str, str]:
    sections = SECTION.findall(inspect.cleandoc(documented.__doc__ or "") + "\n")
    entries = (entry for part in sections for entry in ENTRY.findall(textwrap.dedent(part)))
    return {name: " ".join(meaning.split()) for name, meaning in entries}


def _comments(documented: Any) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(documented))
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (OSError, TypeError, SyntaxError, tokenize.TokenError):
        return {}  # typed at a prompt, or made by a program
    fields = (
        (FIELD.match(token.line), token) for token in tokens if token.type is tokenize.COMMENT
    )
    return {match[1]: token.string.lstrip("# ") for match, token in fields if match}
