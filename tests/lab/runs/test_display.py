"""What is shown of a run, on a terminal and elsewhere."""

import io

import pytest
from rich.console import Console

from attention.lab.analysis.mean_sd import means, sds
from attention.lab.runs.display import Display, print_report, shown_while
from attention.lab.tasks.copy import Copy
from attention.lab.tasks.digits import Digits
from attention.lab.tasks.pronunciation import Pronunciation

METRICS = {"loss": 1.25, "token_accuracy": 0.5, "exact_match": 0.75, "alignment_accuracy": 0.625}


def console_of(width=None):
    terminal = width is not None
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=width or 80, color_system=None
    )


def row(exact, tokens=0.5, heads=(), **more):
    return {
        "sequences": 11,
        "token_accuracy": tokens,
        "exact_match": exact,
        "alignment_accuracy": 0.25 if heads else None,
        "alignment_accuracy_by_head": list(heads) or None,
        "query_dependence": None,
        **more,
    }


def report(by_length, *, seeds=1, failed=(), **more):
    """Of replicas that found the same."""
    measured = {"all": row(0.75, **more), "by_length": by_length}
    no_heads = len(more.get("heads", ())) * [None]  # of nothing that was counted
    none = {
        "all": row(None, None, no_heads),
        "by_length": {n: row(None, None, no_heads) for n in by_length},
    }
    replicas = [
        {"seed": seed, "failed": seed in failed, **(none if seed in failed else measured)}
        for seed in range(seeds)
    ]
    found = [{name: each[name] for name in ("all", "by_length")} for each in replicas]
    deviations = {"sd": sds(found)} if seeds > 1 else {}
    return {**means(found), **deviations, "replicas": replicas}


def printed(found, task=Copy, command=None, width=None):
    console = console_of(width)
    print_report(console, found, "title", task, command)
    return console.file.getvalue()


