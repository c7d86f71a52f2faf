"""The tasks of the package, by the names that configs call them."""

from attention.lab.tasks.copy import Copy
from attention.lab.tasks.digits import Digits
from attention.lab.tasks.duplicate import Duplicate
from attention.lab.tasks.lookup import Lookup
from attention.lab.tasks.pronunciation import Pronunciation
from attention.lab.tasks.recall import Recall
from attention.lab.tasks.reverse import Reverse
from attention.lab.tasks.selective_copy import SelectiveCopy
from attention.lab.tasks.sort import Sort
from attention.lab.tasks.task import Task
from attention.lab.tasks.text import Text

TASKS: dict[str, type[Task]] = {
    "cmudict": Pronunciation,
    "copy": Copy,
    "digits": Digits,
    "duplicate": Duplicate,
    "lookup": Lookup,
    "recall": Recall,
    "reverse": Reverse,
    "selective_copy": SelectiveCopy,
    "sort": Sort,
    "text": Text,
}

DEFAULT = "copy"  # the task of a config that names none
