import numpy as np
import pytest
from PIL import Image

from attention.lab.analysis.figures import CELL, GAP, LABEL, attention_maps, pooling_maps, save_png

BRIGHT, DARK, WHITE = (252, 253, 191), (0, 0, 4), (255, 255, 255)
SIZE = 5


def draw(weights, alignment=None, steps=SIZE, tokens=SIZE):
    """The maps of one example."""
    weights = np.asarray(weights, float).reshape(1, -1, SIZE, SIZE)
    alignment = np.full((1, SIZE), -1) if alignment is None else np.asarray([alignment])
    return attention_maps(weights, alignment, np.array([steps]), np.array([tokens]))


def pixel(pixels, query, key, head=0, dx=CELL // 2, dy=CELL // 2):
    """The colour within the cell of a query and a key; its middle, if not said otherwise."""
    left = head * (SIZE * CELL + GAP) + key * CELL
    return tuple(pixels[LABEL + query * CELL + dy, left + dx].tolist())


def test_rows_are_queries_columns_keys_and_weight_is_bright():
    weights = np.zeros((SIZE, SIZE))
    weights[1, 3] = 1.0
    pixels = draw(weights)
    assert pixel(pixels, 1, 3) == BRIGHT
    assert {pixel(pixels, q, k) for q in range(SIZE) for k in range(SIZE) if (q, k) != (1, 3)} == {
        DARK
    }


def test_more_weight_is_brighter():
    weights = np.zeros((SIZE, SIZE))
    weights[0] = np.linspace(0, 1, SIZE)
    brightness = [sum(pixel(draw(weights), 0, key)) for key in range(SIZE)]
    assert brightness == sorted(set(brightness))


def test_each_head_has_its_map_from_left_to_right():
    weights = np.zeros((2, SIZE, SIZE))
    weights[1, 0, 0] = 1.0
    pixels = draw(weights)
    assert (pixel(pixels, 0, 0, head=0), pixel(pixels, 0, 0, head=1)) == (DARK, BRIGHT)
    assert pixels.shape == (LABEL + SIZE * CELL + GAP, 2 * (SIZE * CELL + GAP), 3)


def test_the_gold_source_token_is_framed():
    pixels = draw(np.zeros((SIZE, SIZE)), alignment=[2, 0, -1, 4, -1])
    framed = {
        (q, k)
        for q in range(SIZE)
        for k in range(SIZE)
        if all(
            pixel(pixels, q, k, dx=dx, dy=dy) not in (DARK, WHITE)
            for dx, dy in [(0, 0), (CELL - 1, CELL - 1), (CELL // 2, 0), (0, CELL // 2)]
        )
    }
    assert framed == {(0, 2), (1, 0), (3, 4)}
    assert pixel(pixels, 0, 2) == DARK  # a frame hides no weight


@pytest.mark.parametrize(("steps", "tokens"), [(4, 4), (4, 5), (5, 4), (5, 5)])
def test_only_what_counts_is_drawn(steps, tokens):
    pixels = draw(np.zeros((SIZE, SIZE)), alignment=range(SIZE), steps=steps, tokens=tokens)
    assert pixels.shape == (LABEL + steps * CELL + GAP, tokens * CELL + GAP, 3)


def test_examples_of_different_lengths_are_stacked_and_padded_with_white():
    weights = np.zeros((2, 1, SIZE, SIZE))
    length = np.array([5, 4])
    pixels = attention_maps(weights, np.full((2, SIZE), -1), length, length)
    first = LABEL + 5 * CELL + GAP
    assert pixels.shape == (first + LABEL + 4 * CELL + GAP, 5 * CELL + GAP, 3)
    assert tuple(pixels[first + LABEL, 0]) == DARK
    assert tuple(pixels[first + LABEL, 4 * CELL + GAP + 1]) == WHITE


def test_a_picture_survives_its_file(tmp_path):
    pixels = draw(np.eye(SIZE), alignment=range(SIZE))
    save_png(pixels, tmp_path / "maps.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "maps.png")), pixels)


# Images

IMAGE = np.zeros((8, 8))
IMAGE[0, 7] = 1.0


def over_image(pixels, head, row, column):
    """The colour in the middle of a patch of 4 × 4 pixels, of the only example."""
    top = (1 + head) * (LABEL + 8 * CELL + GAP) + LABEL + row * 4 * CELL
    return pixels[top + CELL // 2, column * 4 * CELL + CELL // 2].tolist()


def test_the_image_is_above_and_dark_where_it_is_one():
    pixels = pooling_maps(IMAGE[None], np.full((1, 1, 2, 2), 0.25))
    assert pixels.shape == (2 * (LABEL + 8 * CELL + GAP), 8 * CELL + GAP, 3)
    middle = slice(CELL // 2, 8 * CELL, CELL)
    shown = pixels[LABEL : LABEL + 8 * CELL][middle, middle]
    np.testing.assert_array_equal(shown, np.repeat(255 * (1 - IMAGE)[..., None], 3, axis=-1))


def test_each_head_has_its_map_of_patches_over_the_image():
    """0.7 of the colour of the weight and 0.3 of the image, which is white at these pixels."""
    weights = np.zeros((1, 2, 2, 2))
    weights[0, 0, 1, 0], weights[0, 1] = 0.5, 0.25
    pixels = pooling_maps(IMAGE[None], weights)
    dark, bright = (
        np.round(0.7 * np.array(c) + 0.3 * np.array(WHITE)).tolist() for c in (DARK, BRIGHT)
    )
    cells = [(row, column) for row in range(2) for column in range(2)]
    assert [over_image(pixels, 0, *cell) for cell in cells] == [dark, dark, bright, dark]
    assert [over_image(pixels, 1, *cell) for cell in cells] == [bright] * 4


def test_images_stand_side_by_side():
    weights = np.random.default_rng(0).uniform(size=(3, 1, 2, 2))
    images = np.random.default_rng(1).uniform(size=(3, 8, 8))
    together = pooling_maps(images, weights)
    for n, column in enumerate(np.split(together, 3, axis=1)):
        alone = pooling_maps(images[n : n + 1], weights[n : n + 1])
        np.testing.assert_array_equal(column, alone)
