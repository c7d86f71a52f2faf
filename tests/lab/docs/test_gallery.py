"""The gallery of scores: no score can be missed, and what is said of one is so."""

from pathlib import Path

import pytest
from flax import nnx

from attention.lab.docs import gallery
from attention.lab.docs.pictures import draw_score, draw_trained
from attention.scores import SCORES, Score

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture(scope="module")
def page():
    return gallery.page()


def test_the_page_in_docs_is_that_of_the_scores_there_are(page):
    written = (DOCS / "scores.md").read_text(encoding="utf-8")
    assert written == page, "run python scripts/docs.py"


@pytest.mark.parametrize("name", SCORES)
def test_each_score_has_an_entry_and_a_picture(name, page):
    assert f"\n## {name}\n" in page
    assert (DOCS / "scores" / f"{name}.png").exists(), "run python scripts/docs.py"


def test_scores_of_the_key_alone_are_said_to_ignore_the_query(page):
    entries = page.split("\n## ")[1:]
    ignoring = [entry.split("\n")[0] for entry in entries if "Ignores the query" in entry]
    assert ignoring == ["uniform", "linear", "mlp_pooling"]


def test_what_is_learned_is_told_with_its_shape(page):
    assert "Learned: `bias` `[hidden]`, `key_weight` `[key_dim, hidden]`," in page
    assert "Learned: `log_gamma` (a number)." in page
    assert "Option `hidden`, by default 64: number of hidden units." in page


def test_a_score_whose_docstring_has_no_equation_is_refused(monkeypatch):
    class Plain(Score):
        """Says nothing."""

        def __init__(self, query_dim, key_dim, *, rngs):
            self.weight = nnx.Param(rngs.params.normal((key_dim,)))

        def __call__(self, query, key):
            return key @ self.weight[...]

    monkeypatch.setattr(gallery, "SCORES", {"plain": Plain})
    with pytest.raises(ValueError, match="Plain: the docstring must begin with"):
        gallery.page()


def test_pictures_are_drawn(tmp_path):
    draw_score("gatv2", tmp_path / "gatv2.png")
    tiny = {"train.steps": 2, "train.batch_size": 3, "model.dim": 5, "eval.sequences": 7}
    draw_trained({"dot": "one"}, tmp_path / "trained.png", tiny)
    for file in tmp_path.iterdir():
        assert file.read_bytes().startswith(b"\x89PNG")
        assert file.stat().st_size < 20_000
