"""Text: reconstruct the lines of a UTF-8 file, byte by byte.

The line `né` is the three bytes 6e c3 a9; with `max_length` 4,

    source     6e c3 a9 END PAD
    target     6e c3 a9 END PAD
    alignment   0  1  2  3   −1
"""

import codecs
import hashlib
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, UInt8
from pydantic import Field

from attention.lab.tasks.batch import END, PAD, RESERVED, Batch, reconstruction
from attention.lab.tasks.task import ClosedTask, TaskSettings
from attention.pytrees import register_dataclass, static

# The Declaration of Independence and the Constitution of the United States (public domain).
SHIPPED_TEXT = Path(__file__).with_name("founding_documents.txt")

HELD_OUT_FRACTION = 0.1  # of the lines, for validation; as many again for the test


@register_dataclass
@dataclass(frozen=True)
class Lines:
    """Lines as padded bytes, and their lengths in bytes."""

    bytes: UInt8[Array, "lines max_length"]
    length: Int[Array, " lines"]

    def batch(self, rows: Int[Array, " rows"]) -> Batch:
        """The lines in these rows, as sequences to reconstruct."""
        return _batch(self.bytes[rows], self.length[rows])


class TextSettings(TaskSettings):
    """What a config says of the text.

    Attributes:
      path: path of a UTF-8 file; empty for the text that is shipped with the package.
      max_length: greatest length of a line, in bytes; longer lines are left out.
      crop_fraction: share of the training examples that are pieces of a line.
    """

    path: str = ""
    max_length: Annotated[int, Field(ge=1, le=1024)] = 80
    crop_fraction: Annotated[float, Field(ge=0, le=1)] = 0.5


@register_dataclass
@dataclass(frozen=True)
class Text(ClosedTask):
    """Reconstruct the distinct lines of a text, split into training, validation and test lines.

    Attributes:
      train: lines to learn from.
      validation: lines for early stopping.
      test: lines for the final evaluation.
      max_length: greatest length of a line, in bytes.
      left_out: number of distinct lines longer than that.
      alike: number of lines that were dropped, for to a reader they equal another line.
      crop_fraction: share of the training examples that are pieces of a line.
    """

    train: Lines
    validation: Lines
    test: Lines
    max_length: int = static()
    left_out: int = static()
    alike: int = static(default=0)
    crop_fraction: float = static(default=0.0)

    typed = "lines"

    @classmethod
    def settings(cls) -> type[TaskSettings]:
        return TextSettings

    @classmethod
    def source(cls, settings: TextSettings) -> bytes:
        """The file at the path in the settings, or the shipped text.

        Raises:
          ValueError: the file cannot be read.
        """
        try:
            return Path(settings.path or SHIPPED_TEXT).read_bytes()
        except OSError as error:
            raise ValueError(f"path={settings.path!r}: {error.strerror}") from None

    @classmethod
    def build(cls, settings: TextSettings, source: bytes | None) -> "Text":
        """The task of the text in `source`.

        Raises:
          ValueError: the text is not UTF-8, or has too few lines to split.
        """
        assert source is not None
        try:
            return read_text(source, settings.max_length, settings.crop_fraction)
        except ValueError as error:
            raise ValueError(f"path={settings.path!r}: {error}") from None

    @property
    def vocabulary(self) -> int:
        """Number of tokens: the bytes and the reserved tokens."""
        return 256 + RESERVED

    @property
    def disjoint(self) -> bool:
        """Of whole lines; but a piece of a training line may be a short line of another split."""
        return self.crop_fraction == 0

    def sample(self, key: Key[Array, ""], size: int) -> Batch:
        """`size` training lines, drawn with replacement, some of them cropped.

        A crop is a piece of its line, of a random length and from a random place. The lines of a
        text have few lengths and begin alike; in crops, every byte and the `END` come at every
        position.
        """
        row_key, crop_key, length_key, start_key = jax.random.split(key, 4)
        rows = jax.random.randint(row_key, (size,), 0, self.train.length.shape[0])
        whole = self.train.length[rows]
        is_cropped = jax.random.bernoulli(crop_key, self.crop_fraction, (size,))
        piece = jax.random.randint(length_key, (size,), 1, whole + 1)
        length = jnp.where(is_cropped, piece, whole)
        start = jax.random.randint(start_key, (size,), 0, whole - length + 1)
        # Columns past the line's end wrap around; they lie beyond `length` and do not count.
        columns = (start[:, None] + jnp.arange(self.max_length)[None, :]) % self.max_length
        cropped = jnp.take_along_axis(self.train.bytes[rows], columns, axis=1)
        return _batch(cropped, length)

    def held_out(
        self, split: str, key: Key[Array, ""], size: int, length: int | None = None
    ) -> Batch:
        """The first `size` lines of a split, of exactly `length` bytes if given.

        There may be fewer lines, or none.
        """
        del key  # the split is fixed
        lines: Lines = getattr(self, split)
        rows = np.arange(lines.length.shape[0])
        if length is not None:
            rows = rows[np.asarray(lines.length) == length]
        return lines.batch(jnp.asarray(rows[:size]))

    def summary(self) -> str:
        """How many lines each split has, and how many are left out or dropped."""
        train, validation, test = (
            len(lines.length) for lines in (self.train, self.validation, self.test)
        )
        alike = f"; {self.alike} dropped that only look different" if self.alike else ""
        return (
            f"lines: {train} to train, {validation} to validate, {test} to test;"
            f" {self.left_out} longer than config.task.max_length={self.max_length} bytes left out"
            f"{alike}"
        )

    def encode(self, typed: str) -> Batch:
        return encode(typed, self.max_length)

    def decode(self, tokens: Int[np.ndarray, " time"]) -> str:
        return decode(tokens)

    def symbol(self, token: int) -> str:
        return symbol(token)


