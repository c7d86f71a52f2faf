import math

import pydantic
import pytest
from small import small, small_config

from attention.lab.commands.config_flags import settings_of
from attention.lab.configs import default_config, read_config
from attention.lab.errors import UsageError
from attention.lab.settings import check_lengths, differences, read_settings
from attention.lab.training.build import build
from attention.scores import SCORES

LENGTHS = small().task.max_length
BAD_VALUES = [
    ("seed", -1),
    ("seed", 2**32),
    ("num_seeds", 0),
    ("num_seeds", 2**16 + 1),
    ("train.steps", 2**31),
    ("train.steps", 10**20),
    ("train.batch_size", 2**31),
    ("train.log_every_steps", 2**31),
    ("train.eval_every_steps", 2**31),
    ("train.checkpoint_every_steps", 2**31),
    ("train.keep_checkpoints", 2**31),
    ("eval.batch_size", 2**31),
    ("eval.sequences", 10**12),
    ("model.dim", 2**24 + 1),
    ("model.heads", 2**16 + 1),
    ("model.embedding_std", 1e300),
    ("optimizer.learning_rate", 1e39),
    ("optimizer.clip_norm", 1e300),
    ("optimizer.weight_decay", 1e39),
    ("task.symbols", 2**31 - 3),
    ("task.max_length", 10**9),
    ("num_seeds", 2.0),
    ("score.name", 3),
    ("task.symbols", 0),
    ("task.max_length", 0),
    ("task.max_length", 1025),
    ("model.dim", 0),
    ("model.heads", 0),
    ("model.embedding_std", 0.0),
    ("model.dropout", 1.0),
    ("model.dropout", 1.5),
    ("model.dropout", -0.1),
    ("model.positions", 1),
    ("optimizer.learning_rate", 0.0),
    ("optimizer.learning_rate", math.nan),
    ("optimizer.learning_rate", math.inf),
    ("optimizer.learning_rate", "fast"),
    ("optimizer.warmup_fraction", 1.0),
    ("optimizer.warmup_fraction", -0.1),
    ("optimizer.clip_norm", 0.0),
    ("optimizer.weight_decay", -0.1),
    ("train.steps", -5),
    ("train.steps", 0),
    ("train.steps", 2.5),
    ("train.steps", "5"),
    ("train.steps", True),
    ("train.batch_size", 0),
    ("train.log_every_steps", 0),
    ("train.eval_every_steps", 0),
    ("train.checkpoint_every_steps", 0),
    ("train.keep_checkpoints", 0),
    ("train.stop_at_exact_match", 1.1),
    ("eval.sequences", 0),
    ("eval.batch_size", 0),
]


def changed(path, value, **kinds):
    """A config with a field that may have any type, or be new."""
    config = small_config(**kinds).to_dict()
    *sections, field = path.split(".")
    section = config
    for name in sections:
        section = section[name]
    section[field] = value
    return config


@pytest.mark.parametrize(("path", "value"), BAD_VALUES)
def test_a_bad_value_is_refused_by_field_and_value_in_one_line(path, value):
    with pytest.raises(UsageError) as refusal:
        read_settings(changed(path, value))
    assert str(refusal.value).startswith(f"config.{path}={value!r}: ")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("path", "choices"),
    [
        (
            "task.name",
            ["cmudict", "copy", "digits", "duplicate", "reverse", "selective_copy", "sort", "text"],
        ),
        ("model.decoder", ["parallel", "gru", "pooled"]),
        ("model.mixer", ["none", "feedforward", "gru"]),
        ("model.normalizer", ["softmax", "sigmoid", "sparsemax", "entmax15"]),
        ("model.bias", ["none", "relative", "alibi"]),
        ("optimizer.name", ["adam", "adamw", "sgd"]),
        ("optimizer.schedule", ["cosine", "constant"]),
    ],
)
def test_an_unknown_choice_is_refused_with_the_choices(path, choices):
    with pytest.raises(UsageError, match=r"^config\.\w+") as refusal:
        read_settings(changed(path, "hexagonal"))
    section, field = path.split(".")
    assert all(word in str(refusal.value) for word in (f"config.{section}", field, "'hexagonal'"))
    assert all(choice in str(refusal.value) for choice in choices)


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_a_field_of_the_text_task_is_named_as_in_the_config(value):
    with pytest.raises(UsageError, match=rf"^config\.task\.crop_fraction={value}: "):
        read_settings(changed("task.crop_fraction", value, task="text"))


@pytest.mark.parametrize("path", ["stepz", "train.stepz", "task.path", "model.optimizer"])
def test_a_field_that_does_not_exist_is_refused(path):
    with pytest.raises(UsageError, match=rf"^config\.{path}=7: "):
        read_settings(changed(path, 7))


def test_every_bad_value_is_told_at_once():
    config = changed("train.steps", -5)
    config["model"]["dropout"] = 1.5
    with pytest.raises(UsageError, match=r"config\.model\.dropout=1\.5: .*train\.steps=-5: "):
        read_settings(config)


def test_the_last_seed_is_a_seed():
    assert small({"seed": 2**32 - 3, "num_seeds": 3}).num_seeds == 3
    with pytest.raises(UsageError, match=r"^config\.num_seeds=4: from config\.seed=4294967293 "):
        small({"seed": 2**32 - 3, "num_seeds": 4})


