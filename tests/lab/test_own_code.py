"""That an error in somebody's own code is told by file and line, wherever the code is called."""

import math
import re
import sys
import textwrap

import pytest
from command_lines import COPY, ROOT, TINY, here, run
from small import files, small, train_quietly

from attention.lab import own_code
from attention.lab.commands import train
from attention.lab.configs import load
from attention.lab.errors import TrainingError, UsageError
from attention.lab.own_code import in_one_line, lines_of
from attention.lab.training.build import build, read_source

# A comment at the end of a line says whose error is told of that line.
MINE = """
    import sys
    from dataclasses import dataclass

    import jax
    import jax.numpy as jnp
    from beartype import beartype
    from flax import nnx
    from jaxtyping import Array, Float, jaxtyped

    from attention.lab.models.encoder import Encoder
    from attention.lab.models.parallel import ParallelDecoder
    from attention.lab.tasks.symbols import RandomSymbols
    from attention.lab.tasks.batch import reconstruction
    from attention.pytrees import register_dataclass, static

    import mine_helper

    class Score(nnx.Module):
        def __init__(self, query_dim, key_dim, *, rngs):
            pass
        def __call__(self, query, key):
            return query @ key

    class Attribute(Score):
        def __call__(self, query, key):
            return query.nothing  # Attribute

    class Zero(Score):
        def __init__(self, query_dim, key_dim, *, rngs):
            1 / 0  # Zero

    class Value(Score):
        def __call__(self, query, key):
            raise ValueError("two\\n\\tlines")  # Value

    class Shapes(Score):
        def __call__(self, query, key):
            return query @ jnp.ones(97)  # Shapes

    class Truth(Score):
        def __call__(self, query, key):
            return 1.0 if query @ key > 0 else 0.0  # Truth

    class Checked(Score):
        @jaxtyped(typechecker=beartype)  # Checked
        def __call__(self, query: Float[Array, "a b"], key) -> Float[Array, ""]:
            return query @ key

    class NoRngs(Score):
        def __init__(self, query_dim, key_dim):  # NoRngs
            pass

    class NoCall(nnx.Module):  # NoCall
        def __init__(self, query_dim, key_dim, *, rngs):
            pass

    def one_argument(query):  # one_argument
        return query[0]

    def nothing(query, key):  # nothing
        pass

    class Exit(Score):
        def __call__(self, query, key):
            sys.exit(0)  # Exit

    class Helped(Score):
        def __call__(self, query, key):
            return mine_helper.answer(query)

    class Unspeakable(Exception):
        def __str__(self):
            raise RuntimeError

    def unspeakable(query, key):
        raise Unspeakable  # unspeakable

    def backward(query, key):
        @jax.custom_vjp
        def f(x):
            return x
        def back(_, g):
            raise LookupError("no way back")  # backward
        f.defvjp(lambda x: (x, None), back)
        return f(query @ key)

    def called(query, key):
        def host(x):
            raise OSError("host is down")  # called
        scalar = jax.ShapeDtypeStruct((), jnp.float32)
        rest = jax.lax.stop_gradient(query @ key)
        return jax.pure_callback(host, scalar, rest, vmap_method="broadcast_all")

    def task(cls):
        return register_dataclass(dataclass(frozen=True)(cls))

    @task
    class Copy(RandomSymbols):
        def _batch(self, symbols, length):
            return reconstruction(symbols, length)

    @task
    class Sample(Copy):
        def sample(self, key, size):
            return self.nothing  # Sample

    @task  # NoBatch
    class NoBatch(Copy):
        def sample(self, key, size):
            return None

    @task
    class HeldOut(Copy):
        def held_out(self, split, key, size, length=None):
            return {}[split]  # HeldOut

    @task
    class TestAlone(Copy):
        def held_out(self, split, key, size, length=None):
            if split == "test" and length == 2:
                raise IndexError(split)  # TestAlone
            return super().held_out(split, key, size, length)

    @task
    class Post(Copy):
        def __post_init__(self):
            a, b = 1, 2, 3  # Post

    @task
    class Source(Copy):
        @classmethod
        def source(cls, settings):
            return open("nowhere").read()  # Source

    @task
    class Settings(Copy):
        @classmethod
        def settings(cls):
            return cls.nothing  # Settings

    @task
    class Count(Copy):
        @classmethod
        def count(cls, tokens, batch, counts_row):
            return batch.nothing  # Count

    @task
    class Ratios(Copy):
        @classmethod
        def ratios(cls, counts):
            return counts["nothing"]  # Ratios

    @task
    class Concrete(Copy):
        def held_out(self, split, key, size, length=None):
            size = int(jnp.float32(size))  # no constant while shapes alone are looked at
            return super().held_out(split, key, size, length)

    class Greedy(ParallelDecoder):
        def greedy(self, memory, length, time, question=None):
            return memory.nothing  # Greedy

    class Memory(Encoder):
        def __call__(self, source, mask, dropout_key=None):
            return source.nothing  # Memory

    def normalizer(scores, where=None):
        return scores.nothing  # normalizer

    class Bias(nnx.Module):
        def __init__(self, heads, *, rngs):
            raise KeyError(heads)  # Bias
"""
HELPER = "def answer(query):\n    return query.answer\n"


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """The folder of a module of somebody's own, which can be imported."""
    folder = tmp_path_factory.mktemp("somewhere")
    (folder / "mine_all.py").write_text(textwrap.dedent(MINE))
    (folder / "mine_helper.py").write_text(HELPER)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder
    # A worker that comes back to this file has another folder, with modules of the same names.
    for name in ("mine_all", "mine_helper"):
        sys.modules.pop(name, None)


