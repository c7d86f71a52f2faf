"""Digits: classify images by what is in their patches.

scikit-learn's 1,797 handwritten digits of 8 × 8 pixels, 0 to 16 (the test set of Alpaydin and
Kaynak's Optical Recognition of Handwritten Digits, UCI 1998). With patches of 4 × 4 pixels, the
digit 7 is

    source     4 real vectors of 16 pixels, 0 to 1: upper left, upper right, lower left, lower right
    target     7
    alignment  −1

There is no `END`: every image has the same number of patches, and a single class.

A hash of image and class decides the split, so that equal images fall into the same split: 1,258
images are to train, 176 to validate and 363 to test.
"""

import io
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from attention.lab.tasks.batch import RESERVED, Batch
from attention.lab.tasks.packaged import missing
from attention.lab.tasks.split import split
from attention.lab.tasks.task import Pixels, Task, TaskSettings
from attention.pytrees import register_dataclass, static

SIDE = 8  # pixels, of a square image
BRIGHTEST = 16  # the largest value of a pixel

VALIDATION_FRACTION = 0.1  # of the images
TEST_FRACTION = 0.2  # of the images


@register_dataclass
@dataclass(frozen=True)
class Images:
    """Images and the digits they show.

    Attributes:
      pixels: brightness, from 0 to 16.
      digit: the digit that each image shows, from 0 to 9.
    """

    pixels: UInt8[Array, "images 8 8"]
    digit: UInt8[Array, " images"]


class DigitsSettings(TaskSettings):
    """What a config says of the images: the size of the patches that they are cut into.

    Attributes:
      patch: side of a square patch, in pixels; an image has 8 × 8.
    """

    patch: Literal[1, 2, 4] = 2

    @property
    def max_length(self) -> int:
        """Number of patches in an image."""
        return (SIDE // self.patch) ** 2


@register_dataclass
@dataclass(frozen=True)
class Digits(Task):
    """Classify images, which are split into training, validation and test images.

    Attributes:
      train: images to learn from.
      validation: images for early stopping.
      test: images for the final evaluation.
      patch: side of a square patch, in pixels.
    """

    train: Images
    validation: Images
    test: Images
    patch: int = static()

    encoder = "patches"
    classifier = True
    pictured = 9

    @classmethod
    def settings(cls) -> type[TaskSettings]:
        return DigitsSettings

    @classmethod
    def source(cls, settings: DigitsSettings) -> bytes:
        """The images that scikit-learn ships.

        Raises:
          ValueError: scikit-learn is not installed.
        """
        try:
            return packaged_digits()
        except ModuleNotFoundError as error:
            raise ValueError(missing(settings.name, error)) from None

    @classmethod
    def build(cls, settings: DigitsSettings, source: bytes | None) -> "Digits":
        """The task of the images in `source`.

        Raises:
          ValueError: there are too few images to split.
        """
        assert source is not None
        try:
            return read_digits(source, settings.patch)
        except ValueError as error:
            raise ValueError(f"name={settings.name!r}: {error}") from None

    @property
    def vocabulary(self) -> int:
        """Number of tokens: the digits and the reserved tokens."""
        return 10 + RESERVED

    @property
    def patch_dim(self) -> int:
        """Number of pixels in a patch."""
        return self.patch**2

    @property
    def source_features(self) -> int:
        """Size of a source's vectors: the number of pixels in a patch."""
        return self.patch_dim

    @property
    def grid(self) -> tuple[int, int]:
        """How many rows and how many columns of patches an image has."""
        return SIDE // self.patch, SIDE // self.patch

    @property
    def max_length(self) -> int:
        """Number of patches in every image."""
        return (SIDE // self.patch) ** 2

    @property
    def source_time(self) -> int:
        """Source steps of every batch: the patches of an image."""
        return self.max_length

    @property
    def target_time(self) -> int:
        """Target steps of every batch: a single step, for the digit."""
        return 1

    @property
    def disjoint(self) -> bool:
        """Always: the images of the splits are others."""
        return True

    def sample(self, key: Key[Array, ""], size: int) -> Batch:
        """`size` training images, drawn with replacement."""
        rows = jax.random.randint(key, (size,), 0, self.train.digit.shape[0])
        return self._batch(self.train, rows)

    def held_out(
        self, split: str, key: Key[Array, ""], size: int, length: int | None = None
    ) -> Batch:
        """The first `size` images of a split; none if `length` is not their number of patches."""
        del key  # the split is fixed
        images: Images = getattr(self, split)
        rows = images.digit.shape[0] if length in (None, self.max_length) else 0
        return self._batch(images, jnp.arange(min(rows, size)))

    def images(
        self, source: Float[Array, "batch patches patch_dim"]
    ) -> Float[Array, "batch height width"]:
        """Whole images, put together from their patches: brightness from 0 to 1."""
        steps = SIDE // self.patch
        patches = source.reshape(-1, steps, steps, self.patch, self.patch)
        return patches.swapaxes(2, 3).reshape(-1, SIDE, SIDE)

    def picture(
        self, batch: Batch, weights: Float[np.ndarray, "examples heads queries keys"]
    ) -> Pixels:
        """The images, each above maps of its patches' weights, a map for each head."""
        from attention.lab.analysis.figures import pooling_maps  # takes Pillow, which takes time

        patches = weights[:, :, 0].reshape(*weights.shape[:2], *self.grid)
        return pooling_maps(np.asarray(self.images(batch.source)), patches)

    def _batch(self, images: Images, rows: Int[Array, " rows"]) -> Batch:
        pixels = images.pixels[rows].astype(jnp.float32) / BRIGHTEST
        size, steps = rows.shape[0], SIDE // self.patch
        patches = pixels.reshape(size, steps, self.patch, steps, self.patch).swapaxes(2, 3)
        digit = images.digit[rows].astype(jnp.int32) + RESERVED
        return Batch(
            source=patches.reshape(size, self.max_length, self.patch_dim),
            source_length=jnp.full(size, self.max_length),
            target=digit[:, None],
            target_length=jnp.ones(size, jnp.int32),
            alignment=jnp.full((size, 1), -1),
        )


def packaged_digits() -> bytes:
    """The images that scikit-learn ships, as text: a line of 64 pixels and the digit per image.

    Raises:
      ModuleNotFoundError: scikit-learn is not installed.
    """
    from sklearn.datasets import load_digits

    pixels, digit = load_digits(return_X_y=True)
    lines = io.BytesIO()
    np.savetxt(lines, np.column_stack([pixels, digit]), fmt="%d", delimiter=",")
    return lines.getvalue()


def read_digits(data: bytes, patch: int) -> Digits:
    """The task of a table of images.

    Args:
      data: lines of 64 pixels, row by row, and the digit, separated by commas.
      patch: side of a patch, in pixels.

    Raises:
      ValueError: there are too few images to split.
    """
    lines = data.splitlines()
    numbers = split(lines, validation=VALIDATION_FRACTION, test=TEST_FRACTION)
    return Digits(
        **{name: _images([lines[n] for n in rows]) for name, rows in numbers.items()}, patch=patch
    )


def _images(lines: list[bytes]) -> Images:
    table = np.array([line.split(b",") for line in lines]).astype(np.uint8)
    return Images(jnp.asarray(table[:, :-1].reshape(-1, SIDE, SIDE)), jnp.asarray(table[:, -1]))
