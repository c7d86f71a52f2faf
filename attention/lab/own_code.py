"""Errors in a user's own code: a score, a task, a config or what else the lab imports and calls.

Sixty lines about who called the code help nobody. So such an error is told in one line, with the
file and the line where it happened. Its traceback is not lost: the error is the cause of the error
that tells it.
"""

import functools
import inspect
import re
import sys
import sysconfig
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from attention.lab.errors import TrainingError, UsageError

if TYPE_CHECKING:
    from attention.lab.settings import Settings

PACKAGE = Path(__file__).parents[1]
PYTHON = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")]
INSTALLED = {"site-packages", "dist-packages"}
MOST_LETTERS = 300  # of a message: some of jax's go on for pages

Parts = Mapping[str, str]  # what a config chooses of a user's own: module:Name, by the field


class Line(NamedTuple):
    """A line of code.

    Attributes:
      file: as Python names it.
      number: from 1.
      module: dotted name of the module; empty if it is not known.
      function: qualified name of the function, or of the class that begins here; empty if it is
        not known.
    """

    file: str
    number: int
    module: str = ""
    function: str = ""

    def __str__(self) -> str:
        path, here = Path(self.file).absolute(), Path.cwd()
        return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{self.number}"

    def is_named_in(self, message: str) -> bool:
        """Whether a message is about this function or class: as Python writes, or who checks types.

        Or as this package writes of what a function has returned, or could not be called with.
        """
        name = self.function
        ways = [f"{name}()", f"{self.module}.{name}", f"'{name}' object", f"{name} returned"]
        for method, done in {"__init__": "made", "__call__": "called"}.items():
            ways.append(f"{name.removesuffix(f'.{method}')} cannot be {done}")
        return any(re.search(rf"(?<![\w.]){re.escape(way)}(?!\w)", message) for way in ways)


@contextmanager
def errors_told(
    parts: Parts | None = None,
    kind: Callable[[str], Exception] = UsageError,
    *,
    wherever: bool = False,
) -> Iterator[None]:
    """Tells errors in a user's own code by file and line; `sys.exit()` there is an error too.

    Other errors pass as they are.

    Args:
      parts: what may be to blame.
      kind: what an error is told as.
      wherever: whether an error that came up outside the user's code is told too, if there are
        parts: then one of them has returned what nobody can use.

    Raises:
      UsageError: or another error of this kind, in the place of an error in a user's own code.
    """
    try:
        yield
    except (UsageError, TrainingError):
        raise
    except (Exception, SystemExit) as error:
        told = _told(error, parts or {}, wherever=wherever)
        if told is None:
            raise
        raise kind(told) from error


@contextmanager
def refusals_told(section: str, parts: Parts) -> Iterator[None]:
    """Tells that a class refuses its settings, by a ValueError such as `side=4: at most 3`.

    Args:
      section: dotted path of the settings, which the message does without.
      parts: what is a user's own; if the message of a ValueError there begins with no field, it is
        no refusal, but an error.

    Raises:
      UsageError: in the place of a refusal.
    """
    try:
        yield
    except UsageError:
        raise
    except ValueError as error:
        if lines_of(error, parts) and not field_of(error):
            raise
        raise UsageError(f"{section}.{error}") from None


def field_of(error: Exception) -> str:
    """The field that an error is about if its message begins so, `side=4: at most 3`."""
    found = re.match(r"(\w+)=", _text(error))
    return found[1] if found else ""


def own_parts(settings: "Settings") -> dict[str, str]:
    """What an experiment is made of that is a user's own."""
    fields = {"config.score.name": settings.score.name, "config.task.name": settings.task.name}
    for field in ("encoder", "decoder", "normalizer", "bias"):
        fields[f"config.model.{field}"] = getattr(settings.model, field)
    return {field: name for field, name in fields.items() if ":" in name}


def own_files(parts: Parts) -> dict[str, Path]:
    """The files of a user's own code that an experiment is made of, by their modules.

    Those of its parts, and those of the user's other modules that they take something from.
    """
    waiting = {name.partition(":")[0] for name in parts.values()}
    packages = {module.partition(".")[0] for module in waiting} - {"attention"}
    files: dict[str, Path] = {}
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if name in files or not file or not _is_own(Line(file, 1, name), packages):
            continue
        files[name] = Path(file)
        for value in vars(module).values():
            if inspect.ismodule(value):
                waiting.add(value.__name__)
            elif inspect.isclass(value) or inspect.isfunction(value):
                waiting.add(value.__module__)
    return dict(sorted(files.items()))


def lines_of(error: BaseException, parts: Parts | None = None) -> list[Line]:
    """The lines of a user's own code that an error passed, the innermost last.

    Where it came up in calling the code, that is the line where what was called begins.

    Args:
      error: the error.
      parts: what is a user's own, even where it lies among installed packages.
    """
    packages = {name.partition(":")[0].partition(".")[0] for name in (parts or {}).values()}
    link: BaseException | None = error
    while link is not None:
        lines = [line for line in _passed(link) if _is_own(line, packages - {"attention"})]
        if lines:
            return lines
        link = link.__cause__ or link.__context__
    # Python and type checkers name the function that they could not call.
    definitions = [line for name in (parts or {}).values() for line in _definitions(name)]
    return [line for line in definitions if line.is_named_in(_text(error))][:1]


