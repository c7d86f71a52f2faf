"""Pictures of attention, as arrays of pixels: for TensorBoard and for PNG files."""

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw

CELL = 14  # pixels, the side of the square that shows one weight
GAP = 10  # pixels between maps
LABEL = 16  # pixels, the height of the line of text above a map

# Dark to bright, close to matplotlib's magma at its quarters.
_COLOURS = np.array(
    [[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]], float
)
_GOLD = (80, 220, 255)

Pixels = UInt8[np.ndarray, "height width 3"]


def attention_maps(
    weights: Float[np.ndarray, "examples heads queries keys"],
    alignment: Int[np.ndarray, "examples queries"],
    target_length: Int[np.ndarray, " examples"],
    source_length: Int[np.ndarray, " examples"],
) -> Pixels:
    """Maps of attention weights: a row of maps for each example, a map for each head.

    A map has a row for each target step (top to bottom) and a column for each source
    token (left to right); black is weight 0, pale yellow is 1; a blue frame is the gold
    source token.

    Args:
      weights: the weights of each example and head.
      alignment: the gold source index of each target step, −1 where there is none.
      target_length: how many target steps of each example to draw.
      source_length: how many source tokens of each example to draw.
    """
    rows = [
        np.concatenate(
            [
                _map(head[:steps, :tokens], gold[:steps], f"head {number}")
                for number, head in enumerate(example)
            ],
            axis=1,
        )
        for example, gold, steps, tokens in zip(
            weights, alignment, target_length, source_length, strict=True
        )
    ]
    width = max(row.shape[1] for row in rows)
    return np.concatenate(
        [
            np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255)
            for row in rows
        ]
    )


def pooling_maps(
    images: Float[np.ndarray, "examples image_height image_width"],
    weights: Float[np.ndarray, "examples heads rows columns"],
) -> Pixels:
    """Where in images a model looks: a column for each example, the image on top, then the heads.

    The map of a head shows the weights of the patches, laid over the image. Pale yellow is the
    largest weight of the map, which the label above it tells; black is weight 0.

    Args:
      images: brightness of each pixel, from 0, shown white, to 1, shown black.
      weights: the weight of each patch; the rows and columns of patches fill the image.
    """
    columns = []
    for image, heads in zip(images, weights, strict=True):
        shown = _stretch(np.repeat(255 * (1 - image)[..., None], 3, axis=-1), image.shape)
        maps = [_panel(shown, "image")]
        for number, head in enumerate(heads):
            heat = _stretch(_colour(head / max(head.max(), 1e-30)), image.shape)
            maps.append(_panel(0.7 * heat + 0.3 * shown, f"head {number}: {head.max():.2f}"))
        columns.append(np.concatenate(maps))
    return np.concatenate(columns, axis=1)


def save_png(pixels: Pixels, path: object) -> None:
    """Writes pixels to a PNG file."""
    Image.fromarray(pixels).save(path, format="PNG")  # type: ignore[arg-type]


def _map(weights: np.ndarray, gold: np.ndarray, label: str) -> np.ndarray:
    queries, keys = weights.shape
    cells = Image.fromarray(_colour(weights)).resize(
        (keys * CELL, queries * CELL), Image.Resampling.NEAREST
    )
    width = max(keys * CELL, 56)
    canvas = Image.new("RGB", (width + GAP, queries * CELL + LABEL + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((0, 2), label, fill="black")
    canvas.paste(cells, (0, LABEL))
    for query, key in enumerate(gold):
        if 0 <= key < keys:
            left, top = key * CELL, LABEL + query * CELL
            draw.rectangle((left, top, left + CELL - 1, top + CELL - 1), outline=_GOLD)
    return np.asarray(canvas)


def _stretch(cells: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Cells enlarged to cover an image of `shape`, of which every pixel is a square of `CELL`."""
    height, width = shape[0] * CELL // cells.shape[0], shape[1] * CELL // cells.shape[1]
    return cells.repeat(height, axis=0).repeat(width, axis=1).astype(float)


def _panel(pixels: np.ndarray, label: str) -> np.ndarray:
    height, width, _ = pixels.shape
    canvas = Image.new("RGB", (width + GAP, height + LABEL + GAP), "white")
    ImageDraw.Draw(canvas).text((0, 2), label, fill="black")
    canvas.paste(Image.fromarray(pixels.round().astype(np.uint8)), (0, LABEL))
    return np.asarray(canvas)


def _colour(weights: np.ndarray) -> np.ndarray:
    stops = np.linspace(0, 1, len(_COLOURS))
    channels = [np.interp(weights, stops, _COLOURS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)
