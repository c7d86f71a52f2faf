"""Of `attention.lab.sweeps.train_group`."""

from small_sweeps import trials_of

from attention.lab.errors import TrainingError
from attention.lab.sweeps import train_group
from attention.lab.sweeps.folder import begin, make_group, result_of


def test_the_error_of_the_last_to_fail_is_not_told_of_each(begun, monkeypatch):
    def fail(settings, *_):
        raise TrainingError(f"at step 5 {settings.num_replicas} have no loss")

    monkeypatch.setattr(train_group, "train", fail)
    folder, trials = begun
    for some in (trials[:2], trials[2:]):
        assert train_group.main(folder, make_group(folder, some).id) == 1
    assert [result_of(folder, trial)["reason"] for trial in trials] == [
        *2 * ["the last of a group of 2 failed: at step 5 2 have no loss"],
        "at step 5 1 have no loss",
    ]


def test_a_group_that_cannot_be_is_told_in_the_last_line_of_its_log(here, capsys):
    trials = trials_of(["task.symbols=2000000000"])
    begin(here, trials)
    group = make_group(here, trials)
    assert train_group.main(here, group.id) == 2
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith("error: config.task.symbols=2000000000: training takes at least ")
    assert not group.run.path.exists()
