"""That a score, a task, a decoder, an encoder and a normalizer can be added from outside.

Each is a class or function in a module of somebody's own, named by its path; nothing in the
package changes. An algorithm of one's own is in tests/test_attend.py.
"""

import ast
import importlib.util
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest
from small import replica, sample, small, small_config, train_quietly

from attention import lab
from attention.lab.commands.config_flags import settings_of
from attention.lab.configs import change, read_config
from attention.lab.errors import UsageError
from attention.lab.runs.directory import open_for_evaluation
from attention.lab.tasks.catalogue import TASKS
from attention.lab.training.build import build
from attention.lab.training.state import initial_state
from attention.lab.training.update import make_train

COPY_CONFIG = str(Path(__file__).parents[2] / "configs" / "copy.py")
MINE = """
    from dataclasses import dataclass
    from typing import Annotated, Literal

    import jax
    import jax.numpy as jnp
    from flax import nnx
    from pydantic import Field

    from attention.lab.models.decoder import Decoder
    from attention.lab.models.encoder import Encoder
    from attention.lab.tasks.batch import RESERVED, Batch, reconstruction
    from attention.lab.tasks.task import Task
    from attention.layers import Attention
    from attention.pytrees import register_dataclass, static

    class Distance(nnx.Module):
        def __init__(self, query_dim, key_dim, *, sharpness=2.0, rngs):
            self.sharpness = nnx.Param(jnp.float32(sharpness))

        def __call__(self, query, key):
            return -self.sharpness[...] * jnp.sum((query - key) ** 2)

    @register_dataclass
    @dataclass(frozen=True)
    class Ones(Task):
        '''Copy a sequence of one symbol, which is no random symbol of the package's.'''

        max_length: Annotated[int, Field(ge=1, le=31)] = static(default=5)
        symbol_number: int = static(default=0)
        any_length = True

        vocabulary = property(lambda self: RESERVED + self.symbol_number + 1)
        source_time = property(lambda self: self.max_length + 1)
        target_time = property(lambda self: self.max_length + 1)

        def sample(self, key, size):
            symbols = jnp.full((size, self.max_length), RESERVED + self.symbol_number)
            return reconstruction(symbols, jax.random.randint(key, (size,), 1, self.max_length + 1))

        def held_out(self, split, key, size, length=None):
            return self.sample(key, size)

        def summary(self):
            return f"nothing but symbol {self.symbol_number}"

    class MeanDecoder(Decoder):
        '''One query for all positions, times the number of the position.'''

        needs_attention = True

        def __init__(
            self, score, vocabulary, time, dim, *,
            slope: Annotated[float, Field(gt=0)] = 0.5,
            shape: Literal["line", "wave"] = "line",
            rngs,
            **options,
        ):
            self.slope, self.shape = slope, shape
            self.query = nnx.Param(jnp.ones((1, dim)))
            self.attention = Attention(score, dim, dim, rngs=rngs, **options)
            self.output = nnx.Linear(dim, vocabulary, rngs=rngs)

        def _contexts(self, memory, time):
            steps = self.slope * jnp.arange(time, dtype=jnp.float32)[:, None]
            steps = jnp.sin(steps) if self.shape == "wave" else steps
            return self.attention.with_weights(self.query[...] * steps, memory)

        def logits(self, memory, length, target):
            return self.output(self._contexts(memory, target.shape[1])[0])

        def greedy(self, memory, length, time):
            contexts, weights = self._contexts(memory, time)
            return jnp.argmax(self.output(contexts), axis=-1), weights

    class ShiftEncoder(Encoder):
        '''The package's, plus a constant.'''

        def __init__(self, features, time, dim, *, shift: float = 0.0, rngs):
            super().__init__(features, time, dim, rngs=rngs)
            self.shift = shift

        def __call__(self, source, mask, dropout_key=None):
            return super().__call__(source, mask, dropout_key) + self.shift

    class NoDefault(Ones):
        places: int = static()

    NoDefault = register_dataclass(dataclass(frozen=True, kw_only=True)(NoDefault))

    @dataclass(frozen=True)
    class NoPytree(Task):
        max_length: int = static(default=5)
        vocabulary = source_time = target_time = 7

        def sample(self, key, size):
            return reconstruction(jnp.full((size, 5), RESERVED), jnp.full(size, 5))

        def held_out(self, split, key, size, length=None):
            return self.sample(key, size)

    class NoDataclass(NoPytree.__mro__[1]):
        def sample(self, key, size):
            return None

        def held_out(self, split, key, size, length=None):
            return None

    @register_dataclass
    @dataclass(frozen=True)
    class Square(Task):
        '''Its length follows from another setting.'''

        side: int = static(default=2)
        vocabulary = source_time = target_time = 7
        max_length = property(lambda self: self.side**2)

        def __post_init__(self):
            if self.side > 3:
                raise ValueError(f"side={self.side}: at most 3")

        def sample(self, key, size):
            return reconstruction(jnp.full((size, 5), RESERVED), jnp.full(size, 5))

        def held_out(self, split, key, size, length=None):
            return self.sample(key, size)

    class Loud(MeanDecoder):
        def __init__(
            self, score, vocabulary, time, dim, *,
            heads: int = 2, queries: int = 5, gain: float = 2, extra: int | None = None,
            rngs, **options,
        ):
            super().__init__(score, vocabulary, time, dim, rngs=rngs, heads=heads, **options)
            self.settings = heads, queries, gain, extra

    class Hidden(MeanDecoder):
        def __init__(self, score, vocabulary, time, dim, *, hidden: int = 3, rngs, **options):
            super().__init__(score, vocabulary, time, dim, rngs=rngs, **options)

    def squares(scores, where=None):
        '''s² / Σ s²'''
        allowed = scores**2 if where is None else jnp.where(where, scores**2, 0.0)
        total = jnp.sum(allowed, axis=-1, keepdims=True)
        return allowed / jnp.where(total > 0, total, 1.0)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The name of a module of one's own, somewhere on the path."""
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(MINE))
    monkeypatch.syspath_prepend(tmp_path)
    return name


