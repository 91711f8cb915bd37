"""The multipart syntax: what is taken apart, and what is refused."""

import pytest

from web.intake.envelope import Begin, Data, End, Envelope, Malformed

HEAD = b'Content-Disposition: form-data; name="photos"; filename="a.jpg"'


def parts(body: bytes, piece: int = 7) -> list[tuple[str | None, str | None, bytes]]:
    found: list[tuple[str | None, str | None, bytes]] = []
    pieces = (body[at : at + piece] for at in range(0, len(body), piece))
    for event in Envelope(b"b").events(pieces):
        if isinstance(event, Begin):
            name, file_name, data = event.name, event.file_name, b""
        elif isinstance(event, Data):
            data += event.data
        elif isinstance(event, End):
            found.append((name, file_name, data))
    return found


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"--b\r\n" + HEAD + b"\r\n\r\nxyz\r\n--b--", [("photos", "a.jpg", b"xyz")]),
        (b"--b\r\n" + HEAD + b"\r\n\r\n\r\n--b--\r\n", [("photos", "a.jpg", b"")]),
        # An empty part may share its empty line with the delimiter (RFC 2046's grammar; some clients do).
        (b"--b\r\n" + HEAD + b"\r\n\r\n--b--", [("photos", "a.jpg", b"")]),
        (b"--b\r\n\r\nxyz\r\n--b--", [(None, None, b"xyz")]),
        (b"--b--", []),
        (b"text before\r\n--b  \r\n\r\n1\r\n--b\t\r\n\r\n2\r\n--b-- after", [(None, None, b"1"), (None, None, b"2")]),
        (b"--b\r\n" + HEAD + b"\r\n\r\n\r\n--\r\n\r\n-b\r\n--b--", [("photos", "a.jpg", b"\r\n--\r\n\r\n-b")]),
        (
            b"--b\r\ncontent-disposition: form-data; name=photos; filename*=UTF-8''%C3%A9.jpg\r\n\r\n\r\n--b--",
            [("photos", "é.jpg", b"")],
        ),
        (
            b'--b\r\nContent-Disposition: form-data; name="photos"; filename="\xe9.jpg"\r\n\r\n\r\n--b--',
            [("photos", "\ufffd.jpg", b"")],
        ),
    ],
)
def test_a_body_is_taken_apart(body: bytes, expected: list[object], piece: int) -> None:
    assert parts(body, piece) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b",
        b"--b-",
        b"--b\r\n",
        b"--b\r\n" + HEAD,
        b"--b\r\n" + HEAD + b"\r\n\r\nxyz",
        b"--b\r\n" + HEAD + b"\r\n\r\nxyz\r\n--b",
        b"--b\r\n" + HEAD + b"\r\n\r\nxyz\r\n--bx\r\n--b--",
        b"--b\n" + HEAD.replace(b"\r", b"") + b"\n\nxyz\n--b--",
        b"--other--",
        b"x" * 100_000,
        b"--b\r\n" + b"A: " + b"x" * 20_000 + b"\r\n\r\n\r\n--b--",
    ],
)
def test_what_is_no_multipart_body_is_refused(body: bytes) -> None:
    for piece in (3, 4096):
        with pytest.raises(Malformed):
            parts(body, piece)


def test_every_prefix_of_a_body_is_refused() -> None:
    body = b"--b\r\n" + HEAD + b"\r\n\r\nxyz\r\n--b\r\n\r\n\r\n--b--"
    for length in range(len(body)):
        with pytest.raises(Malformed):
            parts(body[:length])
