"""The fields that somebody's own class or function brings along, and what they can hold."""

import json
import math
import textwrap
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import numpy as np
import pytest
from command_lines import COPY, TINY, run
from oracles import Distance, Gated, overlap
from pydantic import Field
from small import small, small_config, train_quietly

from attention.lab.commands.config_flags import settings_of
from attention.lab.configs import default_config
from attention.lab.errors import UsageError
from attention.lab.fields import REQUIRED, as_json, options_of, type_name
from attention.lab.runs.directory import open_for_evaluation
from attention.lab.settings import differences, from_json, read_settings
from attention.lab.sweeps.trials import make_trials
from attention.lab.training.build import build
from attention.scores import MLP, Cosine, Linear

MINE = """
    from dataclasses import dataclass
    from typing import Annotated, Literal

    import jax
    import jax.numpy as jnp
    from flax import nnx
    from pydantic import Field

    from attention.lab.models.encoder import Encoder
    from attention.lab.models.parallel import ParallelDecoder
    from attention.lab.tasks.symbols import RandomSymbols
    from attention.lab.tasks.batch import reconstruction
    from attention.pytrees import register_dataclass, static

    class Score(nnx.Module):
        got = []

        def __init__(
            self, query_dim, key_dim, *,
            width: int,
            cap: float = jnp.inf,
            most: Annotated[int, Field(ge=2)] | None = None,
            near: bool | None = None,
            kind: Literal["a", "b"] | None = None,
            sizes: list[int] = [2, 3],
            shape=((5, 7), (11,)),
            label="",
            either: int | str = 0,
            whatever=None,
            activation=jax.nn.tanh,
            unknown=float("nan"),
            rngs,
        ):
            assert callable(activation) and unknown != unknown
            self.got.append((width, cap, most, near, kind, sizes, shape, label, either, whatever))

        def __call__(self, query, key):
            return query @ key

    def scaled(query, key, *, scale: float, shift: float = 0):
        return scale * (query @ key) + shift

    @register_dataclass
    @dataclass(frozen=True, kw_only=True)
    class Task(RandomSymbols):
        places: Annotated[int, Field(ge=2)] = static()
        extra: int | None = static(default=None)
        function: object = static(default=jnp.tanh)

        def _batch(self, symbols, length):
            return reconstruction(symbols, length)

    class Decoder(ParallelDecoder):
        def __init__(self, *arguments, gain: float, sizes: list[int] = [2], rngs, **options):
            assert type(sizes) is list
            super().__init__(*arguments, rngs=rngs, **options)

    class Encoder(Encoder):
        def __init__(self, features, time, dim, *, shift: float, rngs):
            super().__init__(features, time, dim, rngs=rngs)
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fields")
    (folder / "mine_fields.py").write_text(textwrap.dedent(MINE))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        import mine_fields

        yield mine_fields


def read(*flags, score="mine_fields:Score"):
    return settings_of(COPY.removeprefix("--config=") + f":{score}", list(flags))


# Which options there are.


def capped(query, key=None, scale=1.0, *more, shift=0, **rest): ...


class Capped:
    def __init__(self, query_dim=5, key_dim=7, scale=1.0, rngs=None): ...


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        (Linear, {}),
        (MLP, {"hidden": 64}),
        (Cosine, {"sharpness": 8.0}),
        (Distance, {"sharpness": 2.0, "power": 2}),
        (Gated, {}),
        (overlap, {}),
        (jnp.dot, {"precision": None, "preferred_element_type": None, "out_sharding": None}),
        (math.hypot, {}),
        (capped, {"scale": 1.0, "shift": 0}),
        (Capped, {"scale": 1.0}),
    ],
)
def test_the_options_are_what_can_be_given_by_name_alone(factory, expected):
    assert {name: option.default for name, option in options_of(factory).items()} == expected


ARRAY, NUMBER = np.ones(2), np.float32(2)


def unannotated(q, k, *, a=1, b=2.0, c="x", d=None, e=(1,), f: float = 3, g: "Missing" = 4): ...  # noqa: F821


def test_of_an_option_without_annotation_the_default_says_the_type():
    options = options_of(unannotated)
    names = " ".join(f"{n}:{type_name(option.annotation)}" for n, option in options.items())
    assert names == "a:int b:float c:str d:any value e:any value f:float g:int"
    assert type(options["f"].default) is float


def unusual(q, k, *, needed, _private=1, call=max, array=ARRAY, number=NUMBER): ...


def test_what_no_config_can_hold_is_no_option():
    options = {name: option.default for name, option in options_of(unusual).items()}
    assert options == {"needed": REQUIRED, "number": 2}


@pytest.mark.parametrize(
    ("annotation", "name"),
    [
        (int, "int"),
        (Annotated[int, Field(ge=1)] | None, "int"),
        (int | str, "int or str"),
        (Literal["a", 2], "'a' or 2"),
        (tuple[int, ...], "tuple[int, ...]"),
        (Any, "any value"),
    ],
)
def test_a_type_in_words(annotation, name):
    assert type_name(annotation) == name


# By flag.


@pytest.mark.parametrize(
    ("score", "told"),
    [("Score", "width is missing: int"), ("scaled", "scale is missing: float")],
)
def test_an_option_without_a_default_is_missing_until_it_is_given(mine, score, told):
    settings = read(score=f"mine_fields:{score}")
    with pytest.raises(
        UsageError, match=rf"^config\.score\.options\.{told}; give it by --config\."
    ):
        build(settings, None)


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ("task.name=mine_fields:Task", r"task\.places is missing: int"),
        ("model.decoder=mine_fields:Decoder", r"model\.gain is missing: float"),
        ("model.encoder=mine_fields:Encoder", r"model\.shift is missing: float"),
    ],
)
def test_so_is_a_field_of_a_task_a_decoder_or_an_encoder(mine, choice, told):
    with pytest.raises(UsageError, match=rf"^config\.{told}; give it by --config\."):
        read(f"--config.{choice}", score="mlp")


def test_fields_without_a_default_are_given_by_flag(mine):
    flags = ["task.name=mine_fields:Task", "task.places=3", "task.extra=5"]
    flags += ["model.decoder=mine_fields:Decoder", "model.gain=2", "model.sizes=(7,)"]
    flags += ["model.encoder=mine_fields:Encoder", "model.shift=0.5"]
    settings = read(*(f"--config.{flag}" for flag in flags), score="mlp")
    assert (settings.task.places, settings.task.extra) == (3, 5)
    model = settings.model
    assert (model.gain, model.sizes, model.shift) == (2.0, [7], 0.5)
    build(settings, None)
    with pytest.raises(UsageError, match=r"^config\.task\.places=1: .*greater"):
        read("--config.task.name=mine_fields:Task", "--config.task.places=1", score="mlp")


def test_a_config_for_a_class_without_defaults_is_made_and_filled(mine):
    config = default_config("dot", task="mine_fields:Task", decoder="mine_fields:Decoder")
    assert (config.task.places, config.model.gain, config.model.sizes) == (None, None, (2,))
    config.task.places, config.model.gain = 3, 0.5
    settings = read_settings(config.to_dict())
    assert from_json(json.loads(settings.model_dump_json())) == settings


def test_options_arrive_as_their_annotations_say(mine):
    given = ["width=13", "most=3", "near=true", "kind=b", "sizes=(7,)", "cap=-inf", "either=x"]
    given += ["shape=(1,(2,'y'))", "label=日本, é", "whatever=(1,(None,))"]
    settings = read(*(f"--config.score.options.{flag}" for flag in given))
    build(settings, None)
    got = (13, -math.inf, 3, True, "b", [7], (1, (2, "y")), "日本, é", "x", (1, (None,)))
    assert mine.Score.got[-1] == got
    assert type(mine.Score.got[-1][5]) is list
    build(from_json(json.loads(settings.model_dump_json())), None)
    assert mine.Score.got[-1] == got


def test_what_is_not_given_keeps_its_default(mine):
    build(read("--config.score.options.width=13"), None)
    defaults = (13, math.inf, None, None, None, [2, 3], ((5, 7), (11,)), "", 0, None)
    assert mine.Score.got[-1] == defaults


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("width=x", "width='x': is no whole number"),
        ("most=1", r"^config\.score\.options\.most=1: .*greater than or equal to 2"),
        ("kind=c", r"^config\.score\.options\.kind='c': .*'a' or 'b'"),
        ("cap=nan", r"^config\.score\.options\.cap=nan: equals no number"),
        ("activation=3", "score.options has .*cap, either"),
        ("label=\udcff", r"label='\\udcff': is no Unicode text"),
    ],
)
def test_a_bad_value_of_an_option_is_told_by_field(mine, flag, told):
    with pytest.raises(UsageError, match=told):
        build(read("--config.score.options.width=2", f"--config.score.options.{flag}"), None)


# What a config can hold, and JSON brings back.


@pytest.mark.parametrize(
    "value",
    [math.inf, -math.inf, -0.0, 2**53 + 1, 2**70, True, None, "inf", "null", "日本\u2028\0'\""],
    ids=repr,
)
@pytest.mark.parametrize("within", [lambda v: v, lambda v: (v, (v, ())), lambda v: {"a": (v,)}])
def test_an_option_comes_back_from_json_as_it_was(value, within):
    config = small_config().to_dict()
    config["score"]["options"]["extra"] = within(value)
    settings = read_settings(config)
    written = json.dumps(json.loads(settings.model_dump_json()))
    again = from_json(json.loads(written))
    assert again == settings
    assert repr(again.score.options) == repr(settings.score.options)
    assert repr(settings.score.options["extra"]) == repr(within(value))
    assert differences(json.loads(written), settings.model_dump()) == {}


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        ([1, [2, (3,)]], (1, (2, (3,)))),
    ],
    ids=repr,
)
def test_numbers_of_numpy_and_lists_become_plain(value, plain):
    assert as_json(value, "") == plain
    assert type(as_json(value, "")) is type(plain)


@pytest.mark.parametrize(
    "value",
    [
        *(math.nan, (1, math.nan), np.float32("nan"), max, [print], object()),
        *({1, 2}, {1: 2}, b"x", "\ud800", 1j, range(3), np.ones(2), jnp.ones(())),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_hold_is_refused_by_field(value):
    config = small_config().to_dict()
    config["score"]["options"]["extra"] = value
    with pytest.raises(UsageError, match=r"^config\.score\.options\.extra"):
        read_settings(config)


def test_an_infinite_setting_of_a_task_or_a_model_is_refused():
    with pytest.raises(UsageError, match=r"^config\.model\.embedding_std=inf: .*finite"):
        small({"model.embedding_std": math.inf})


# Through runs and sweeps.


def test_a_run_with_an_infinite_option_is_the_same_run_again(mine, tmp_path):
    def settings(cap):
        options = {"score.options.width": 2, "score.options.cap": cap}
        return small({**options, "train.steps": 2}, score="mine_fields:Score")

    assert train_quietly(settings(math.inf), tmp_path / "run")[0] == 0
    assert "finished already" in train_quietly(settings(math.inf), tmp_path / "run")[1]
    assert open_for_evaluation(tmp_path / "run")[1] == settings(math.inf)
    with pytest.raises(UsageError, match=r"score\.options\.cap: inf there, -inf now"):
        train_quietly(settings(-math.inf), tmp_path / "run")


def test_a_sweep_tells_infinite_options_apart(mine):
    def settings(values):
        flags = [f"--config.{name}={value}" for name, value in values.items()]
        return read(*flags, "--config.score.options.width=2")

    caps = ["inf", "-inf", "1"]
    trials = make_trials(settings, [{"score.options.cap": cap} for cap in caps], 1)
    assert [trial.configuration for trial in trials] == [
        "score.options.cap=inf",
        "score.options.cap=-inf",
        "score.options.cap=1.0",
    ]
    with pytest.raises(UsageError, match=r"lists score\.options\.cap=inf twice"):
        make_trials(settings, [{"score.options.cap": cap} for cap in ("inf", "1e999")], 1)


def test_a_plain_function_trains_with_its_options_and_is_evaluated(mine, tmp_path, monkeypatch):
    workdir = f"--workdir={tmp_path / 'run'}"
    scale = "--config.score.options.scale=3"
    config = f"{COPY}:mine_fields:scaled"
    assert run(monkeypatch, "train.py", config, *TINY, workdir, scale)[0] == 0
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["config"]["score"]["options"] == {"scale": 3.0, "shift": 0.0}
    assert run(monkeypatch, "eval.py", workdir)[0] == 0
