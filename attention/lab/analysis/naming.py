"""What people read metrics by. Files name all of them as `metrics.ratios` does.

The target of a classifier is a single token, whose accuracy is that of the whole sequence: people
read one number, the accuracy.
"""

from collections.abc import Mapping
from typing import Any

from attention.lab.tasks.task import Task

TOKENS, EXACT, ACCURACY = "token_accuracy", "exact_match", "accuracy"

HEADINGS = {
    ACCURACY: "accuracy",
    TOKENS: "token accuracy",
    EXACT: "exact match",
    "alignment_accuracy": "alignment accuracy",
    "query_dependence": "query dependence",
}
# In lines about progress: of fewer metrics, in fewer words.
WORDS = {
    "loss": "loss",
    ACCURACY: "accuracy",
    TOKENS: "tokens",
    EXACT: "exact",
    "alignment_accuracy": "alignment",
}

Named = Task | type[Task]  # a task, or the class of it


def shown(metrics: Mapping[str, Any], task: Named) -> dict[str, Any]:
    """Metrics by the names that people read; those of a classifier have its accuracy.

    Args:
      metrics: values by the names that files have.
      task: what they are about.
    """
    if not task.classifier:
        return dict(metrics)
    names = {name: ACCURACY if name == EXACT else name for name in metrics if name != TOKENS}
    return {new: metrics[name] for name, new in names.items()}


def headings(task: Named) -> dict[str, str]:
    """The headings of columns of shares, by the metrics' names, in the order of the columns."""
    return {**HEADINGS, **task.metrics}


def described(metrics: Mapping[str, Any], task: Named) -> list[str]:
    """Loss and accuracies, each in a few words; a metric that is absent or null is left out.

    Args:
      metrics: values by the names that files have.
      task: what they are about.
    """
    values = shown(metrics, task)
    return [
        f"{word} {values[name]:.4f}"
        for name, word in {**WORDS, **task.metrics}.items()
        if isinstance(values.get(name), int | float)
    ]
