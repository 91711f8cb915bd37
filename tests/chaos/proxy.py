"""A TCP proxy of our own between the service and what it needs: it delays, cuts, swallows, and cuts at a COMMIT.

It listens on 127.0.0.1 and runs in a thread with a loop of its own. Of PostgreSQL's protocol (version 3.0, chapter
"Frontend/Backend Protocol" of its manual) it reads just enough to see the statements of a client go by.
"""

import asyncio
import contextlib
import re
import socket
import struct
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

Returned = TypeVar("Returned")

_PIECE: Final = 65536
# A first message without a type: requests for TLS and for GSSAPI; after the answer another first message follows.
_REQUESTS: Final = (80877103, 80877104)


class Statements:
    """Takes a client's bytes apart into PostgreSQL's messages; holds back what is not whole yet."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._started = False

    def messages(self, data: bytes) -> Iterator[tuple[bytes, str]]:
        """Yield each whole message as it came, and the statement it carries, empty for none."""
        self._buffer += data
        while (length := self._length()) is not None and len(self._buffer) >= length:
            message = bytes(self._buffer[:length])
            del self._buffer[:length]
            if self._started:
                yield message, _statement(message)
            else:
                self._started = struct.unpack_from("!I", message, 4)[0] not in _REQUESTS
                yield message, ""

    def _length(self) -> int | None:
        """Return the length of the first message; only after the very first ones it follows a type."""
        type_bytes = 1 if self._started else 0
        if len(self._buffer) < type_bytes + 4:
            return None
        return type_bytes + int(struct.unpack_from("!I", self._buffer, type_bytes)[0])


def _statement(message: bytes) -> str:
    if message[:1] == b"Q":
        return message[5:-1].decode("utf-8", "replace")
    if message[:1] == b"P":
        return message[5:].split(b"\0")[1].decode("utf-8", "replace")
    return ""


_NAMED: Final = re.compile(r"(?:^|;)\s*(?P<way>PREPARE|EXECUTE)\s+(?P<name>\w+)", re.IGNORECASE)


@dataclass
class CommitCut:
    """An order to cut one connection at its COMMIT, after a statement that contains ``marker``.

    ``before`` drops the COMMIT, so that it never happens; ``after`` lets it happen and drops the answer.
    """

    marker: str
    when: Literal["before", "after"]
    done: threading.Event = field(default_factory=threading.Event)


@dataclass(eq=False)
class _Link:
    """One client's connection, and ours to the server in its name."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    marked: bool = False
    drops_answer: CommitCut | None = None
    prepared: dict[str, str] = field(default_factory=dict)

    def meant(self, statement: str) -> str:
        """Return a statement with what it runs: that of an EXECUTE went over with its PREPARE, long ago maybe."""
        for found in _NAMED.finditer(statement):
            if found["way"].upper() == "PREPARE":
                self.prepared[found["name"]] = statement
        return "".join([statement, *(self.prepared.get(found["name"], "") for found in _NAMED.finditer(statement))])

    def reset(self) -> None:
        for writer in (self.client, self.server):
            if writer is not None:
                raw = writer.get_extra_info("socket")
                with contextlib.suppress(OSError):
                    # Lingering for no time at all makes the end a reset, as a killed host's would be.
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()


class Proxy:
    """Passes bytes between whoever connects and ``target`` (host, port) while its block runs.

    ``delay`` seconds are waited before each piece goes on, in both directions. ``reads_sql`` says that the target is
    PostgreSQL, without TLS, so that a COMMIT can be seen.
    """

    def __init__(self, target: tuple[str, int], *, reads_sql: bool = False) -> None:
        self.target = target
        self._reads_sql = reads_sql
        self.delay = 0.0
        self.passed = 0
        self._mode: Literal["open", "cut", "half-open"] = "open"
        self._links: set[_Link] = set()
        self._commit_cut: CommitCut | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._wait(asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=256))
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._wait(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Reset every connection, and every new one at once, until ``mend``."""
        self._become("cut")

    def half_open(self) -> None:
        """Swallow whatever comes, on old connections and new ones, and say nothing, until ``mend``."""
        self._become("half-open")

    def mend(self) -> None:
        """Pass bytes again; connections that swallowed some are reset, since nobody can make them whole."""
        self._become("open")

    def cut_at_commit(self, marker: str, when: Literal["before", "after"]) -> CommitCut:
        """Cut the first connection that commits after a statement that contains the marker, once."""
        self._commit_cut = CommitCut(marker, when)
        return self._commit_cut

    def _become(self, mode: Literal["open", "cut", "half-open"]) -> None:
        async def change() -> None:
            was, self._mode = self._mode, mode
            if mode == "cut" or was == "half-open":
                for link in list(self._links):
                    link.reset()

        self._wait(change())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer)
        self._links.add(link)
        try:
            if self._mode == "cut":
                return
            while self._mode == "half-open":
                if not await reader.read(_PIECE):
                    return
            far, link.server = await asyncio.open_connection(*self.target)
            ways = [
                asyncio.create_task(self._upstream(reader, link.server, link)),
                asyncio.create_task(self._downstream(far, writer, link)),
            ]
            _, left = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in left:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass  # the one side or the other went away, which is what a proxy passes on
        finally:
            link.reset()
            self._links.discard(link)

    async def _upstream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link) -> None:
        statements = Statements()
        async for piece in self._pieces(reader):
            for message, statement in statements.messages(piece) if self._reads_sql else [(piece, "")]:
                cut, meant = self._commit_cut, link.meant(statement)
                if cut is not None:
                    link.marked = link.marked or cut.marker in meant
                    if link.marked and statement.upper().startswith("COMMIT"):
                        self._commit_cut = None
                        if cut.when == "before":
                            cut.done.set()
                            return
                        link.drops_answer = cut
                if statement.upper().startswith(("COMMIT", "ROLLBACK")):
                    link.marked = False
                writer.write(message)
            await writer.drain()

    async def _downstream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link) -> None:
        async for piece in self._pieces(reader):
            if link.drops_answer is not None:
                link.drops_answer.done.set()
                return
            writer.write(piece)
            await writer.drain()

    async def _pieces(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        while piece := await reader.read(_PIECE):
            if self.delay:
                await asyncio.sleep(self.delay)
            if self._mode == "open":
                self.passed += len(piece)
                yield piece

    async def _end(self) -> None:
        self._server.close()
        for link in list(self._links):
            link.reset()
        while self._links:
            await asyncio.sleep(0.01)

    def _wait(self, work: Coroutine[Any, Any, Returned]) -> Returned:
        done: Future[Returned] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return done.result(30)
