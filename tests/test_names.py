import pytest
from oracles import Distance

from attention.names import find_named

TABLE = {"one": 1, "two": 2}


def test_a_name_is_looked_up():
    assert find_named("number", TABLE, "two") == 2


def test_a_path_is_imported_whatever_it_leads_to():
    assert find_named("number", TABLE, "oracles:Distance") is Distance
    assert find_named("number", TABLE, "oracles:KEYS") == 7


def test_an_entry_comes_before_a_path():
    assert find_named("number", {"oracles:KEYS": 11}, "oracles:KEYS") == 11


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("three", r"^number 'three' is unknown; choose one, two or a path module:Name$"),
        ("", r"^number '' is unknown; choose one, two or"),
        ("nowhere.numbers:Mine", r"^number 'nowhere.numbers:Mine' cannot be imported: .*nowhere"),
        ("oracles:Nothing", r"^number 'oracles:Nothing' cannot be imported: .*Nothing"),
        (":Mine", r"^number ':Mine' cannot be imported"),
        (".numbers:Mine", r"^number '.numbers:Mine' cannot be imported"),
    ],
)
def test_what_cannot_be_found_is_explained(name, message):
    with pytest.raises(ValueError, match=message):
        find_named("number", TABLE, name)