def built(changes):
    settings = small(changes, score="dot")
    return build(settings, read_source(settings))


def place(folder, name):
    """The file and the line that a comment marks."""
    lines = (folder / "mine_all.py").read_text().splitlines()
    number = next(n for n, line in enumerate(lines, 1) if line.endswith(f"  # {name}"))
    return f"{folder / 'mine_all.py'}:{number}"


SCORES = {
    "Attribute": "AttributeError: .*nothing",
    "Zero": "ZeroDivisionError: division by zero",
    "Value": "ValueError: two lines",
    "Shapes": "TypeError: dot_general",
    "Truth": "TracerBoolConversionError: ",
    "Checked": "TypeCheckError: .*'query'",
    "NoRngs": "ValueError: the score NoRngs cannot be made: .*'rngs'",
    "NoCall": "ValueError: score NoCall must make a module that is called",
    "one_argument": "ValueError: the score one_argument cannot be called: too many",
    "nothing": "ValueError: a score must return a scalar.* nothing returned None",
    "Exit": "SystemExit: 0",
    "unspeakable": "Unspeakable",
    "backward": "LookupError: no way back",
}
TASKS = {
    "Sample": "AttributeError: .*nothing",
    "NoBatch": "AttributeError: .*question",
    "HeldOut": "KeyError: 'validation'",
    "TestAlone": "IndexError: test",
    "Post": "ValueError: too many values to unpack",
    "Source": "FileNotFoundError: .*nowhere",
    "Settings": "AttributeError: .*nothing",
    "Count": "AttributeError: .*nothing",
}
OTHERS = {
    "Greedy": ("model.decoder", "AttributeError: .*nothing"),
    "Memory": ("model.encoder", "AttributeError: .*nothing"),
    "normalizer": ("model.normalizer", "AttributeError: .*nothing"),
    "Bias": ("model.bias", "KeyError: 2"),
}
PARTS = [
    *(("score.name", name, message) for name, message in SCORES.items()),
    *(("task.name", name, message) for name, message in TASKS.items()),
    *((field, name, message) for name, (field, message) in OTHERS.items()),
]


@pytest.mark.parametrize(("field", "name", "message"), PARTS, ids=[name for _, name, _ in PARTS])
def test_before_anything_is_written_an_error_is_told_by_field_file_and_line(
    mine, field, name, message
):
    where = re.escape(f"config.{field}='mine_all:{name}': {place(mine, name)}: ")
    with pytest.raises(UsageError, match=f"^{where}{message}[^\n]*$") as told:
        built({field: f"mine_all:{name}", "eval.lengths": (2,)})
    assert told.value.__cause__ is not None


def test_the_innermost_line_counts_though_another_module_has_it(mine):
    settings = small({"score.name": "mine_all:Helped"}, score="dot")
    where = re.escape(f"config.score.name='mine_all:Helped': {mine / 'mine_helper.py'}:2: ")
    with pytest.raises(UsageError, match=f"^{where}AttributeError"):
        build(settings, None)


