"""Benchmark of taking photos in: ``POST /v1/jobs`` of a real server against raw writing of the same bytes."""

import hashlib
import http.client
import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from benchmarks.apart import ROOT
from benchmarks.machine import Span
from benchmarks.report import Row, versus
from benchmarks.services import Services, running
from cli.embedded.ports import HOST, free_port
from cli.programs import WEB
from shared import accounts

_BOUNDARY = "benchmark-of-the-way-in"
_PIECE = 128 * 1024
_SYNCING = 16  # as many files at a time as the storage asks the disk for
_START_SECONDS = 60.0
_ACCEPTED = 202


def run(*, quick: bool) -> Iterator[Row]:
    """Send few large photos, then many small ones."""
    with running(broker=True) as services, server(services) as (port, web):
        key = key_of(services)
        sizes = ((10, 100_000),) if quick else ((100, 1_000_000), (1_000, 100_000))
        for count, size in sizes:
            yield _run(services, port, web, key, count=count, size=size, rounds=1 if quick else 7)


def _run(services: Services, port: int, web: int, key: str, *, count: int, size: int, rounds: int) -> Row:
    photos = [b"\xff\xd8\xff\xe0" + secrets.token_bytes(size - 4) for _ in range(count)]
    body = multipart(photos)
    posts, raws = [], []
    send(port, key, body)
    for round_number in range(rounds):
        with Span([os.getpid()]) as span:
            # Nothing is deleted in between: what a deletion owes the disk would be paid by whoever comes next.
            _write_raw(services.folder / f"raw-{count}-{round_number}", photos)
        raws.append(span)
        with Span([web, services.postgres]) as span:
            send(port, key, body)
        posts.append(span)
    post, raw = (statistics.median(span.wall for span in found) for found in (posts, raws))
    in_post, in_raw = (statistics.median(span.ours for span in found) for found in (posts, raws))
    megabytes = count * size / 1e6
    note = (
        f"{megabytes / post:.0f} MB/s against {megabytes / raw:.0f}; a photo costs {1000 * in_post / count:.2f} ms CPU "
        f"of web and PostgreSQL against {1000 * in_raw / count:.2f}; the client works on the same cores"
    )
    what = f"accept, {count:,} photos of {size // 1000:,} kB"
    return versus(what, count / post, "photos/s", "raw write, SHA-256, fsync", count / raw, at_least=0.5, note=note)


def _write_raw(folder: Path, photos: Sequence[bytes]) -> None:
    """Write and hash every photo, then ask the disk for all of them, several at a time: nothing safe is faster."""
    folder.mkdir()
    paths = [folder / f"{number:05d}" for number in range(len(photos))]
    for path, data in zip(paths, photos, strict=True):
        digest = hashlib.sha256()
        with path.open("wb", buffering=0) as file:
            for at in range(0, len(data), _PIECE):
                piece = data[at : at + _PIECE]
                digest.update(piece)
                file.write(piece)
    with ThreadPoolExecutor(_SYNCING) as pool:
        list(pool.map(_sync, [*paths, folder]))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def multipart(photos: Sequence[bytes]) -> bytes:
    """Return the photos as the body of a request."""
    parts = bytearray()
    for number, data in enumerate(photos):
        head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="photos"; filename="{number}.jpg"\r\n\r\n'
        parts += head.encode() + data + b"\r\n"
    return bytes(parts + f"--{_BOUNDARY}--\r\n".encode())


def send(port: int, key: str, body: bytes) -> str:
    """Send such a body and return the id of the job."""
    connection = http.client.HTTPConnection(HOST, port, timeout=120)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
    connection.request("POST", "/v1/jobs", body, headers)
    answer = connection.getresponse()
    said = answer.read()
    connection.close()
    if answer.status != _ACCEPTED:
        raise RuntimeError(f"{answer.status}: {json.loads(said)}")
    return str(json.loads(said)["id"])


def key_of(services: Services) -> str:
    """Return a key of a fresh tenant."""
    tenant: UUID = services.tenant()
    with services.database("poxvisio_owner") as database, database.transaction(tenant) as session:
        return accounts.create_key(session, tenant, "benchmark", ["jobs:write", "jobs:read"])


@contextmanager
def server(services: Services) -> Iterator[tuple[int, int]]:
    """Run the web process as ``poxvisio up`` does; gives its port and its pid."""
    port = free_port()
    command = [sys.executable, "-m", *(word.format(host=HOST, port=port) for word in WEB)]
    with (services.folder / "web.log").open("wb") as log:
        environment = {**os.environ, **services.environment("poxvisio_web_login")}
        web = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        _await(port, web, services.folder / "web.log")
        yield port, web.pid
    finally:
        web.send_signal(signal.SIGTERM)
        try:
            web.wait(30)
        except subprocess.TimeoutExpired:
            web.kill()
            web.wait()


def _await(port: int, web: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while web.poll() is None and time.monotonic() < end:
        try:
            connection = http.client.HTTPConnection(HOST, port, timeout=5)
            connection.request("GET", "/livez")
            connection.getresponse().read()
            connection.close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"the web process does not answer:\n{log.read_text(errors='replace')[-4000:]}")
