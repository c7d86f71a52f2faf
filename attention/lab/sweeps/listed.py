"""Values in a row with commas between them, as `--grid` lists them."""

import re

CLOSED_BY = {"(": ")", "[": "]", "{": "}"}
QUOTES = "'\""
REMEDY = "a value with a bracket or quote of its own goes in quotes"
ESCAPED = re.compile(r"\\([\\,'\"()\[\]{}])")


def split_values(text: str) -> list[str]:
    """The values of a list: `1,(2,3),'a,b'` are `1`, `(2,3)` and `a,b`.

    A comma between brackets, of any kind, or in quotes belongs to a value; so does a comma behind
    a backslash. Quotes around a whole value are taken away, and so are backslashes that guard a
    comma, quote or bracket; what stands between brackets stays as it is.

    Raises:
      ValueError: a value is missing, or a bracket or quote has no other end.
    """
    raw: list[str] = []
    open_brackets: list[str] = []
    start, quote, escaped = 0, "", False
    for place, character in enumerate(text):
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif quote:
            quote = "" if character == quote else quote
        elif character in QUOTES and (open_brackets or place == start):  # not that of "it's"
            quote = character
        elif character in CLOSED_BY:
            open_brackets.append(character)
        elif character in CLOSED_BY.values():
            if not open_brackets or CLOSED_BY[open_brackets.pop()] != character:
                raise ValueError(f"{character} closes no bracket; {REMEDY}")
        elif character == "," and not open_brackets:
            raw.append(text[start:place])
            start = place + 1
    if quote or open_brackets:
        raise ValueError(f"{quote or open_brackets[-1]} is not closed; {REMEDY}")
    raw.append(text[start:])
    if not all(raw):
        raise ValueError("a value is missing beside a comma; '' is an empty one")
    return list(map(_meant, raw))


def _meant(raw: str) -> str:
    if raw[0] in CLOSED_BY:
        return raw
    is_quoted = re.fullmatch(r"""'([^'\\]|\\.)*'|"([^"\\]|\\.)*\"""", raw)
    return ESCAPED.sub(r"\1", raw[1:-1] if is_quoted else raw)
