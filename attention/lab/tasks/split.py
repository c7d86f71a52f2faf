"""Which split, training, validation or test, each example of real data falls into."""

import hashlib
from collections.abc import Iterable


def split(examples: Iterable[bytes], *, validation: float, test: float) -> dict[str, list[int]]:
    """The numbers of the examples in each split.

    The split of an example depends on a hash of the example alone, so it never changes.

    Args:
      examples: what must not fall into two splits: headwords, or images.
      validation: share of the examples held out for validation.
      test: share of the examples held out for the test.

    Raises:
      ValueError: there are so few examples that a split is empty.
    """
    numbers: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for number, example in enumerate(examples):
        draw = int.from_bytes(hashlib.sha256(example).digest()[:8], "big") / 2**64
        held_out = "test" if draw < test else "validation"
        numbers[held_out if draw < test + validation else "train"].append(number)
    sizes = {name: len(members) for name, members in numbers.items()}
    if 0 in sizes.values():
        raise ValueError(f"{sum(sizes.values())} examples split into {sizes}; each needs one")
    return numbers
