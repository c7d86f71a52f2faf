import unicodedata

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import assert_same_bits, sample

from attention.lab.tasks.batch import END, PAD, RESERVED
from attention.lab.tasks.text import SHIPPED_TEXT, as_read, decode, encode, read_text

LINES = [f"{word} {number}" for word in ("née", "ab", "c", "日本") for number in range(10)]
TEXT = "\n".join(LINES).encode()
MAX_LENGTH = 8
SPLITS = ("train", "validation", "test")


def lines_of(split):
    return [
        row[:size].tobytes().decode()
        for row, size in zip(np.asarray(split.bytes), np.asarray(split.length), strict=True)
    ]


def all_lines(text):
    return [line for split in SPLITS for line in lines_of(getattr(text, split))]


def pieces(batch):
    """The rows of a batch as bytes, without `END`."""
    return [
        (row[: size - 1] - RESERVED).astype(np.uint8).tobytes()
        for row, size in zip(np.asarray(batch.source), np.asarray(batch.source_length), strict=True)
    ]


@pytest.fixture(scope="module")
def text():
    return read_text(TEXT, MAX_LENGTH, crop_fraction=0.5)


def test_the_example_of_the_docstring():
    batch = encode("né", 4)
    tokens = [0x6E + RESERVED, 0xC3 + RESERVED, 0xA9 + RESERVED, END, PAD]
    np.testing.assert_array_equal(batch.source, [tokens])
    np.testing.assert_array_equal(batch.target, [tokens])
    np.testing.assert_array_equal(batch.alignment, [[0, 1, 2, 3, -1]])


def test_every_line_falls_into_one_split(text):
    assert sorted(all_lines(text)) == sorted(LINES)
    assert [len(lines_of(getattr(text, split))) for split in SPLITS] == [32, 4, 4]


def test_repetitions_are_dropped_before_the_split():
    repeated = read_text(TEXT + b"\n" + TEXT, MAX_LENGTH)
    assert sorted(all_lines(repeated)) == sorted(LINES)


SAME = {
    "trailing blanks": "{}  ",
    "a tab": "{}\t",
    "indent": "    {}",
    "blanks between words": "{}",
    "a byte order mark": "\ufeff{}",
    "a space of no width": "{}\u200b",
}


@pytest.mark.parametrize("form", SAME.values(), ids=list(SAME))
def test_lines_that_a_reader_takes_for_the_same_are_one(text, form):
    others = [form.format(line).replace(" ", "  ") for line in LINES]
    again = read_text("\n".join([*others, *LINES]).encode(), 80)
    for split in SPLITS:
        assert lines_of(getattr(again, split)) == lines_of(getattr(text, split))
    assert again.alike == len(LINES)
    assert "; 40 dropped that only look different" in again.summary()


def test_letter_case_and_the_forms_of_unicode_make_no_other_line(text):
    decomposed, wide = (
        [unicodedata.normalize("NFD", line.upper()) for line in LINES],
        ["".join(chr(ord(c) + 0xFEE0) if c.isdigit() else c for c in line) for line in LINES],
    )
    again = read_text("\n".join([*wide, *LINES, *decomposed]).encode(), 80)
    read = {
        split: {as_read(line.encode()) for line in lines_of(getattr(again, split))}
        for split in SPLITS
    }
    assert sum(map(len, read.values())) == len(set.union(*read.values())) == len(LINES)
    # In upper case: of 日本, the line itself. In wide digits: all.
    assert again.alike == 10 + 10 + 10 + 40
    assert "dropped" not in text.summary()


def test_a_mark_at_the_beginning_of_a_file_is_no_part_of_its_first_line(text):
    marked = read_text(b"\xef\xbb\xbf" + TEXT, MAX_LENGTH)
    assert sorted(all_lines(marked)) == sorted(LINES)
    assert marked.alike == 0


def test_the_split_of_a_line_depends_on_nothing_but_the_lines(text):
    shuffled = "\n".join(reversed(LINES)).encode()
    again = read_text(shuffled, MAX_LENGTH)
    for split in SPLITS:
        assert lines_of(getattr(again, split)) == lines_of(getattr(text, split))


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_line_endings_are_no_part_of_a_line(text, ending):
    other = read_text(TEXT.replace(b"\n", ending) + ending, MAX_LENGTH)
    assert sorted(all_lines(other)) == sorted(LINES)


def test_empty_and_blank_lines_are_dropped():
    assert sorted(all_lines(read_text(b"a\n\nb\n   \nc\n\t\n", 5))) == ["a", "b", "c"]


