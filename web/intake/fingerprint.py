"""What makes two submissions the same: their photos in order and their options, not the bytes of their envelope."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from web.intake.reception import Received


def of_job(
    photos: Iterable[Received], options: Mapping[str, Any], *, archive: Received | None = None, addresses: Any = ()
) -> bytes:
    """Return the SHA-256 over the options and each photo's name, SHA-256 and size.

    ``archive`` is what the job came as; ``addresses`` are lists of plain values, one for each photo to fetch.
    """
    digest = hashlib.sha256(b"POST /v1/jobs\n" + _canonical(options))
    for photo in photos:
        digest.update(b"\n" + _canonical([photo.name, photo.sha256.hex(), photo.size]))
    if archive is not None:
        digest.update(b"\narchive " + _canonical([archive.name, archive.sha256.hex(), archive.size]))
    for address in addresses:
        digest.update(b"\naddress " + _canonical(address))
    return digest.digest()


def of_request(method: str, path: str, body: Mapping[str, Any]) -> bytes:
    """Return the SHA-256 over a small request: its method, its path and what it says."""
    return hashlib.sha256(f"{method} {path}\n".encode() + _canonical(body)).digest()


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
