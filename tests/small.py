"""Experiments that are small enough for a test."""

import functools
import io
import shutil

import jax
import numpy as np
from rich.console import Console

from attention.lab.configs import change, default_config, read_config
from attention.lab.training.loop import train
from attention.lab.training.state import Status, TrainState, abstract_state

SMALL = {
    "model.dim": 6,
    "model.heads": 2,
    "task.max_length": 4,
    "train.steps": 13,
    "train.batch_size": 7,
    "train.log_every_steps": 5,
    "train.eval_every_steps": 6,
    "train.checkpoint_every_steps": 4,
    "train.keep_checkpoints": 2,
    "eval.sequences": 11,
    "eval.batch_size": 4,
}

# Their hashes put `toad` into the validation split, `four` into the test, the others to train.
DICTIONARY = b"""toad T OW1 D
four F AO1 R
four(2) F AO1 ER0
one W AH1 N
two T UW1"""

# Lines of pixels and a digit, enough for each split.
IMAGES = b"\n".join(
    b",".join(b"%d" % ((n + i * (1 + n % 5)) % 17) for i in range(64)) + b",%d" % (n % 10)
    for n in range(31)
)


def small_config(changes=(), *, score="mlp", task="copy"):
    """A config with these fields changed, given by dotted path."""
    config = default_config(score, task=task)
    sizes = {"task.symbols": 3} if "symbols" in config.task else {}
    sizes |= {"score.options.hidden": 5} if score == "mlp" else {}
    fixed = {} if "max_length" in config.task else {"task.max_length"}
    shared = {name: value for name, value in SMALL.items() if name not in fixed}
    change(config, shared | sizes | dict(changes))
    return config


def small(changes=(), *, score="mlp", task="copy"):
    """Its settings."""
    return read_config(small_config(changes, score=score, task=task))


def train_quietly(settings, workdir):
    """The exit status, and what was shown."""
    shown = io.StringIO()
    outcome = train(settings, workdir, Console(file=shown, width=400))
    return outcome.exit_status, shown.getvalue()


def copy_of(run, tmp_path):
    """A copy of a run, to spoil."""
    return shutil.copytree(run, tmp_path / run.name)


def files(path):
    """Every file below a path, with its content."""
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def assert_same_bits(actual, expected):
    """The same tree, to the last bit."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def random_like(tree, seed=0):
    """Every leaf drawn anew: parameters without the cost of initialising them."""
    leaves, structure = jax.tree.flatten(tree)
    rng = np.random.default_rng(seed)
    draws = [rng.standard_normal(leaf.shape).astype(leaf.dtype) for leaf in leaves]
    return jax.tree.unflatten(structure, jax.device_put(draws))


def untrained(experiment, seed=0):
    """A state before the first update, without the cost of initialising it."""
    parameters = random_like(abstract_state(experiment).parameters, seed)
    count = experiment.settings.num_replicas
    return TrainState(
        jax.device_put(np.zeros(count, np.int32)),
        parameters,
        jax.jit(jax.vmap(experiment.optimizer.init))(parameters),
        jax.device_put(np.full(count, Status.TRAINING, np.int32)),
    )


@functools.partial(jax.jit, static_argnums=2)
def sample(task, key, size):
    """A batch to train on, by one program."""
    return task.sample(key, size)


def replica(tree, number):
    """The arrays of one replica, without the axis of replicas."""
    return jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[number]), tree)
