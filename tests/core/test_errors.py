import pytest

from danlu.core.errors import Interrupted, StageFailed, UserError, expect, need, suggest


def test_a_sentence_and_a_hint() -> None:
    assert str(UserError("no such file.", "look again")) == "no such file. look again."
    assert str(UserError("no such file")) == "no such file."


def test_exit_codes() -> None:
    assert (UserError("x").exit_code, StageFailed("x").exit_code, Interrupted("x").exit_code) == (2, 1, 130)


def test_suggestions() -> None:
    assert suggest("temprature", ["temperature", "top_p"]) == 'did you mean "temperature"?'
    assert suggest("zzz", ["b", "a"]) == "valid names: a, b"
    assert suggest("zzz", []) == "there are none"


def test_a_missing_extra_says_what_to_install() -> None:
    assert need("json", "x").__name__ == "json"
    with pytest.raises(UserError, match=r"danlu\[html\]"):
        need("no_such_module_at_all", "html")


@pytest.mark.parametrize(
    ("value", "kinds", "shown"),
    [
        (5, (str, list), "5"),
        (True, int, "True"),
        (None, str, "None"),
        (list(range(99)), str, r"\[0, 1, 2, 3, 4, 5, \.\.\.\]"),
        ({"a": "line\nline"}, str, r"\{'a': 'line\\nline'\}"),
    ],
)
def test_a_value_of_a_wrong_type_is_one_line(value: object, kinds: type | tuple[type, ...], shown: str) -> None:
    with pytest.raises(UserError, match=f"^it is {shown}. it must be another.$"):
        expect("it", value, kinds, "another")


def test_a_value_of_a_right_type() -> None:
    expect("it", 5, int, "")
    expect("it", True, (int, bool), "")
    expect("it", None, (str, type(None)), "")
