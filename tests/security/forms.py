"""Forms of photos, byte by byte: names go out as they are given, which no well-behaved client would do."""

from collections.abc import Iterable

BOUNDARY = b"the-boundary-of-the-tests"
TYPE = "multipart/form-data; boundary=the-boundary-of-the-tests"


def form(files: Iterable[tuple[str | bytes, bytes]]) -> bytes:
    """Return the body of a form with a part named ``photos`` for each file; only quotes in names are escaped."""
    parts = []
    for name, data in files:
        raw = (name if isinstance(name, bytes) else name.encode("utf-8")).replace(b'"', b"%22")
        head = b'Content-Disposition: form-data; name="photos"; filename="' + raw + b'"'
        parts.append(b"--" + BOUNDARY + b"\r\n" + head + b"\r\n\r\n" + data + b"\r\n")
    return b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"
