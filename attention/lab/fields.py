"""Fields of a config: sections that check them, and the fields that a class brings along.

The definition of a class says what a config can set about the class. A score, an encoder or a
decoder says it by keyword arguments that have a default, a task by the static fields of its
dataclass. The annotations are the types of the fields; `Annotated[int, Field(ge=1)]` adds a range.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, create_model


class Section(BaseModel):
    """A part of the settings: frozen, strictly typed, and without fields that are not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Option(NamedTuple):
    """A field that a class brings along.

    Attributes:
      annotation: the type of the field, with its range if it has a range.
      default: the value of the field where a config sets no other.
    """

    annotation: Any
    default: Any


def options_of(factory: Callable[..., Any]) -> dict[str, Option]:
    """The options of a class or function: the keyword-only arguments that have a default."""
    called = factory.__init__ if isinstance(factory, type) else factory  # type: ignore[misc]
    hints = get_type_hints(called, include_extras=True)
    return {
        parameter.name: _option(hints.get(parameter.name, Any), parameter.default)
        for parameter in inspect.signature(called).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty
    }


def static_fields_of(dataclass: type) -> dict[str, Option]:
    """The static fields of a dataclass (see `attention.pytrees.static`), which all need a default.

    Raises:
      TypeError: the class is no dataclass, or a static field has no default.
    """
    if not dataclasses.is_dataclass(dataclass):
        raise TypeError(f"{dataclass.__name__} is no dataclass, and tells no settings of its own")
    hints = get_type_hints(dataclass, include_extras=True)
    static = [f for f in dataclasses.fields(dataclass) if f.metadata.get("static", False)]
    for field in static:
        if field.default is dataclasses.MISSING:
            raise TypeError(
                f"{dataclass.__name__}.{field.name} is a setting, so it needs a default:"
                " static(default=…)"
            )
    return {field.name: _option(hints[field.name], field.default) for field in static}


def _option(annotation: Any, default: Any) -> Option:
    """An option whose default is a float where its type is: `gain: float = 2` says 2.0."""
    plain = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return Option(annotation, float(default) if plain is float and default is not None else default)


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
