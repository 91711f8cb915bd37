"""A bundle's multipart body, made while it is sent: each file, and a report, as a part of its own name."""

import secrets
from collections.abc import Callable, Iterator
from typing import Final

from shared.bundle import CARD, LARGEST_REPORT, REPORT, SEALED, Bundle
from shared.errors import Refused

_CHUNK: Final = 256 * 1024


class BundleForm:
    """The body of ``POST /v1/models``; it may be iterated again, for a retry.

    Raises ``Refused`` for a report that no service would take: before a byte of the bundle is sent.
    """

    path: Final = "/v1/models"

    def __init__(self, bundle: Bundle, sent: Callable[[int], None] = lambda _: None) -> None:
        self._boundary = secrets.token_hex(16)
        self._files = [bundle.file(name) for name in (CARD, *SEALED)]
        if (report := bundle.file(REPORT)).is_file():
            if (size := report.stat().st_size) > LARGEST_REPORT:
                raise Refused(
                    f"{report} has {size:,} bytes, and a report may have {LARGEST_REPORT:,}: nothing was sent; "
                    "take it away, or let poxvisio evaluate write it anew"
                )
            self._files.append(report)
        self._sizes = [file.stat().st_size for file in self._files]
        self._end = f"--{self._boundary}--\r\n".encode()
        self.sent = sent

    @property
    def size(self) -> int:
        """The bytes of the files together."""
        return sum(self._sizes)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the body; its length is known before the first byte is read."""
        heads = sum(len(self._head(file.name)) + 2 for file in self._files)
        return {
            "Content-Type": f"multipart/form-data; boundary={self._boundary}",
            "Content-Length": str(heads + self.size + len(self._end)),
        }

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body; ``sent`` is told the bytes of files that are through so far."""
        through = 0
        for file in self._files:
            yield self._head(file.name)
            with file.open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    yield chunk
                    through += len(chunk)
                    self.sent(through)
            yield b"\r\n"
        yield self._end

    def _head(self, name: str) -> bytes:
        said = f'Content-Disposition: form-data; name="{name}"; filename="{name}"'
        return f"--{self._boundary}\r\n{said}\r\nContent-Type: application/octet-stream\r\n\r\n".encode()
