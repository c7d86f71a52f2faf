"""Which split each example of real data falls into."""

import hashlib
from collections.abc import Iterable


def split(examples: Iterable[bytes], *, validation: float, test: float) -> dict[str, list[int]]:
    """The numbers of the examples in each split.

    The split of an example depends on nothing but a hash of it, so it never changes.

    Args:
      examples: what must not be in two splits: a headword, an image.
      validation: share of the examples held out for validation.
      test: share of the examples held out for the test.

    Raises:
      ValueError: there are too few examples: a split is empty.
    """
    numbers: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for number, example in enumerate(examples):
        draw = int.from_bytes(hashlib.sha256(example).digest()[:8], "big") / 2**64
        held_out = "test" if draw < test else "validation"
        numbers[held_out if draw < test + validation else "train"].append(number)
    sizes = {name: len(found) for name, found in numbers.items()}
    if 0 in sizes.values():
        raise ValueError(f"{sum(sizes.values())} examples split into {sizes}; each needs one")
    return numbers