def updated(settings):
    """What an experiment comes to after two updates."""
    experiment = build(settings, None)
    state, metrics = make_train(experiment)(initial_state(experiment), experiment.task, 2)
    assert np.isfinite(metrics["loss"]).all()
    return experiment, state


def test_a_score_of_ones_own_trains_with_its_options(mine):
    settings = small({"score.options.sharpness": 3.0}, score=f"{mine}:Distance")
    _, state = updated(settings)
    sharpness = state.parameters["decoder"]["attention"]["score"]["sharpness"]
    np.testing.assert_allclose(sharpness, 3.0, atol=0.1)


def test_a_task_of_ones_own_trains_and_is_evaluated_with_its_settings(mine, tmp_path):
    config = small_config({"train.steps": 5})
    change(config, {"task.name": f"{mine}:Ones", "task.symbol_number": 2})
    assert config.task.to_dict() == {"name": f"{mine}:Ones", "max_length": 4, "symbol_number": 2}
    settings = read_config(config)
    status, shown = train_quietly(settings, tmp_path / "run")
    assert status == 0
    assert "nothing but symbol 2" in shown
    _, again, _ = open_for_evaluation(tmp_path / "run")
    assert again == settings


def test_the_settings_of_a_task_of_ones_own_are_flags(mine):
    flags = [f"--config.task.name={mine}:Ones", "--config.task.symbol_number", "3"]
    flags += ["--config.eval.lengths=(3,)"]
    settings = settings_of(COPY_CONFIG, [*flags, "--config.task.max_length=7"])
    assert settings.task.model_dump() == {
        "name": f"{mine}:Ones",
        "max_length": 7,
        "symbol_number": 3,
    }
    with pytest.raises(UsageError, match=r"^config\.task\.max_length=32: .*31"):
        settings_of(COPY_CONFIG, [*flags, "--config.task.max_length=32"])
    with pytest.raises(UsageError, match=r"^--config\.task\.symbols: .* has .*symbol_number"):
        settings_of(COPY_CONFIG, [*flags, "--config.task.symbols=3"])


def test_a_decoder_of_ones_own_trains_with_its_settings(mine):
    chosen = {"model.decoder": f"{mine}:MeanDecoder", "model.heads": 1}
    experiment, state = updated(small({**chosen, "model.slope": 0.25, "model.shape": "wave"}))
    decoder = experiment.model(replica(state.parameters, 0)).decoder
    assert (decoder.slope, decoder.shape) == (0.25, "wave")
    with pytest.raises(UsageError, match=r"^config\.model\.shape='circle': .*'line' or 'wave'"):
        small({**chosen, "model.shape": "circle"})
    with pytest.raises(UsageError, match=r"^config\.model\.slope=-1\.0: .*greater than 0"):
        small({**chosen, "model.slope": -1.0})
    with pytest.raises(UsageError, match=r"^config\.model\.heads=2: needs .*parallel"):
        build(small({**chosen, "model.heads": 2}), None)
    with pytest.raises(UsageError, match=r"^config\.score\.name='none': needs .*gru"):
        build(small(chosen, score="none"), None)
    assert "slope" not in small_config().model


def test_an_encoder_of_ones_own_trains_with_its_settings(mine):
    chosen = {"model.encoder": f"{mine}:ShiftEncoder", "model.shift": 0.75}
    experiment, state = updated(small(chosen))
    assert experiment.model(replica(state.parameters, 0)).encoder.shift == 0.75


