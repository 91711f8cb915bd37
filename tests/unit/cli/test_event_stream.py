"""Reading server-sent events, by the examples and the rules of the standard."""

import pytest

from cli.event_stream import Message, messages


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("id: 1\nevent: ping\ndata: {}\n\n", [("1", "ping", "{}")]),
        ("data: a\ndata: b\n\n", [("", "message", "a\nb")]),
        ("data:a\n\ndata:  b\n\n", [("", "message", "a"), ("", "message", " b")]),  # one space is the field's own
        ("id: 1\ndata: a\n\ndata: b\n\n", [("1", "message", "a"), ("1", "message", "b")]),  # the last id holds on
        (": comment\n\nretry: 5\n\ndata: a\n\n", [("", "message", "a")]),
        ("event: x\n\ndata: a\n\n", [("", "message", "a")]),  # a type without data is forgotten
        ("data: a\r\n\r\n", [("", "message", "a")]),
        ("data\n\n", [("", "message", "")]),
        ("data: whole\n\nid: 2\ndata: cut", [("", "message", "whole")]),  # without its empty line it never came
        ("data: \N{LINE SEPARATOR}\n\n", [("", "message", "\N{LINE SEPARATOR}")]),
        ("id: 1\0\ndata: a\n\n", [("", "message", "a")]),
    ],
)
def test_messages_are_what_the_standard_says(text: str, found: list[tuple[str, str, str]]) -> None:
    assert list(messages(text.encode().split(b"\n"))) == [Message(*each) for each in found]