def test_lines_that_are_too_long_are_counted_and_left_out():
    """Counted in bytes, once each."""
    text = read_text("four\na\nb\n日本\n日本\nfives\nab".encode(), 4)
    assert text.left_out == 2
    assert sorted(all_lines(text)) == ["a", "ab", "b", "four"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 of 0 distinct lines"),
        (b"\n \n", "0 of 0 distinct lines"),
        (b"a\nb\na\n", "2 of 2 distinct lines"),
        (b"a\nb\ntoo long", "2 of 3 distinct lines have at most 4 bytes"),
        (b"a\nb\nc\n\xe6\x97", "not UTF-8: unexpected end of data at byte 6"),
        ("é\n".encode("latin-1"), "not UTF-8: .* at byte 0"),
        ("a\nb\nc".encode("utf-16"), "not UTF-8: invalid start byte at byte 0"),
    ],
)
def test_a_text_that_cannot_be_used_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        read_text(data, 4)


def test_three_lines_are_enough():
    text = read_text(b"a\nb\nc", 4)
    assert [len(lines_of(getattr(text, split))) for split in SPLITS] == [1, 1, 1]


def test_the_shipped_text_can_be_split():
    text = read_text(SHIPPED_TEXT.read_bytes(), 80)
    assert len(lines_of(text.test)) > 100
    assert text.left_out < len(all_lines(text)) / 100


def test_training_examples_are_pieces_of_training_lines(text):
    train = [line.encode() for line in lines_of(text.train)]
    drawn = pieces(sample(text, jax.random.key(0), 499))
    assert all(any(piece in line for line in train) for piece in drawn)
    assert all(drawn)


@pytest.mark.parametrize(("fraction", "low", "high"), [(0.0, 0, 0), (0.5, 0.3, 0.5), (1.0, 0.6, 1)])
def test_a_share_of_the_training_examples_are_crops(fraction, low, high):
    text = read_text(TEXT, MAX_LENGTH, crop_fraction=fraction)
    train = set(lines_of(text.train))
    drawn = pieces(sample(text, jax.random.key(0), 499))
    share = np.mean([piece.decode(errors="replace") not in train for piece in drawn])
    assert low <= share <= high


def test_crops_begin_and_end_anywhere():
    text = read_text(b"abcd\nabcde\nabcdef", 6, crop_fraction=1.0)
    (line,) = [line.encode() for line in lines_of(text.train)]
    every = {line[i:j] for i in range(len(line)) for j in range(i + 1, len(line) + 1)}
    assert set(pieces(sample(text, jax.random.key(0), 1999))) == every


def test_the_same_key_gives_the_same_batch_and_another_does_not(text):
    first, again, other = (sample(text, jax.random.key(n), 31) for n in (0, 0, 1))
    assert_same_bits(first, again)
    assert pieces(first) != pieces(other)


def test_held_out_lines_are_those_of_the_split(text):
    for split in ("validation", "test"):
        batch = text.held_out(split, jax.random.key(0), 1000)
        assert [piece.decode() for piece in pieces(batch)] == lines_of(getattr(text, split))


def test_no_more_held_out_lines_than_asked_for(text):
    assert len(pieces(text.held_out("test", jax.random.key(0), 3))) == 3


@pytest.mark.parametrize("length", range(1, MAX_LENGTH + 1))
def test_held_out_lines_of_one_length_are_all_there_are_of_it(text, length):
    batch = text.held_out("test", jax.random.key(0), 1000, length)
    expected = [line for line in lines_of(text.test) if len(line.encode()) == length]
    assert [piece.decode() for piece in pieces(batch)] == expected


@pytest.mark.parametrize("line", ["a", "née", "日本", "a 😀 b", "\x00\x7f"])
def test_a_line_survives_encoding_and_decoding(line):
    batch = encode(line, 13)
    assert int(batch.source_length[0]) == len(line.encode()) + 1
    assert decode(np.asarray(batch.target[0])) == line


@pytest.mark.parametrize(("line", "size"), [("", 0), ("日本", 6)])
def test_a_line_that_does_not_fit_is_refused(line, size):
    with pytest.raises(ValueError, match=f"{size} bytes long; the model takes 1 to 5"):
        encode(line, 5)


def test_decoding_stops_at_the_end_and_shows_what_is_no_text():
    a, half_of_e = ord("a") + RESERVED, 0xC3 + RESERVED
    assert decode(np.array([a, half_of_e, a, END, a])) == "a�a"
    assert decode(np.array([a, PAD, a])) == "aa"
    assert decode(np.array([END])) == ""


def test_the_vocabulary_holds_every_byte():
    text = read_text(b"a\nb\nc", 4)
    batch = text.train.batch(jnp.arange(1))
    assert text.vocabulary == 256 + RESERVED
    assert int(batch.source.max()) < text.vocabulary