def test_of_several_parts_the_one_is_named_whose_function_failed(mine):
    parts = {"score.name": "mine_all:Score", "model.encoder": "mine_all:Memory"}
    with pytest.raises(UsageError, match=r"^config\.model\.encoder='mine_all:Memory': "):
        build(small(parts, score="dot"), None)
    parts = {"score.name": "mine_all:Attribute", "task.name": "mine_all:Copy"}
    with pytest.raises(UsageError, match=r"^config\.score\.name='mine_all:Attribute': "):
        build(small(parts, score="dot"), None)


def test_what_takes_numbers_and_not_shapes_is_left_to_the_evaluation(mine):
    build(small({"task.name": "mine_all:Concrete"}), None)


def test_settings_that_do_not_fit_are_no_error_of_ones_own_score(mine):
    sizes = {"model.dim": 7, "model.heads": 1, "model.mixer": "gru"}
    with pytest.raises(UsageError, match=r"^config\.model\.dim=7: must be even"):
        build(small({"score.name": "mine_all:Score", **sizes}, score="dot"), None)


IMPORTS = {
    "x = 1\ndef f(:\n": "2: SyntaxError: ",
    "class Mine:\n    x = missing\n": "2: NameError: .*missing",
    "\nimport no_such_module\n": "2: ModuleNotFoundError: .*no_such_module",
    "\nimport sys\nsys.exit('no')\n": "3: SystemExit: no",
    "raise ValueError('at import')": "1: ValueError: at import",
    "raise UnicodeError": "1: UnicodeError$",
    "import json\njson.loads('{')": "2: JSONDecodeError",
}


@pytest.mark.parametrize("number", range(len(IMPORTS)))
@pytest.mark.parametrize("field", ["score.name", "task.name", "model.normalizer"])
def test_an_error_while_a_module_is_imported_is_told_by_line(tmp_path, monkeypatch, number, field):
    content, told = list(IMPORTS.items())[number]
    monkeypatch.syspath_prepend(tmp_path)
    module = f"broken_{number}_{field.partition('.')[0]}"
    (tmp_path / f"{module}.py").write_text(content)
    where = re.escape(f"config.{field}='{module}:Mine': {tmp_path / module}.py:")
    with pytest.raises(UsageError, match=f"^{where}{told}"):
        build(small({field: f"{module}:Mine"}), None)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("no_such_lab:Mine", "there is no module 'no_such_lab'$"),
        ("mine_all.part:Mine", r"there is no module 'mine_all\.part'$"),
        ("mine_all.py:Copy", r"there is no module 'mine_all\.py', which is named without \.py$"),
        ("mine_all:Nothing", r"module 'mine_all' \(.*mine_all\.py\) has no attribute 'Nothing'$"),
        ("./mine_all:Copy", "is no name of a module"),
    ],
)
@pytest.mark.parametrize("field", ["score.name", "task.name", "model.bias"])
def test_a_path_that_leads_nowhere_is_no_error_of_a_module(mine, field, name, told):
    with pytest.raises(UsageError, match=rf"^config\.{field}='{re.escape(name)}': .*{told}"):
        build(small({field: name}), None)