def cells_of(shown):
    return [
        [c.strip() for c in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line
    ]


def lengths_of(shown):
    return [row[0] for row in cells_of(shown)]


# Tables


def test_of_many_lengths_the_worst_and_the_longest_are_shown():
    found = report({"1": row(1.0), "2": row(0.25), "3": row(0.25), "10": row(0.5)})
    shown = printed(found, command="show all")
    assert lengths_of(shown) == ["all", "3 worst", "10 longest"]
    assert shown.endswith("all 4 lengths: show all\n")


@pytest.mark.parametrize(
    ("exacts", "told"),
    [
        ([1.0, 1.0, 1.0, 1.0], "longest"),  # 17 rows of 1.0000 say one thing
        ([1.0, 1.0, 1.0, 0.5], "longest, worst"),
    ],
)
def test_a_length_that_is_all_of_it_is_shown_once(exacts, told):
    found = report({str(n): row(exact) for n, exact in enumerate(exacts, 8)})
    assert lengths_of(printed(found, command="show all")) == ["all", f"11 {told}"]


def test_tokens_decide_where_no_sequence_is_right():
    tokens = [0.5, 0.25, 0.75, 0.5]
    found = report({str(n): row(0.0, share) for n, share in enumerate(tokens, 1)})
    assert lengths_of(printed(found, command="show all"))[1:] == ["2 worst", "4 longest"]


def test_lengths_of_which_there_are_no_sequences_are_neither():
    found = report({"1": row(0.5), "2": row(0.25), "3": row(0.75), "99": row(None, None)})
    shown = printed(found, command="show all")
    assert lengths_of(shown) == ["all", "2 worst", "3 longest"]
    nothing = report({str(n): row(None, None) for n in range(1, 5)})
    assert lengths_of(printed(nothing, command="show all")) == ["all", "1", "2", "3", "4"]


@pytest.mark.parametrize(("count", "command"), [(3, "show all"), (5, None)])
def test_few_lengths_and_those_that_were_asked_for_are_all_shown(count, command):
    found = report({str(n): row(0.5) for n in range(count)})
    shown = printed(found, command=command)
    assert lengths_of(shown) == ["all", *map(str, range(count))]
    assert "lengths:" not in shown


def test_several_seeds_have_deviations_and_no_heads():
    found = report({"8": row(0.5, heads=(0.1, 0.2))}, seeds=3, failed=[1], heads=(0.1, 0.2))
    shown = printed(found, width=60)
    assert shown.splitlines()[0].strip() == "title, mean ± sd of 2 seeds (1 failed, left out)"
    assert cells_of(shown)[0][2] == "0.5000"  # as in other tables, where the seeds agree
    assert "head 0" not in shown


@pytest.mark.parametrize("width", [60, 80, 120, None])
def test_four_heads_fit_every_width(width):
    heads = (0.1234, 0.2345, 0.3456, 0.4567)
    shown = printed(report({"500": row(0.5, heads=heads)}, heads=heads), width=width)
    for number in ("0.1234", "0.2345", "0.3456", "0.4567", "0.2500", "0.7500"):
        assert any(number in cells for cells in cells_of(shown))
    assert width is None or max(map(len, shown.splitlines()[1:])) <= width
    assert shown.count("length") == {60: 2, 80: 2, 120: 1, None: 1}[width]


def test_a_classifier_has_one_accuracy_and_no_column_of_dashes():
    shown = printed(report({}), Digits)
    headings = [c.strip() for c in shown.splitlines()[2].split("┃")[1:-1]]
    assert headings == ["length", "sequences", "accuracy"]
    assert cells_of(shown) == [["all", "11", "0.7500"]]


def test_error_rates_of_words_have_columns():
    rates = {"phoneme_error_rate": 0.125, "word_error_rate": 0.25}
    shown = printed(report({"7": row(0.5, **rates)}, **rates), Pronunciation)
    assert cells_of(shown)[0][-2:] == ["0.1250", "0.2500"]


def test_what_training_drew_is_told_beside_the_figures():
    found = report({"1": row(None, None, sequences=0, left_out=13), "4": row(0.5)}, left_out=2)
    shown = printed(found)
    assert "left out, trained on" in shown
    assert [cells[:3] for cells in cells_of(shown)] == [
        ["all", "11", "2"],
        ["1", "0", "13"],
        ["4", "11", "0"],
    ]
    assert "trained on" not in printed(report({"4": row(0.5)}))
    counted = printed(report({}, trained_on=3, left_out=0))
    assert "of them trained on" in counted
    assert "left out" not in counted
    assert "leave_out_trained" not in shown


def test_where_training_drew_everything_the_remedy_is_told():
    nothing = row(None, None, sequences=0, left_out=11)
    found = {"all": nothing, "by_length": {}, "replicas": [{"seed": 0, "failed": False}]}
    told = "training drew each of the 11 sequences, too, so all are left out;"
    assert told in printed(found)
    assert "config.eval.leave_out_trained=False counts them" in " ".join(printed(found).split())


# The live line


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_live_line_has_only_what_it_has_room_for(width):
    console = console_of(width)
    with Display(console, 400, Copy) as display:
        display.update(50, METRICS)
        display._bar.refresh()
        line = console.file.getvalue().rpartition("\r")[2]
    assert "50/400" in line
    assert "…" not in console.file.getvalue()
    assert ("updates/s" in line) == (width == 120)


def test_a_live_line_goes_when_it_is_over():
    console = console_of(80)
    with Display(console, 400, Copy) as display:
        display.update(400, METRICS)
    assert console.file.getvalue().endswith("\x1b[2K")  # which erases the line


def test_a_live_line_says_what_is_done_that_is_no_update():
    console = console_of(80)
    with Display(console, 400, Copy) as display:
        with display.during("compiling"):
            assert "0/400 compiling" in console.file.getvalue()
        display.update(50, METRICS)
        with display.during("evaluating"):
            assert "50/400 evaluating" in console.file.getvalue()
        display._bar.refresh()
        assert "50/400 loss 1.2500" in console.file.getvalue()


def test_where_there_is_no_terminal_progress_is_lines():
    console = console_of()
    with Display(console, 400, Copy) as display:
        with display.during("compiling"):
            pass
        display.update(50, METRICS)
    (line,) = console.file.getvalue().splitlines()
    assert line.startswith("step 50/400  loss 1.2500  tokens 0.5000  exact 0.7500  alignment")


def test_evaluation_shows_on_a_terminal_that_it_is_under_way():
    terminal, file = console_of(80), console_of()
    for console in (terminal, file):
        with shown_while(console, "evaluating"):
            pass
    assert "evaluating" in terminal.file.getvalue()
    assert file.file.getvalue() == ""
