"""What `train.py --help` shows of a config: its fields, with type, range and meaning."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from attention.biases import BIASES
from attention.lab.choices import NO_ATTENTION, NO_BIAS, OF_THE_TASK
from attention.lab.commands.config_flags import settings_of
from attention.lab.configs import default_config, read_config
from attention.lab.documented import meanings
from attention.lab.fields import Section, options_of
from attention.lab.models.decoders import DECODERS
from attention.lab.models.encoders import ENCODERS
from attention.lab.settings import LARGEST_FLOAT, Settings, decoder_of, encoder_of, task_of
from attention.lab.tasks.catalogue import TASKS
from attention.normalizers import NORMALIZERS
from attention.scores import SCORES, find_score
from attention.sizes import LARGEST

WIDTH = 80  # of a line of help
BOUNDS = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "to below {}"}
CHOICES: dict[str, Iterable[str]] = {
    "score.name": [NO_ATTENTION, *SCORES],
    "task.name": TASKS,
    "model.encoder": [OF_THE_TASK, *ENCODERS],
    "model.decoder": DECODERS,
    "model.normalizer": NORMALIZERS,
    "model.bias": [NO_BIAS, *BIASES],
}


def fields_of(named: str | None, config_flags: Sequence[str]) -> str:
    """Every field of a config: its flag with its value, its type, range and meaning.

    Args:
      named: the config, as in `settings_of`; None for the config of defaults.
      config_flags: flags `--config.…`, which may change which fields there are.

    Raises:
      UsageError: the config or a flag is refused.
    """
    if named is None:
        of, settings = "as it is by default", read_config(default_config())
    else:
        of, settings = " ".join([named, *config_flags]), settings_of(named, config_flags)
    entries = [_entry(*field) for field in _fields(settings, settings, "")]
    return "\n".join([f"Fields of the config ({of}):", *entries])


def _fields(settings: Settings, section: Section, path: str) -> Iterator[tuple[str, Any, str, str]]:
    """The dotted path, value, type and meaning of each field of a section."""
    told = meanings(type(section)) | _meanings_of_choices(settings, path)
    for name, info in type(section).model_fields.items():
        value, field = getattr(section, name), f"{path}{name}"
        if isinstance(value, Section):
            yield from _fields(settings, value, f"{field}.")
        elif field == "score.options":
            yield from _options(settings, value, f"{field}.")
        elif field != "replicas":  # which no flag can set
            yield field, value, _kind(settings, field, info), told.get(name, "")


def _options(
    settings: Settings, options: Mapping[str, Any], path: str
) -> Iterator[tuple[str, Any, str, str]]:
    """The options of the score, likewise."""
    if not options:
        return
    score = find_score(settings.score.name)
    told, known = meanings(score), options_of(score)
    for name, value in options.items():
        annotation = known[name].annotation if name in known else type(value)
        kind = described(FieldInfo.from_annotation(annotation))
        yield f"{path}{name}", value, kind, told.get(name, "")


def _meanings_of_choices(settings: Settings, path: str) -> dict[str, str]:
    """The meanings of the fields that the task, or encoders and decoders, bring along."""
    if path == "task.":
        return meanings(task_of(settings))
    if path != "model.":
        return {}
    found: dict[str, str] = {}
    chosen = (decoder_of(settings), encoder_of(settings))
    for part in (*DECODERS.values(), *ENCODERS.values(), *chosen):
        found |= meanings(part)
    return found


def _kind(settings: Settings, field: str, info: FieldInfo) -> str:
    choices = CHOICES.get(field)
    kind = _one_of([*choices, "module:Name"]) if choices else described(info)
    return "; ".join([kind, *_only_with(settings, field)])


def _only_with(settings: Settings, field: str) -> list[str]:
    """The decoders and encoders that have a field of the model, if the chosen ones do not."""
    section, _, name = field.partition(".")
    chosen = (encoder_of(settings), decoder_of(settings))
    if section != "model" or any(name in options_of(part) for part in chosen):
        return []
    kinds: dict[str, Mapping[str, Any]] = {"encoder": ENCODERS, "decoder": DECODERS}
    able = [
        f"{part} {' or '.join(names)}"
        for part, parts in kinds.items()
        if (names := [each for each, made in parts.items() if name in options_of(made)])
    ]
    return [f"only with {', '.join(able)}"] if able else []


def described(info: FieldInfo) -> str:
    """The type of a field with its range, in words: `int from 1 to 1024`."""
    bounds = [
        words.format(_plain(getattr(bound, name)))
        for name, words in BOUNDS.items()
        for bound in info.metadata
        if getattr(bound, name, None) not in (None, LARGEST, LARGEST_FLOAT)
    ]
    return " ".join([_type(info.annotation), *bounds])


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return _one_of(arguments)
    if origin in (Union, UnionType):
        return " or ".join("nothing" if each is type(None) else _type(each) for each in arguments)
    if origin is tuple:
        return f"any number of {_type(arguments[0])}"
    return getattr(annotation, "__name__", str(annotation))


def _one_of(choices: Iterable[Any]) -> str:
    return f"one of {', '.join(map(str, choices))}"


def _plain(value: Any) -> str:
    if isinstance(value, int) and value >= 2**20:
        return f"2**{value.bit_length() - 1}" if value.bit_count() == 1 else str(value)
    return str(value)


def _entry(field: str, value: Any, kind: str, meaning: str) -> str:
    flag = f"  --config.{field}={_typed(value)}"
    lines = [part for text in (kind, meaning) if text for part in _wrapped(text)]
    return "\n".join([flag, *lines])


def _typed(value: Any) -> str:
    """A value as a person types it in a flag."""
    return "" if value is None else str(value).replace(", ", ",")


def _wrapped(text: str) -> list[str]:
    margin = " " * 6
    return textwrap.wrap(
        text, WIDTH, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False
    )
