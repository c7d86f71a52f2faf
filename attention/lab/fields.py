"""Fields of a config: sections that check them, and the fields that a class brings along.

The definition of a class says what a config can set about the class. A score, an encoder or a
decoder says it by the arguments that can be given by name alone, a task by the static fields of
its dataclass. The annotations are the types of the fields; `Annotated[int, Field(ge=1)]` adds a
range. A field without a default has to be set by the config or by a flag.

A run keeps its settings as JSON. So a field can hold what JSON can: None, booleans, numbers
(infinite ones too), strings, and tuples and dictionaries of those. A default that is none of
these, such as a function, makes its argument no field: it is left to the class.
"""

import dataclasses
import inspect
import json
import math
from collections.abc import Callable, Mapping
from types import NoneType, SimpleNamespace, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    Optional,
    TypeGuard,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
    create_model,
)

from attention.lab.errors import UsageError

REQUIRED: Any = ...  # in the place of a default, as pydantic writes it


def as_tuples(value: Any) -> Any:
    """A value in which the lists of JSON are tuples, as settings have them."""
    if isinstance(value, Mapping):
        return {name: as_tuples(item) for name, item in value.items()}
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value


Untyped = Annotated[Any, AfterValidator(as_tuples)]


class Section(BaseModel):
    """A part of the settings: frozen, strictly typed, and without fields that are not declared."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        ser_json_inf_nan="constants",  # null would be read as None
        protected_namespaces=(),
    )


class Option(NamedTuple):
    """A field that a class brings along.

    Attributes:
      annotation: the type of the field, with its range if it has a range.
      default: the value of the field where a config sets no other; `REQUIRED` where one must.
    """

    annotation: Any
    default: Any


def options_of(factory: Callable[..., Any]) -> dict[str, Option]:
    """The options of a class or function: what can be given by name alone, less `rngs`.

    Those are the keyword-only arguments, and those after the second that have a default.
    """
    called = factory.__init__ if isinstance(factory, type) else factory  # type: ignore[misc]
    try:
        parameters = inspect.signature(called).parameters.values()
    except ValueError:  # of a function that is not written in Python
        return {}
    namespace = getattr(inspect.unwrap(called), "__globals__", {})
    options = {
        parameter.name: _option(
            _evaluated(parameter.annotation, namespace),
            REQUIRED if parameter.default is parameter.empty else parameter.default,
        )
        for place, parameter in enumerate(parameters)
        if _is_option(parameter, place - isinstance(factory, type))
    }
    return _for_a_config(options)


def _is_option(parameter: inspect.Parameter, place: int) -> bool:
    # The first two are given by place: query and key, or their sizes.
    has_default = place >= 2 and parameter.default is not parameter.empty
    by_name = parameter.kind is parameter.KEYWORD_ONLY or (
        parameter.kind is parameter.POSITIONAL_OR_KEYWORD and has_default
    )
    return by_name and parameter.name != "rngs"


def static_fields_of(dataclass: type) -> dict[str, Option]:
    """The static fields of a dataclass (see `attention.pytrees.static`).

    Raises:
      TypeError: the class is no dataclass.
    """
    if not dataclasses.is_dataclass(dataclass):
        raise TypeError(f"{dataclass.__name__} is no dataclass, and tells no settings of its own")
    try:
        hints = get_type_hints(dataclass, include_extras=True)
    except NameError:  # imported for type checkers alone
        hints = {}
    static = [f for f in dataclasses.fields(dataclass) if f.metadata.get("static", False)]
    return _for_a_config(
        {field.name: _option(hints.get(field.name, Any), _default(field)) for field in static}
    )


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return REQUIRED if field.default is dataclasses.MISSING else field.default


def _for_a_config(options: Mapping[str, Option]) -> dict[str, Option]:
    """The options without those that are private, or whose defaults no config can hold."""
    return {
        name: option
        for name, option in options.items()
        if not name.startswith("_") and (option.default is REQUIRED or _is_json(option.default))
    }


def _evaluated(annotation: Any, namespace: dict[str, Any]) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    alone = SimpleNamespace(__annotations__={"it": annotation})
    try:
        return get_type_hints(alone, namespace, include_extras=True)["it"]
    except NameError:  # imported for type checkers alone
        return Any


def _option(annotation: Any, default: Any) -> Option:
    """An option with a type that pydantic knows, and a default of this type.

    The default says the type where no annotation does; `gain: float = 2` says 2.0; `= None` says
    that None is of the type too.
    """
    if annotation is Any and type(default) in (bool, int, float, str, list):
        annotation = type(default)
    if _bare(annotation) is float and type(default) is int:
        default = float(default)
    untyped = any(annotation is kind for kind in (Any, object, tuple, dict))
    if untyped or not _is_known(annotation):
        return Option(Untyped, default)
    return Option(Optional[annotation] if default is None else annotation, default)  # noqa: UP045


def _is_known(annotation: Any) -> bool:
    try:
        TypeAdapter(annotation)
    except (PydanticUserError, NameError):
        return False
    return True


def _bare(annotation: Any) -> Any:
    """A type without the range that may be around it."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def section_with(base: type[Section], options: Mapping[str, Option]) -> type[Section]:
    """A subclass of a section, with further fields.

    Args:
      base: the section; a field that it has already stays as it is.
      options: the further fields, by name.
    """
    fields: dict[str, Any] = {
        name: (option.annotation, option.default)
        for name, option in options.items()
        if name not in base.model_fields
    }
    return create_model(base.__name__, __base__=base, **fields)


