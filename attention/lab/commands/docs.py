"""Make what docs/ takes from the code: the gallery of scores, and the pictures.

    python scripts/docs.py

Writes scores.md, a picture of each score in scores/, and images/attention.png, for which it trains
three scores on the copy task. Needs the extra `figures`. The site is then built by
`mkdocs build --strict` (extra `docs`).
"""

from typing import NoReturn

from absl import flags

from attention.lab.commands.command_line import refuse, run
from attention.lab.commands.packages import require
from attention.lab.commands.places import folder_for
from attention.lab.docs.gallery import page
from attention.lab.docs.pictures import draw_score, draw_trained
from attention.lab.repository import ROOT
from attention.scores import SCORES

FLAGS = flags.FlagValues()
OUTPUT = flags.DEFINE_string("output", str(ROOT / "docs"), "the folder", flag_values=FLAGS)

TRAINED = {
    "linear": "linear\nwᵀk",
    "mlp": "mlp\nvᵀ tanh(q W + k V + b)",
    "examples.own_score:Distance": "your own, in ten lines\n−‖q W − k‖² / 4",
}


def main() -> NoReturn:
    """Runs the command."""
    run(_write, FLAGS, __doc__)


def _write(rest: list[str]) -> int:
    refuse(rest)
    require("matplotlib", "figures")
    folder = folder_for("--output", OUTPUT.value)
    for name in ("scores", "images"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "scores.md").write_text(page(), encoding="utf-8")
    for name in SCORES:
        draw_score(name, folder / "scores" / f"{name}.png")
    draw_trained(TRAINED, folder / "images" / "attention.png")
    return 0


if __name__ == "__main__":
    main()
