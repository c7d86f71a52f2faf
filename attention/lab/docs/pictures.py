"""The pictures of `docs/`, which take the extra `figures`."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float
from PIL import Image
from rich.console import Console

from attention.forms import form_of
from attention.lab.configs import change, load, read_config
from attention.lab.repository import ROOT
from attention.lab.training.build import build, read_source
from attention.lab.training.evaluate import Evaluator, parameters_of
from attention.lab.training.loop import train
from attention.lab.training.state import restored_state
from attention.scores import SCORES

LENGTH = 12  # of the sequence in the picture of trained scores


def draw_score(name: str, file: Path) -> None:
    """Draws a score at the start of training, for vectors of two dimensions.

    Args:
      name: a key of `SCORES`.
      file: of the picture, a PNG.
    """
    pyplot = _pyplot()
    make: Any = SCORES[name]
    score = make(2, 2, rngs=nnx.Rngs(0))
    ticks = np.linspace(-3, 3, 81)
    plane = jnp.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    query = jnp.array([1.5, 1.0])
    scores = form_of(score, query[None], plane).scores().reshape(len(ticks), len(ticks))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(5.2, 2.7), dpi=100)
    reach = max(float(jnp.abs(scores).max()), 1e-6)
    left.contourf(ticks, ticks, scores, np.linspace(-reach, reach, 18), cmap="RdBu_r")
    left.annotate("", query, (0, 0), arrowprops={"arrowstyle": "->", "lw": 2})
    left.set(title="score of a key", aspect="equal", xticks=[], yticks=[])
    weights = jax.nn.softmax(form_of(score, _circle(), _circle()).scores(), axis=-1)
    right.imshow(weights, cmap="magma", vmin=0, vmax=float(weights.max()))
    right.set(title="weights", xlabel="angle of the key", ylabel="angle of the query")
    right.set(xticks=[], yticks=[])
    _save(figure, file)


def _circle(count: int = 48, radius: float = 2.0) -> Float[Array, "angles 2"]:
    angles = 2 * jnp.pi * jnp.arange(count) / count
    return radius * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def draw_trained(
    scores: Mapping[str, str], file: Path, changes: Mapping[str, Any] | None = None
) -> None:
    """Trains the copy task by each of some scores, and draws where each then looks.

    Args:
      scores: the title of each map, by the name of its score.
      file: of the picture, a PNG.
      changes: of fields of `configs/copy.py`, by their dotted paths.
    """
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(1, len(scores), figsize=(8.4, 3.3), dpi=100, squeeze=False)
    for axis, (name, title) in zip(axes[0], scores.items(), strict=True):
        axis.imshow(_trained_weights(name, changes or {}), cmap="magma", vmin=0, vmax=1)
        axis.set_title(title, fontsize=10)
        axis.set(xlabel="input position", xticks=[0, 4, 8, 12], yticks=[0, 4, 8, 12])
    axes[0, 0].set(ylabel="output position")
    _save(figure, file)


def _trained_weights(score: str, changes: Mapping[str, Any]) -> Float[np.ndarray, "queries keys"]:
    """The weights that a score gives to a test sequence, trained by `configs/copy.py`."""
    config = load(str(ROOT / "configs" / "copy.py"), score)
    change(config, {"eval.sequences": 128, "eval.lengths": (), **changes})
    settings = read_config(config)
    with TemporaryDirectory() as workdir:
        train(settings, Path(workdir) / "run", Console(quiet=True))
        experiment = build(settings, read_source(settings))
        state = restored_state(Path(workdir) / "run" / "checkpoints", experiment)
        parameters = jax.tree.map(jnp.asarray, parameters_of(state, 0))
    batch = experiment.task.held_out("test", jax.random.key(settings.seed), 1, LENGTH)
    weights = Evaluator(experiment).reconstruct(parameters, batch).weights
    return np.asarray(weights)[0, 0, : LENGTH + 1, : LENGTH + 1]


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, file: Path) -> None:
    """Writes a figure as a PNG of 64 colours, which is a third of the size."""
    figure.tight_layout()
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    _pyplot().close(figure)
    Image.fromarray(pixels).quantize(64).save(file, optimize=True)