def test_a_normalizer_of_ones_own_trains(mine):
    experiment, state = updated(small({"model.normalizer": f"{mine}:squares"}))
    model = experiment.model(replica(state.parameters, 0))
    batch = sample(experiment.task, jax.random.key(0), 3)
    reconstruct = jax.jit(model.reconstruct, static_argnums=2)
    weights = reconstruct(batch.source, batch.source_length, 5).weights
    np.testing.assert_allclose(np.sum(weights, axis=-1), 1.0, atol=1e-5)
    with pytest.raises(UsageError, match=r"^config\.model\.normalizer='maximum': .*softmax"):
        small({"model.normalizer": "maximum"})


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("NoDataclass", "NoDataclass is no dataclass"),
        ("NoPytree", "is no pytree; its class needs the decorator"),
    ],
)
def test_a_task_that_lacks_something_is_told_what(mine, name, told):
    with pytest.raises(UsageError, match=rf"^config\.task\.name='{mine}:{name}': {told}"):
        build(
            settings_of(
                COPY_CONFIG, [f"--config.task.name={mine}:{name}", "--config.eval.lengths=(3,)"]
            ),
            None,
        )


def test_a_greatest_length_may_follow_from_other_settings(mine):
    flags = [f"--config.task.name={mine}:Square", "--config.eval.lengths=(4,)"]
    assert settings_of(COPY_CONFIG, flags).task.max_length == 4
    with pytest.raises(UsageError, match=r"^config\.task\.side=4: at most 3$"):
        settings_of(COPY_CONFIG, [*flags, "--config.task.side=4"])


def test_the_defaults_of_a_decoder_of_ones_own_hold_where_the_config_says_nothing(mine):
    flags = [f"--config.model.decoder={mine}:Loud"]

    def read(*more):
        model = settings_of(COPY_CONFIG, [*flags, *more]).model
        return model.heads, model.queries, model.gain, model.extra

    assert read() == (2, 5, 2.0, None)
    more = ["--config.model.heads=4", "--config.model.gain=2.5", "--config.model.extra=3"]
    assert read(*more) == (4, 5, 2.5, 3)
    assert read("--config.model.queries=7") == (2, 7, 2.0, None)
    kept = settings_of(COPY_CONFIG, ["--config.model.heads=4", *flags]).model
    assert kept.heads == 4


def test_a_setting_that_an_option_of_the_score_is_called_like_is_refused(mine):
    with pytest.raises(UsageError, match=r"^config\.score\.options\.hidden=5: the decoder"):
        build(small({"model.decoder": f"{mine}:Hidden", "model.heads": 1}), None)


def test_what_an_encoder_of_ones_own_does_not_take_is_refused_with_those_that_do(mine):
    chosen = {"model.encoder": f"{mine}:ShiftEncoder", "model.mixer": "convolution"}
    with pytest.raises(
        UsageError, match=r"^config\.model\.mixer='convolution': needs .*encoder=tok"
    ):
        build(small(chosen), None)
    with pytest.raises(UsageError, match=r"^config\.model\.encoder='patches': .*'copy' need 'tok"):
        build(small({"model.encoder": "patches"}), None)


@pytest.mark.parametrize(
    ("field", "kind"),
    [("task.name", "Task"), ("model.decoder", "Decoder"), ("model.encoder", "Encoder")],
)
def test_a_class_of_another_kind_is_refused(mine, field, kind):
    with pytest.raises(UsageError, match=rf"^config\.{field}='{mine}:Distance': .* {kind}$"):
        small({field: f"{mine}:Distance"})
    with pytest.raises(UsageError, match=rf"^config\.{field}='no_lab:Mine': .*cannot be imported"):
        small({field: "no_lab:Mine"})


def modules():
    """The modules of the lab that must know no task: all but those of tasks and claims."""
    root = Path(lab.__file__).parent
    for file in sorted(root.rglob("*.py")):
        if file.relative_to(root).parts[0] not in ("tasks", "claims"):
            yield pytest.param(file, id=str(file.relative_to(root)))


# The names of a flag of `eval.py` and of a primitive of JAX, which happen to be tasks' names too.
NOT_A_TASK = {("eval.py", "text"), ("arrays.py", "sort")}


@pytest.mark.parametrize("file", list(modules()))
def test_no_module_names_a_task(file):
    tree = ast.parse(file.read_text())
    constants = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    named = constants & set(TASKS) - {name for place, name in NOT_A_TASK if place == file.name}
    assert named == set()
    general = {"batch", "catalogue", "symbols", "task"}
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for name in [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        if name.startswith("attention.lab.tasks.")
    }
    rooms = {name.split(".")[3] for name in imported}
    files = {room for room in rooms if importlib.util.find_spec(f"attention.lab.tasks.{room}")}
    assert files <= general