def in_one_line(error: BaseException, otherwise: Line | None = None) -> str:
    """An error in a user's own code, with its place and its kind.

    Args:
      error: the error.
      otherwise: its place where it has none, for it came up in calling the code.
    """
    lines = lines_of(error)
    place = lines[-1] if lines else otherwise
    told = str(error) if isinstance(error, UsageError) else message_of(error)
    return f"{place}: {told}" if place else told


def message_of(error: BaseException) -> str:
    """The kind of an error and its message, in one line."""
    message = _text(error)
    if "Traceback (most recent call last)" in message:  # of what a compiled program has called
        return message.strip().rpartition("\n")[2]
    first = (error.msg if isinstance(error, SyntaxError) else message).partition("\n---")[0]
    written = first.replace("\\n", " ").replace("\\'", "'")  # as the message of a KeyError is
    message = textwrap.shorten(written, MOST_LETTERS, placeholder=" …")
    return f"{type(error).__name__}: {message}".removesuffix(": ")


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an error of a user's own may fail even here
        return ""


def _told(error: BaseException, parts: Parts, *, wherever: bool) -> str | None:
    """Who is to blame, where it happened and what happened; None if it is not the user's code."""
    if lines := lines_of(error, parts):
        return _sentence(_blamed(lines, parts), lines[-1], error)
    if not wherever or not parts:
        return None
    starts = [line for name in parts.values() for line in _definitions(name)[-1:]]
    return _sentence(parts, starts[0] if len(parts) == len(starts) == 1 else None, error)


def _sentence(blamed: Parts, place: Line | None, error: BaseException) -> str:
    named = ", ".join(f"{part}={name!r}" for part, name in blamed.items())
    return ": ".join(filter(None, (named, str(place or ""), message_of(error))))


def _blamed(lines: Sequence[Line], parts: Parts) -> Parts:
    """The part whose code an error passed last: found by its functions, else by its module."""
    for line in reversed(lines):
        for part, name in parts.items():
            functions = [(own.module, own.function) for own in _definitions(name)]
            if (line.module, line.function) in functions:
                return {part: name}
    modules = {name.partition(":")[0]: {part: name} for part, name in parts.items()}
    only = parts if len(parts) == 1 else {}
    return next((modules[line.module] for line in reversed(lines) if line.module in modules), only)


def _passed(error: BaseException) -> Iterator[Line]:
    """The lines that an error passed, from the outermost to the innermost."""
    for frame, number in traceback.walk_tb(error.__traceback__):
        code, module = frame.f_code, frame.f_globals.get("__name__") or ""
        yield Line(code.co_filename, number, module, code.co_qualname.partition(".<locals>")[0])
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        yield Line(error.filename, error.lineno)
    # What a compiled program has called is in no frame, but its traceback is in the message.
    for file, number in re.findall(r'File "([^"\n]+)", line (\d+)', _text(error)):
        yield Line(file, int(number))


def _is_own(line: Line, packages: set[str]) -> bool:
    """Whether a line is neither of this package, nor of Python, nor of an installed package."""
    if line.file.startswith("<"):  # made by a program
        return False
    if line.module.partition(".")[0] in packages:
        return True
    file = Path(line.file).absolute()
    elsewhere = any(file.is_relative_to(root) for root in (PACKAGE, *PYTHON))
    return not elsewhere and not INSTALLED & set(file.parts)


def _definitions(name: str) -> list[Line]:
    """Where a user's own class, its methods and those it inherits begin; or a function.

    Methods come first, a class last. There is nothing where the module could not be imported.
    """
    module, _, attribute = name.partition(":")
    found = getattr(sys.modules.get(module), attribute, None)
    classes = inspect.getmro(found) if isinstance(found, type) else ()
    methods = [value for cls in reversed(classes) for value in vars(cls).values()]
    lines = map(begins, (*methods, *reversed(classes), found))
    return [line for line in lines if line and _is_own(line, {module.partition(".")[0]})]


def begins(defined: Any) -> Line | None:
    """The line where a class or a function begins, whatever is wrapped around the function."""
    if isinstance(defined, property):
        defined = defined.fget
    elif isinstance(defined, classmethod | staticmethod):
        defined = defined.__func__
    elif isinstance(defined, functools.partial):
        defined = defined.func
    try:
        defined = inspect.unwrap(defined)
        file, code = inspect.getsourcefile(defined), getattr(defined, "__code__", None)
        number = code.co_firstlineno if code else inspect.getsourcelines(defined)[1]
    except (TypeError, ValueError, OSError):  # what has no lines
        return None
    return Line(file or "", number, defined.__module__, defined.__qualname__)
