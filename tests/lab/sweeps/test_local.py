"""Of `attention.lab.sweeps.local`."""

from small_sweeps import trials_of, wait_for

from attention.lab.sweeps.folder import begin, make_group, result_of
from attention.lab.sweeps.local import Local

SCORE = """
from attention.scores import Dot

class Mine(Dot):
    pass
"""


def test_a_process_finds_a_score_in_the_current_directory(monkeypatch, here):
    (here / "scores_of_a_user.py").write_text(SCORE)
    monkeypatch.syspath_prepend(here)  # of this process; the other has its current directory
    trials = trials_of(["score=scores_of_a_user:Mine"])
    folder = here / "sweep"
    folder.mkdir()
    begin(folder, trials)
    group = make_group(folder, trials)
    with Local(1) as engine:
        training = engine.start(group)
        wait_for(training.ending)
    assert training.ending() == "status 0", group.log.read_text()
    assert result_of(folder, trials[0])["status"] == "done"
