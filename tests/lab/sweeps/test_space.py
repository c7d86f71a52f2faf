"""That draws are of the space, and stay the same draws."""

import pytest
from command_lines import ROOT
from small_sweeps import space_file

from attention.lab.commands.swept_config import SweptConfig
from attention.lab.errors import UsageError
from attention.lab.sweeps.space import draws, extremes, read_space
from attention.lab.sweeps.trials import make_trials


def test_draws_are_of_the_space_and_more_of_them_begin_with_the_fewer(here):
    space = "{'score': ['dot', 'mlp'], 'model.dropout': uniform(0.1, 0.7)}"
    found = draws(read_space(str(space_file(here, space))), 97, 3)
    assert found[:2] == [  # as they were in the process that wrote this test
        {"score": "dot", "model.dropout": "0.5662"},
        {"score": "mlp", "model.dropout": "0.6881"},
    ]
    assert {draw["score"] for draw in found} == {"dot", "mlp"}
    values = sorted(float(draw["model.dropout"]) for draw in found)
    assert 0.1 <= values[0] < 0.15 < 0.35 < values[48] < 0.45 < 0.65 < values[-1] <= 0.7
    again = read_space(str(space_file(here, space)))
    assert draws(again, 13, 3) == found[:13]
    assert draws(again, 13, 4) != found[:13]
    more = read_space(str(space_file(here, space.replace("{", "{'model.heads': [1, 2], "))))
    kept = [{name: draw[name] for name in found[0]} for draw in draws(more, 13, 3)]
    assert kept == found[:13]
    few = draws(read_space(str(space_file(here, "{'model.heads': [1, 2, 4]}"))), 3, 0)
    assert sorted(draw["model.heads"] for draw in few) == ["1", "2", "4"]


def test_more_draws_than_a_sweep_can_list_are_refused_at_once(here):
    with pytest.raises(UsageError, match=r"^--random=1000000000: asks for 1000000000 trials"):
        draws(read_space(str(space_file(here, "{'model.heads': [1, 2]}"))), 10**9, 0)


def test_a_space_in_configs_is_of_the_config_of_its_name():
    for file in (ROOT / "configs" / "sweeps").glob("*.py"):
        space = read_space(str(file))
        found = draws(space, 5, 0)
        asked = [*found, *extremes(space, found[0])]
        distinct = list({tuple(values.items()): values for values in asked}.values())
        config = SweptConfig(str(ROOT / "configs" / file.name), [])
        trials = make_trials(config.settings, distinct, 1)
        assert len(trials) == len(distinct) > 5