def given(section: type[Section], values: Mapping[str, Any]) -> dict[str, Any]:
    """What a config gives: not the None that holds the place of a field without a default."""
    fields = {}
    for name, value in values.items():
        field = section.model_fields.get(name)
        if field is not None and is_section(field.annotation) and isinstance(value, Mapping):
            fields[name] = given(field.annotation, value)
        elif field is None or value is not None or not field.is_required():
            fields[name] = value
    return fields


def is_section(annotation: Any) -> TypeGuard[type[Section]]:
    """Whether the type of a field is a section, which has fields of its own."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


def read_option(option: Option, value: Any, path: str) -> Any:
    """The value of an option, of the type that its annotation says.

    Args:
      option: the option.
      value: as settings have it, such as a tuple for a list.
      path: dotted path of the field, for the error message.

    Raises:
      UsageError: the value is missing, or of another type, or out of range.
    """
    if value is None and option.default is REQUIRED:
        raise missing(path, option.annotation)
    try:
        return TypeAdapter(option.annotation).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise UsageError(f"{path}={value!r}: {reason(error.errors()[0])}") from None


def missing(path: str, annotation: Any) -> UsageError:
    """The error that a field without a default has no value."""
    what = "a section of fields" if is_section(annotation) else type_name(annotation)
    return UsageError(f"{path} is missing: {what}; give it by --{path}=")


def reason(error: Mapping[str, Any]) -> str:
    """What pydantic has against a value."""
    return error["msg"][0].lower() + error["msg"][1:]


def kinds_of(annotation: Any) -> list[Any]:
    """The types that an annotation allows, without ranges; None is not among them."""
    bare = _bare(annotation)
    if get_origin(bare) in (Union, UnionType):
        kinds = [kind for part in get_args(bare) for kind in kinds_of(part)]
        return list(dict.fromkeys(kinds))
    return [] if bare is NoneType else [bare]


def type_name(annotation: Any) -> str:
    """A type in words: `int`, or `'line' or 'wave'`."""
    words: list[str] = []
    for kind in kinds_of(annotation):
        if get_origin(kind) is Literal:
            words += map(repr, get_args(kind))
        elif kind is Any:
            words.append("any value")
        else:
            words.append(kind.__name__ if isinstance(kind, type) else str(kind))
    return " or ".join(words)


def as_json(value: Any, path: str) -> Any:
    """A value as JSON can hold it: with tuples for lists, and Python's numbers for NumPy's.

    Args:
      value: a value of a config, or a part of the config.
      path: its dotted path, for the error message.

    Raises:
      UsageError: JSON cannot hold the value.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {_key(name, path): as_json(item, f"{path}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(as_json(item, path) for item in value)
    if obstacle := _obstacle(value):
        raise UsageError(f"{path}={value!r}: {obstacle}")
    return value


def _key(name: Any, path: str) -> str:
    if not isinstance(name, str):
        raise UsageError(f"{path}: {name!r} is no name of a field, which is a string")
    return name


def _obstacle(value: Any) -> str:
    """What is in the way of a value that is no collection; nothing if JSON can hold it."""
    if isinstance(value, float) and math.isnan(value):
        return "equals no number, not even itself; give a finite number"
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return "is no Unicode text"
    if value is None or isinstance(value, bool | int | float | str):
        return ""
    return (
        "a config holds None, booleans, numbers, strings, and tuples of those, but nothing of type"
        f" {type(value).__name__}"
    )


def _is_json(value: Any) -> bool:
    try:
        as_json(value, "")
    except UsageError:
        return False
    return True
