import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import assert_same_bits, sample

from attention.lab.tasks.batch import RESERVED
from attention.lab.tasks.digits import BRIGHTEST, packaged_digits, read_digits

SPLITS = ("train", "validation", "test")
# Image n has the pixels n, n + 1, … modulo 17, which no other has; its digit is n modulo 10.
PIXELS = [[(n + i * (1 + n // 17)) % 17 for i in range(64)] for n in range(61)]
DATA = b"\n".join(b",".join(b"%d" % p for p in [*row, n % 10]) for n, row in enumerate(PIXELS))


def task_of(patch=2):
    return read_digits(DATA, patch)


@functools.cache
def packaged():
    return packaged_digits()


def test_patches_are_blocks_of_pixels_row_by_row():
    """Of patches of 4 × 4, the second is the upper right quarter and the third the lower left."""
    task = task_of(4)
    batch = task.held_out("test", jax.random.key(0), 1)
    image = np.asarray(task.test.pixels[0]) / BRIGHTEST
    quarters = [image[:4, :4], image[:4, 4:], image[4:, :4], image[4:, 4:]]
    np.testing.assert_allclose(batch.source[0], [q.ravel() for q in quarters], rtol=1e-6)
    np.testing.assert_array_equal(batch.source_length, [4])
    np.testing.assert_array_equal(batch.target, [[int(task.test.digit[0]) + RESERVED]])
    np.testing.assert_array_equal(batch.target_length, [1])
    np.testing.assert_array_equal(batch.alignment, [[-1]])


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_the_patches_of_an_image_make_it_again(patch):
    task = task_of(patch)
    assert task.grid == (8 // patch, 8 // patch)
    assert (task.source_time, task.patch_dim) == (64 // patch**2, patch**2)
    batch = task.held_out("train", jax.random.key(0), 1000)
    assert batch.source.shape[1:] == (task.source_time, task.patch_dim)
    np.testing.assert_allclose(
        task.images(batch.source), np.asarray(task.train.pixels) / BRIGHTEST, rtol=1e-6
    )


def test_every_image_falls_into_one_split_with_its_digit():
    task = task_of()
    found = [
        (*pixels.ravel().tolist(), int(digit))
        for split in (getattr(task, name) for name in SPLITS)
        for pixels, digit in zip(np.asarray(split.pixels), np.asarray(split.digit), strict=True)
    ]
    assert sorted(found) == sorted((*row, n % 10) for n, row in enumerate(PIXELS))


def test_samples_are_training_images():
    task = task_of()
    batch = sample(task, jax.random.key(0), 499)
    everything = task.held_out("train", jax.random.key(0), 1000)

    def rows(batch):
        pairs = zip(np.asarray(batch.source), np.asarray(batch.target), strict=True)
        return {(source.tobytes(), target.tobytes()) for source, target in pairs}

    assert rows(batch) == rows(everything)
    assert_same_bits(sample(task, jax.random.key(1), 7), sample(task, jax.random.key(1), 7))


def test_all_images_are_of_one_length():
    task = task_of()
    images = len(task.test.digit)
    for length, rows in [(None, images), (16, images), (15, 0)]:
        assert len(task.held_out("test", jax.random.key(0), 1000, length).target) == rows
    assert len(task.held_out("test", jax.random.key(0), 3).target) == 3


def test_the_split_of_the_real_images_is_as_written_down():
    task = read_digits(packaged(), 2)
    assert [len(getattr(task, split).digit) for split in SPLITS] == [1258, 176, 363]
    assert set(np.asarray(task.test.digit).tolist()) == set(range(10))
    assert int(jnp.max(task.train.pixels)) == BRIGHTEST


def test_a_real_image_is_a_line_of_pixels_and_its_digit():
    """The first image is a zero, and its upper rows begin so."""
    first = packaged().splitlines()[0].split(b",")
    assert (len(first), first[-1]) == (65, b"0")
    assert first[:16] == b"0,0,5,13,9,1,0,0,0,0,13,15,10,15,5,0".split(b",")
