import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidInput, TooLarge
from service.http.limits import Limits, identifier, pointing, shown, sound, step
from service.settings import Settings


def test_every_limit_is_a_setting_with_the_same_default():
    settings = Settings()
    for field in dataclasses.fields(Limits):
        assert getattr(settings, field.name) == field.default


@given(st.lists(st.text(max_size=5), max_size=5).map(tuple))
def test_a_pointer_can_be_taken_apart_again(path):
    pointer = ""
    for key in path:
        pointer = step(pointer, key)
    keys = [key.replace("~1", "/").replace("~0", "~") for key in pointer.split("/")[1:]]
    assert tuple(keys) == path


@pytest.mark.parametrize("value", ["x" * 10_000, ["x"] * 10_000, 10**300, "\ud800", "\n\0", None])
def test_a_value_is_shown_short_and_printable(value):
    text = shown(value)
    assert len(text) < 90
    assert text.isprintable()


@pytest.mark.parametrize(
    ("raw", "value", "pointer"),
    [
        (b"\\u0000", {"a": ["x", "\0"]}, "/a/1"),
        (b"\\ud800", {"a": {"b/c": "\ud800"}}, "/a/b~1c"),
        (b"\\uDC00", ["\udc00"], "/0"),
        (b"\\ud800", {"\ud800": 1}, ""),
    ],
)
def test_an_unsound_text_is_pointed_at(raw, value, pointer):
    with pytest.raises(InvalidInput) as refused:
        sound(raw, value)
    assert refused.value.pointer == pointer


def test_a_deep_value_is_walked_without_recursion():
    value = "fine"
    for _ in range(100_000):
        value = [value]
    sound(b"\\ud83d", value)


def test_an_identifier_has_bounds_and_no_control_characters():
    assert identifier("é" * 512, pointer="") == "é" * 512
    for wrong in ("", "x" * 513, "a\x7f", "a\tb"):
        with pytest.raises(InvalidInput):
            identifier(wrong, pointer="")


def test_an_error_of_the_encoder_points_into_the_request():
    with pytest.raises(TooLarge) as refused, pointing("/queries", single=False):
        raise TooLarge("x", pointer="/inputs/3")
    assert refused.value.pointer == "/queries/3"
    with pytest.raises(InvalidInput) as refused, pointing("/query", single=True):
        raise InvalidInput("x", pointer="/dimensions")
    assert refused.value.pointer == "/dimensions"
