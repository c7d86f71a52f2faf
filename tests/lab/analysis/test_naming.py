from attention.lab.analysis.naming import described, headings, shown
from attention.lab.tasks.copy import Copy
from attention.lab.tasks.digits import Digits
from attention.lab.tasks.pronunciation import Pronunciation

METRICS = {"loss": 0.25, "token_accuracy": 0.5, "exact_match": 0.75, "alignment_accuracy": None}


def test_a_classifier_has_one_accuracy():
    assert shown(METRICS, Digits) == {"loss": 0.25, "accuracy": 0.75, "alignment_accuracy": None}
    assert described(METRICS, Digits) == ["loss 0.2500", "accuracy 0.7500"]


def test_another_task_has_the_accuracies_of_files():
    assert shown(METRICS, Copy) == METRICS
    assert described(METRICS, Copy) == ["loss 0.2500", "tokens 0.5000", "exact 0.7500"]


def test_what_only_one_task_has_comes_last():
    rates = {"phoneme_error_rate": 0.125, "word_error_rate": None}
    assert described(METRICS | rates, Pronunciation)[3:] == ["PER 0.1250"]
    assert list(headings(Pronunciation))[-3:-1] == ["phoneme_error_rate", "word_error_rate"]
