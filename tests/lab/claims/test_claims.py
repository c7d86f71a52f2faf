"""That the experiments are what the claims need, and that findings say what the numbers say."""

import dataclasses
from pathlib import Path

import pytest
from invented import results_for

from attention.lab.claims import CLAIMS, length, long_range, recurrence, score_grid
from attention.lab.claims.claim import Claim
from attention.lab.claims.experiments import folder
from attention.lab.claims.size import FULL, QUICK
from attention.lab.errors import UsageError
from attention.lab.training.build import build, read_source

pytestmark = pytest.mark.usefixtures("drawn")
SIZES = pytest.mark.parametrize("size", [QUICK, FULL], ids=lambda size: size.name)
FIGURES = Path("claims")


def experiments(size):
    claims = [claim for claim in CLAIMS.values() if isinstance(claim, Claim)]
    return list(dict.fromkeys(each for claim in claims for each in claim.experiments(size)))


@SIZES
def test_experiments_can_be_built_and_are_of_several_seeds(size):
    every = experiments(size)
    settings = [each.settings() for each in every]
    assert {one.num_seeds for one in settings} == {{"quick": 3, "full": 5}[size.name]}
    assert len({folder(one) for one in settings}) == len(every)
    for one in settings[:: {"quick": 11, "full": 13}[size.name]]:
        build(one, read_source(one))


@SIZES
def test_recurrence_is_where_the_table_says(size):
    cells, looks_back = {"elman", "gru", "lstm"}, {"location"}
    for (_, place), each in recurrence.places(size).items():
        model = each.settings().model
        found = {
            "none": model.decoder == "parallel" and model.mixer == "none",
            "encoder": model.decoder == "parallel" and model.mixer in cells,
            "decoder": model.decoder in cells,
            "weights": model.decoder in looks_back and model.mixer not in cells,
        }
        assert [name for name, holds in found.items() if holds] == [place]
    for (task, _), each in score_grid.scores(size).items():
        assert each.settings().task.name == task
        assert each.settings().model.decoder not in looks_back


def test_learned_positions_cannot_be_asked():
    with pytest.raises(UsageError, match="has positions for lengths 1 to 16"):
        length.learned_positions().settings()


def test_scores_are_judged_by_their_numbers():
    claim = CLAIMS[1]

    def share(each):
        return {"mlp": 0.9, "mlp_pooling": 0.4, "bilinear": 0.8}.get(each.score, 0.2)

    finding = claim.finding(results_for(claim, QUICK, share), QUICK, FIGURES)
    assert finding.verdict.startswith("holds on all of copy, lookup, sort, digits")
    assert "| copy | 0.2010 ± 0.0010 | 0.2010 ± 0.0010 | 0.4010 ± 0.0010 |" in finding.evidence[1]
    even = claim.finding(results_for(claim, QUICK, lambda _: 0.5), QUICK, FIGURES)
    assert even.verdict.startswith("does not hold on any of copy")


def test_the_built_in_answer_does_not_count():
    claim, grid = CLAIMS[6], length.generalisation(QUICK)
    built_in = grid[length.BUILT_IN, "bilinear"]

    def judged(solved):
        results = results_for(claim, QUICK, lambda each: 0.997 if each in solved else 0.1)
        return claim.finding(results, QUICK, FIGURES).verdict

    assert "Reaches the bar on copy: none; on reverse: none" in judged({built_in})
    uniform = {each for (_, score), each in grid.items() if score == "uniform"}
    assert judged(uniform | {built_in}).startswith("does not hold")
    relative = grid[("copy", "relative"), "bilinear"]
    assert "on copy: relative (bilinear); on reverse: none" in judged({relative})


def test_the_difference_at_the_shortest_length_may_be_one_of_speed():
    claim, told = CLAIMS[4], "how fast they learn"

    def judged(at_shortest):
        def share(each):
            short = each.settings().task.max_length == 4
            return 0.992 if each.score == "mlp" else at_shortest if short else 0.5

        finding = claim.finding(results_for(claim, QUICK, share), QUICK, FIGURES)
        assert finding.verdict == "holds against all of elman, gru, lstm"
        return " ".join(finding.evidence)

    assert told in judged(0.3)
    assert "elman from length 4 on" in judged(0.3)
    assert told not in judged(0.992)
    assert "elman from length 8 on" in judged(0.992)


def test_models_without_attention_get_as_much_time():
    claim = CLAIMS[4]
    results = results_for(claim, FULL, lambda _: 0.5)
    slow = long_range.recurrent(FULL)[long_range.ATTENDING, FULL.recurrent_lengths[-1]]
    results[slow] = dataclasses.replace(results[slow], seconds=21.0)  # three times the others
    longer = claim.more(results, FULL)
    assert [each.settings().train.steps for each in longer] == [4500] * 3
    assert claim.more(results_for(claim, QUICK, lambda _: 0.5), QUICK) == []