def read_text(data: bytes, max_length: int, crop_fraction: float = 0.0) -> Text:
    """The task of a text.

    Empty lines and repetitions are dropped *before* the split, so that no held-out line
    is trained on. A line repeats another if a reader takes them for the same, see `as_read`; the
    shortest of them stays. Lines are split by the order of their hashes, so the same set of lines
    is always split in the same way.

    Args:
      data: a UTF-8 text.
      max_length: longer lines, counted in bytes, are left out.
      crop_fraction: share of the training examples that are pieces of a line.

    Raises:
      ValueError: the data are not UTF-8, or have too few lines to split.
    """
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start}") from None
    readings: dict[str, list[bytes]] = {}
    for line in set(data.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").split(b"\n")):
        readings.setdefault(as_read(line), []).append(line)
    readings.pop("", None)
    distinct = [min(alike, key=lambda line: (len(line), line)) for alike in readings.values()]
    fitting = [line for line in distinct if len(line) <= max_length]
    if len(fitting) < 3:
        raise ValueError(
            f"{len(fitting)} of {len(distinct)} distinct lines have at most {max_length} bytes;"
            " at least 3 are needed to train, validate and test"
        )
    fitting.sort(key=lambda line: hashlib.sha256(line).digest())
    held_out = max(1, round(HELD_OUT_FRACTION * len(fitting)))
    return Text(
        train=_pack(fitting[2 * held_out :], max_length),
        validation=_pack(fitting[:held_out], max_length),
        test=_pack(fitting[held_out : 2 * held_out], max_length),
        max_length=max_length,
        left_out=len(distinct) - len(fitting),
        alike=sum(map(len, readings.values())) - len(readings),
        crop_fraction=crop_fraction,
    )


def as_read(line: bytes) -> str:
    """What a reader makes of a line of UTF-8: lines that differ for no reader are equal.

    Blanks count once between words and not at the ends; upper and lower case are one, and so are
    the ways in which Unicode writes a character; what has no width, such as a byte order mark, is
    nothing.
    """
    visible = (letter for letter in line.decode("utf-8") if unicodedata.category(letter) != "Cf")
    folded = unicodedata.normalize("NFKC", "".join(visible)).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def encode(line: str, max_length: int) -> Batch:
    """A line as a batch of one example.

    Args:
      line: the line, as typed.
      max_length: greatest length of the line, in bytes of UTF-8.

    Raises:
      ValueError: the line is empty or too long.
    """
    data = line.encode("utf-8")
    if not 1 <= len(data) <= max_length:
        raise ValueError(f"{len(data)} bytes long; the model takes 1 to {max_length}")
    return _pack([data], max_length).batch(jnp.arange(1))


def decode(tokens: np.ndarray) -> str:
    """The text of an output, up to its `END`; bytes that are no UTF-8 become �."""
    ends = np.flatnonzero(tokens == END)
    tokens = tokens[: ends[0]] if ends.size else tokens
    return bytes(int(t) - RESERVED for t in tokens if t >= RESERVED).decode("utf-8", "replace")


def symbol(token: int) -> str:
    """A byte as people would name it: as a character if it is a printable one, else in hex."""
    if token < RESERVED:
        return {END: "END", PAD: "PAD"}[token]
    byte = token - RESERVED
    return repr(chr(byte)) if 32 <= byte < 127 else f"{byte:02x}"


def _batch(symbols: UInt8[Array, "size max_length"], length: Int[Array, " size"]) -> Batch:
    return reconstruction(symbols.astype(jnp.int32) + RESERVED, length)


def _pack(lines: list[bytes], max_length: int) -> Lines:
    packed = np.zeros((len(lines), max_length), np.uint8)
    for row, line in zip(packed, lines, strict=True):
        row[: len(line)] = np.frombuffer(line, np.uint8)
    return Lines(jnp.asarray(packed), jnp.asarray([len(line) for line in lines]))