def test_heads_must_divide_dim():
    with pytest.raises(UsageError, match=r"config\.model\.heads=5: must divide .*dim=6"):
        small({"model.heads": 5})


@pytest.mark.parametrize("length", [0, -1, LENGTHS + 1])
def test_a_length_without_positions_is_refused(length):
    with pytest.raises(UsageError, match=rf"config\.eval\.lengths={length}: .* 1 to {LENGTHS} "):
        small({"eval.lengths": (1, length)})
    with pytest.raises(UsageError, match=rf"^here={length}: "):
        check_lengths(small(), [length], "here")


def test_the_shortest_and_longest_lengths_are_allowed():
    assert small({"eval.lengths": (1, LENGTHS)}).eval.lengths == (1, LENGTHS)


def test_a_field_that_there_is_not_is_told_with_those_there_are():
    with pytest.raises(
        UsageError, match=r"^config\.train\.step=5: did you mean steps\? config\.tr"
    ):
        read_settings(changed("train.step", 5))
    with pytest.raises(UsageError, match=r"^config\.name_=5: did you mean name\? config has "):
        read_settings(changed("name_", 5))


def test_lists_that_are_too_long_are_told_in_a_short_line():
    for path, value in [("eval.lengths", (1,) * 10_007), ("replicas", ({},) * 65_537)]:
        with pytest.raises(UsageError, match=rf"^config\.{path}=\(") as refusal:
            read_settings(changed(path, value))
        assert len(str(refusal.value)) < 300


def test_of_many_bad_values_the_first_are_told():
    config = changed("replicas", ({"seed": -1},) * 1000)
    with pytest.raises(UsageError, match=r"; and 980 more$"):
        read_settings(config)


def test_a_length_beyond_all_integers_is_refused():
    free = {"model.positions": "none", "model.decoder": "location", "eval.lengths": (2**30,)}
    with pytest.raises(UsageError, match=r"config\.eval\.lengths=1073741824: .* to 1073741823$"):
        small(free)


def test_where_no_parameter_belongs_to_a_position_any_length_is_allowed():
    free = {"model.positions": "none", "model.decoder": "location", "eval.lengths": (997,)}
    assert small(free).eval.lengths == (997,)
    with pytest.raises(UsageError, match=r"config\.eval\.lengths=997: "):
        small({**free, "model.decoder": "pooled"})
    with pytest.raises(UsageError, match=r"config\.eval\.lengths=997: "):
        small(free, task="sort")  # of which longer sequences need more symbols


def test_settings_cannot_be_changed():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        small().train.steps = 3


@pytest.mark.parametrize("task", ["cmudict", "copy", "digits", "text"])
@pytest.mark.parametrize("score", SCORES)
def test_a_default_config_comes_back_unchanged_from_its_settings(score, task):
    config = default_config(score, task=task)
    settings = read_config(config)
    assert settings.model_dump() == config.to_dict()
    assert (settings.score.name, settings.task.name) == (score, task)


@pytest.mark.parametrize(
    ("score", "options"), [("mlp", {"hidden": 64}), ("cosine", {"sharpness": 8.0}), ("dot", {})]
)
def test_a_default_config_has_the_options_of_its_score(score, options):
    assert default_config(score).score.options.to_dict() == options


def test_the_default_config_of_an_unknown_score_names_the_choices():
    with pytest.raises(
        ValueError, match=r"score.name='mpl': is unknown; did you .* choose uniform, .*bilinear"
    ):
        default_config("mpl")


def test_a_missing_config_is_refused():
    with pytest.raises(UsageError, match=r"--config is missing.*configs/copy\.py"):
        settings_of(None, [])


def test_differences_are_told_by_dotted_path_with_both_values():
    old = {"a": 1, "b": {"c": (1, 2), "d": {"e": 0.1}}, "gone": True}
    new = {"a": 1, "b": {"c": [1, 3], "d": {"e": 0.2}}, "new": "x"}
    assert differences(old, new) == {
        "b.c": ((1, 2), [1, 3]),
        "b.d.e": (0.1, 0.2),
        "gone": (True, None),
        "new": (None, "x"),
    }


def test_there_is_no_difference_between_a_list_and_a_tuple():
    assert differences({"lengths": (1, 2)}, {"lengths": [1, 2]}) == {}


def test_an_integer_differs_from_a_boolean_and_a_float():
    assert differences({"a": 1, "b": 1}, {"a": True, "b": 1.0}) == {
        "a": (1, True),
        "b": (1, 1.0),
    }


def test_named_replicas_and_a_number_of_seeds_exclude_each_other():
    own = ({"seed": 3, "learning_rate": 0.5}, {"seed": 4})
    assert small({"replicas": own}).num_replicas == 2
    with pytest.raises(UsageError, match=r"^config\.num_seeds=2: config\.replicas has 2, "):
        small({"replicas": own, "num_seeds": 2})
    with pytest.raises(UsageError, match=r"^config\.replicas\.0\.learning_rate=-1.0: .*greater"):
        small({"replicas": ({"learning_rate": -1.0},)})


def test_weight_decay_of_a_replica_without_adamw_is_refused():
    settings = small({"replicas": ({"seed": 3}, {"weight_decay": 0.5})})
    with pytest.raises(UsageError, match=r"weight_decay=0\.5: only adamw"):
        build(settings, None)
