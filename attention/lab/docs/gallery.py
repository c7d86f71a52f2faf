"""The gallery of scores: a page with an entry for each of `SCORES`, made from the code itself.

The words of an entry are those of the docstring of the score, which begins with the equation, in
backquotes. What can be computed is computed: the form, whether the score reads the query, what is
learned and the options.
"""

import inspect
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from attention.forms import Form, form_of
from attention.lab.fields import options_of
from attention.scores import SCORES, Score

# Sizes of a query and a key that nothing else has, so that they are known again in shapes.
QUERY_DIM, KEY_DIM = 101, 103

COSTS = {
    "KeyOnly": "O(keys): one softmax for all queries, or one prefix scan if causal",
    "InnerProduct": (
        "O(queries · keys): the platform's dot-product attention; in tiles from 2²⁰ pairs on; in"
        " half precision on an NVIDIA GPU, cuDNN's flash attention (reverse mode only)"
    ),
    "SquaredDistance": (
        "O(queries · keys): by inner products, of points as seen from the midst of the keys, in"
        " float32 at the least"
    ),
    "Additive": "O(queries · keys · hidden): in tiles, `tanh` as half a division",
    "Pairwise": "O(queries · keys) times the cost of the score: in tiles from 2¹⁸ pairs on",
}

PAGE = """\
# Gallery of scores

Written by `scripts/docs.py` from the docstrings and the code of `attention.scores`; do not edit it.

A score maps a query `q` and a key `k` to a number. Each has a name: an argument of a config,
`configs/copy.py:rbf`, and a key of `attention.SCORES`. [Your own](extending.md) takes ten lines.

{scores}
What a score costs is decided by its form, the structure that it promises:

{forms}
Your own score has the form `Pairwise`, unless it promises another. Tiles never hold an array of all
pairs: memory grows with the length, not its square. See [what attention costs](cost.md).

**The pictures.** Vectors have two dimensions, parameters are as at the start (seed 0). *Left*: the
score of every key of a plane for the query that the arrow shows, blue where it is low and red where
it is high. *Right*: softmax weights of 48 queries (rows) over 48 keys (columns), which lie at all
angles on a circle of radius 2; black is 0, pale yellow is the largest weight of the picture. A
score that ignores the query has equal rows.

{entries}"""


def page() -> str:
    """The page, in Markdown."""
    scores = [("score", "equation", "source", "form", "reads the query", "options")]
    scores += [_row(name, score) for name, score in SCORES.items()]
    forms = [("form", "cost"), *((f"`{form}`", cost) for form, cost in COSTS.items())]
    entries = [_entry(name, score) for name, score in SCORES.items()]
    return PAGE.format(scores=_table(scores), forms=_table(forms), entries="\n".join(entries))


def equation(score: type[Score]) -> str:
    """What stands first in the docstring of a score, between backquotes.

    Raises:
      ValueError: the docstring does not begin with an equation.
    """
    found = re.match(r"`([^`]+)`", _about(score))
    if found is None:
        raise ValueError(f"{score.__name__}: the docstring must begin with `the equation`")
    return found[1]


def _row(name: str, score: type[Score]) -> tuple[str, ...]:
    seen = _Seen(score)
    options = ", ".join(f"`{option}={value}`" for option, value in _defaults(score).items())
    return (
        f"[`{name}`](#{name})",
        f"`{equation(score)}`",
        _source(score),
        f"`{type(seen.form).__name__}`",
        "yes" if seen.reads_query else "no",
        options or "—",
    )


def _entry(name: str, score: type[Score]) -> str:
    seen = _Seen(score)
    form = type(seen.form).__name__
    facts = [f"Form `{form}`. Costs {COSTS[form]}."]
    if not seen.reads_query:
        facts.append("Ignores the query: under a softmax every query gets the same weights.")
    facts.append(f"Learned: {seen.parameters or 'nothing'}.")
    facts += [f"Option {option}" for option in _options(score)]
    listed = "\n".join(f"- {fact}" for fact in facts)
    return (
        f"## {name}\n\n{_linked(_about(score))}\n\n{listed}\n\n"
        f"![{name}: the score of a key, and weights](scores/{name}.png)\n"
    )


def _options(score: type[Score]) -> list[str]:
    """The options of a score, with their defaults and what the docstring says of them."""
    documented = "\n".join(inspect.getdoc(parent) or "" for parent in score.__mro__[:-1])
    lines = []
    for option, default in _defaults(score).items():
        found = re.search(rf"^ +{option}: (.*)$", documented, re.MULTILINE)
        meaning = f": {found[1]}" if found else "."
        lines.append(f"`{option}`, by default {default}{meaning}")
    return lines


def _defaults(score: type[Score]) -> dict[str, Any]:
    """The options of a score, with their defaults."""
    return {name: option.default for name, option in options_of(score).items()}


class _Seen:
    """What can be seen of a score that is made with telling sizes.

    Attributes:
      form: the form of two queries and three keys.
    """

    def __init__(self, score: Any):
        try:
            sizes = QUERY_DIM, KEY_DIM
            made = score(*sizes, rngs=nnx.Rngs(0))
            names = {QUERY_DIM: "query_dim", KEY_DIM: "key_dim"}
        except ValueError:  # the score wants them equal
            sizes = KEY_DIM, KEY_DIM
            made = score(*sizes, rngs=nnx.Rngs(0))
            names = {KEY_DIM: "dim"}
        options = _defaults(score).items()
        self._names = names | {value: option for option, value in options if type(value) is int}
        self._learned = nnx.to_flat_state(nnx.state(made, nnx.Param))
        queries = jax.random.normal(jax.random.key(1), (2, sizes[0]))
        keys = jax.random.normal(jax.random.key(2), (3, sizes[1]))
        self.form: Form = form_of(made, queries, keys)

    @property
    def reads_query(self) -> bool:
        """Whether two queries get different weights over the same keys."""
        first, second = jax.nn.softmax(self.form.scores(), axis=-1)
        return not np.allclose(first, second, atol=1e-6)

    @property
    def parameters(self) -> str:
        """The learned arrays and their shapes; empty if nothing is learned."""
        return ", ".join(
            f"`{'.'.join(map(str, path))}` {self._written(array.shape)}"
            for path, array in self._learned
        )

    def _written(self, shape: Sequence[int]) -> str:
        if not shape:
            return "(a number)"
        return f"`[{', '.join(self._names.get(size, str(size)) for size in shape)}]`"


def _about(score: type[Score]) -> str:
    """The docstring without its list of arguments."""
    return re.split(r"\n\s*Args:\n", inspect.getdoc(score) or "")[0].strip()


def _source(score: type[Score]) -> str:
    """The papers that the docstring names in brackets; a dash if it names none."""
    found = re.findall(r"\(([^()]*(?:arXiv [\d.]+|, \d{4}))\)", _about(score))
    return _linked("; ".join(found)) or "—"


def _linked(text: str) -> str:
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *others = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *others]) + "\n"