def test_a_class_that_lacks_methods_is_told_which(mine, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lacking.py").write_text("from attention.lab.tasks.task import Task as Mine\n")
    with pytest.raises(
        UsageError, match=r"^config\.task\.name='lacking:Mine': .* held_out, sample$"
    ):
        small({"task.name": "lacking:Mine"})


# While it trains.


def test_an_error_in_an_evaluation_loses_no_update(mine, tmp_path):
    settings = small({"task.name": "mine_all:Ratios"})
    where = re.escape(f"config.task.name='mine_all:Ratios': {place(mine, 'Ratios')}: KeyError")
    with pytest.raises(TrainingError, match=f"^{where}.*; the newest checkpoint is step 6$"):
        train_quietly(settings, tmp_path / "run")


def test_an_error_in_what_a_compiled_program_calls_has_a_line_too(mine, tmp_path):
    settings = small({"score.name": "mine_all:called"}, score="dot")
    where = re.escape(f"config.score.name='mine_all:called': {place(mine, 'called')}: OSError")
    with pytest.raises(TrainingError, match=f"^{where}: host is down; nothing was saved$"):
        train_quietly(settings, tmp_path / "run")


# Commands.


def test_a_command_tells_an_error_in_one_line_and_writes_nothing(monkeypatch, here, mine):
    config = f"{COPY}:mine_all:Attribute"
    status, out, err = run(monkeypatch, "train.py", config, *TINY)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: config.score.name='mine_all:Attribute': {mine}")
    assert err.endswith(" (--traceback shows all)\n")
    assert files(here) == {}
    status, _, err = run(monkeypatch, "train.py", config, *TINY, "--traceback")
    assert status == 2
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("error: config.score.name='mine_all:Attribute': ")
    assert "--traceback" not in err.splitlines()[-1]


def test_a_line_below_the_directory_is_named_from_there(monkeypatch, here):
    (here / "my_lab").mkdir()
    (here / "my_lab" / "near.py").write_text("\n1 / 0")
    monkeypatch.syspath_prepend(here)
    _, _, err = run(monkeypatch, "train.py", f"{COPY}:my_lab.near:Mine")
    assert ": my_lab/near.py:2: ZeroDivisionError" in err


def test_an_error_of_ones_own_that_nobody_expected_is_told_too(monkeypatch, here):
    (here / "anything.py").write_text("def train(*_):\n    return {}[1]\n")
    monkeypatch.syspath_prepend(here)
    import anything

    monkeypatch.setattr(train, "train", anything.train)
    status, _, err = run(monkeypatch, "train.py", COPY)
    assert (status, err) == (2, "error: anything.py:2: KeyError: 1 (--traceback shows all)\n")


def test_an_error_of_the_package_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(train, "train", math.sqrt)
    with pytest.raises(TypeError):
        run(monkeypatch, "train.py", COPY)


CONFIGS = {
    "def get_config(): pass": "1: get_config() returns None, where a ConfigDict is due",
    "\ndef get_config():\n    return {}": "2: get_config() returns a value of type dict",
    "\nraise RuntimeError('no')": "2: RuntimeError: no",
    "def get_config():\n    return {}['model']": "2: KeyError: 'model'",
    "\n\ndef get_config(:": "3: SyntaxError: ",
    "import sys\nsys.exit()": "2: SystemExit",
    "\nimport no_such_module": "2: ModuleNotFoundError",
    "get_config = lambda score: 3": "1: TypeError: ",
    "from attention.lab.configs import default_config\n"
    "def get_config():\n"
    "    config = default_config()\n"
    "    config.modle.dim = 3\n": "4: AttributeError: .*modle",
    "from attention.lab.configs import default_config\n"
    "def get_config():\n"
    "    return default_config(task='nope')": r"3: config\.task\.name='nope': is unknown; choose ",
}


@pytest.mark.parametrize("number", range(len(CONFIGS)))
def test_an_error_in_a_config_is_told_by_file_and_line(tmp_path, monkeypatch, number):
    content, told = list(CONFIGS.items())[number]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.py").write_text(content)
    told = told.replace("()", r"\(\)")
    with pytest.raises(UsageError, match=rf"^--config=bad\.py: bad\.py:{told}"):
        load("bad.py")


@pytest.mark.parametrize("content", ["", "get_config = 3"])
def test_a_config_without_the_function_is_told_so(tmp_path, content):
    (tmp_path / "bad.py").write_text(content)
    with pytest.raises(UsageError, match=r"bad\.py: has no function get_config$"):
        load(str(tmp_path / "bad.py"))


def test_a_score_that_a_flag_asks_for_is_not_the_fault_of_the_file(tmp_path):
    with pytest.raises(UsageError, match=r"^config\.score\.name='nope': "):
        load(str(ROOT / "configs" / "copy.py"), "nope")


def test_a_frozen_config_will_do(tmp_path):
    (tmp_path / "frozen.py").write_text(
        "from ml_collections import FrozenConfigDict\n"
        "from attention.lab.configs import default_config\n"
        "def get_config():\n"
        "    return FrozenConfigDict(default_config())\n"
    )
    assert load(str(tmp_path / "frozen.py")).name == "frozen"


def test_a_long_message_is_cut_and_its_annexes_are_left_out():
    error = ValueError("first\nsecond\n-----\nannex")
    assert own_code.message_of(error) == "ValueError: first second"
    assert len(own_code.message_of(ValueError("word " * 1000))) < 2 * own_code.MOST_LETTERS
    assert in_one_line(KeyError("a")) == "KeyError: 'a'"
    assert lines_of(KeyError("a")) == []


__all__ = ["here"]  # the directory of every test here
