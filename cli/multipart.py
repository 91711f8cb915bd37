"""A job's multipart body, made while it is sent: no photo is held in memory, and every one is hashed on its way."""

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from cli.photos import Photo
from shared.errors import Refused

_CHUNK: Final = 256 * 1024


class PhotoChanged(Refused):
    """A photo was changed or taken away while it was being sent."""


class PhotoForm:
    """A ``multipart/form-data`` body (RFC 7578): a JSON part ``job``, then one part ``photos`` for each photo.

    It may be iterated again, for a retry; then the files are read again. Once a pass is through, ``digests`` holds the
    SHA-256 of each photo, in hex and in order.
    """

    def __init__(
        self, job: Mapping[str, Any], photos: Sequence[Photo], sent: Callable[[int], None] = lambda _: None
    ) -> None:
        self.path = "/v1/jobs"
        self._photos = photos
        self._sent = sent
        self._boundary = secrets.token_hex(16)
        self._job = self._head('name="job"', "application/json") + json.dumps(job).encode() + b"\r\n"
        self._end = f"--{self._boundary}--\r\n".encode()
        self.digests: list[str] = []

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the body; its length is known before the first byte is read."""
        heads = sum(len(self._photo_head(photo)) + photo.size + 2 for photo in self._photos)
        return {
            "Content-Type": f"multipart/form-data; boundary={self._boundary}",
            "Content-Length": str(len(self._job) + heads + len(self._end)),
        }

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body; ``sent`` is told the photo bytes that are through so far."""
        self.digests = []
        through = 0
        self._sent(through)
        yield self._job
        for photo in self._photos:
            yield self._photo_head(photo)
            digest = hashlib.sha256()
            for chunk in chunks(photo):
                digest.update(chunk)
                yield chunk
                through += len(chunk)
                self._sent(through)
            yield b"\r\n"
            self.digests.append(digest.hexdigest())
        yield self._end

    def _photo_head(self, photo: Photo) -> bytes:
        # Escaped as browsers do it: these three characters and no others (WHATWG HTML, multipart/form-data).
        name = photo.name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
        return self._head(f'name="photos"; filename="{name}"', "application/octet-stream")

    def _head(self, disposition: str, kind: str) -> bytes:
        lines = (
            f"--{self._boundary}",
            f"Content-Disposition: form-data; {disposition}",
            f"Content-Type: {kind}",
            "",
            "",
        )
        return "\r\n".join(lines).encode("utf-8", errors="surrogateescape")


def chunks(photo: Photo) -> Iterator[bytes]:
    """Yield the bytes of a file that has the size it had; raises ``PhotoChanged``."""
    left = photo.size
    try:
        with photo.path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    break
                yield chunk
    except OSError as error:
        raise PhotoChanged(f"{photo.path} cannot be read: {error.strerror}") from error
    if left:
        raise PhotoChanged(f"{photo.path} changed while it was being sent; send it again")
