import pytest

from attention.lab.tasks.split import split

EXAMPLES = [b"%d" % number for number in range(5003)]


def test_the_split_of_an_example_never_changes():
    """The first 8 bytes of the SHA-256 of these words, over 2⁶⁴: 0.7914, 0.0193, 0.1335, 0.4640."""
    found = split([b"a", b"four", b"five", b"one"], validation=0.1, test=0.05)
    assert found == {"train": [0, 3], "validation": [2], "test": [1]}


@pytest.mark.parametrize(("validation", "test"), [(0.1, 0.2), (0.02, 0.1), (0.3, 0.3)])
def test_each_split_has_its_share(validation, test):
    found = split(EXAMPLES, validation=validation, test=test)
    assert len(found["validation"]) / len(EXAMPLES) == pytest.approx(validation, abs=0.02)
    assert len(found["test"]) / len(EXAMPLES) == pytest.approx(test, abs=0.02)
    assert sorted(n for numbers in found.values() for n in numbers) == list(range(5003))


def test_a_larger_validation_split_leaves_the_test_split_as_it_is():
    small, large = (split(EXAMPLES, validation=share, test=0.2) for share in (0.05, 0.3))
    assert small["test"] == large["test"]
    assert set(small["validation"]) < set(large["validation"])


def test_equal_examples_are_in_one_split():
    numbers = split(EXAMPLES * 2, validation=0.1, test=0.1)
    once = split(EXAMPLES, validation=0.1, test=0.1)
    assert numbers == {name: found + [n + 5003 for n in found] for name, found in once.items()}


def test_an_empty_split_is_refused():
    with pytest.raises(ValueError, match=r"^2 examples split into .*'validation': 0, 'test': 1}"):
        split([b"a", b"four"], validation=0.1, test=0.05)
