"""That a list is split where a person means it to be."""

import pytest

from attention.lab.sweeps.listed import split_values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1e-3", ["1e-3"]),
        ("linear,mlp", ["linear", "mlp"]),
        ("(3,),(1,2)", ["(3,)", "(1,2)"]),
        ("((1,2),(3,4)),((5,6),(7,8))", ["((1,2),(3,4))", "((5,6),(7,8))"]),
        ("[1,{2:(3,4)}],x", ["[1,{2:(3,4)}]", "x"]),
        ("'a,b',c", ["a,b", "c"]),
        ('"a,b","c"', ["a,b", "c"]),
        ("'a\"b,c',d", ['a"b,c', "d"]),
        (r"'it\'s,so',b", ["it's,so", "b"]),
        ("it's,b's", ["it's", "b's"]),
        (r"a\,b,c\(,C:\d", ["a,b", "c(", r"C:\d"]),
        ("('a,)',\"b\"),c", ["('a,)',\"b\")", "c"]),
        (r"('\'',2),'('", [r"('\'',2)", "("]),
        ("'',a", ["", "a"]),
    ],
)
def test_commas_in_brackets_and_quotes_are_of_a_value(text, values):
    assert split_values(text) == values


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "missing"),
        ("a,", "missing"),
        (",a", "missing"),
        ("(1,2", r"\( is not closed"),
        ("((1,2),3", r"\( is not closed"),
        ("1,2)", r"\) closes no bracket"),
        ("(1,2]", r"\] closes no bracket"),
        ("'a,b", "' is not closed"),
        ("('a,b)", "' is not closed"),
        ("'a\\", "' is not closed"),
    ],
)
def test_what_has_no_other_end_is_refused(text, told):
    with pytest.raises(ValueError, match=told):
        split_values(text)
