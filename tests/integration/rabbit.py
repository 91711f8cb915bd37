"""A RabbitMQ that takes every token in until it is told to fall silent, as one does whose memory runs short."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, Final

_FRAME: Final = struct.Struct(">BHI")
_METHOD: Final = struct.Struct(">HH")
_END: Final = b"\xce"
_COMMAND: Final = 1
_DECLARE: Final = (50, 10)
_PUBLISH: Final = (60, 40)
_START: Final = b"\0\x09" + struct.pack(">I", 0) + struct.pack(">I5sI5s", 5, b"PLAIN", 5, b"en_US")
# What AMQP 0-9-1 answers to each method: of the connection, the channel, exchange and queue, and that it confirms.
_ANSWERS: Final = {
    (10, 11): ((10, 30), struct.pack(">HIH", 0, 131_072, 0)),
    (10, 40): ((10, 41), b"\0"),
    (10, 50): ((10, 51), b""),
    (20, 10): ((20, 11), struct.pack(">I", 0)),
    (20, 40): ((20, 41), b""),
    (40, 10): ((40, 11), b""),
    (50, 20): ((50, 21), b""),
    (85, 10): ((85, 11), b""),
}


class Rabbit:
    """Its end of each connection, by a thread."""

    def __init__(self, listening: socket.socket) -> None:
        self.url = f"amqp://guest:guest@127.0.0.1:{listening.getsockname()[1]}//"
        self.silent = threading.Event()
        self._listening = listening
        self._connections: list[socket.socket] = []

    def serve(self) -> None:
        """Take connections until the socket is closed."""
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def close(self) -> None:
        """End every connection, also for whoever waits for an answer on one."""
        for one in (self._listening, *self._connections):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _answer(self, connection: socket.socket) -> None:
        published = 0
        with connection, connection.makefile("rb") as asked:
            asked.read(8)
            _say(connection, 0, (10, 10), _START)
            for channel, method, body in _commands(asked):
                if self.silent.is_set():
                    continue
                if method in _ANSWERS:
                    _say(connection, channel, *_ANSWERS[method])
                elif method == _DECLARE:
                    name = body[2 : 3 + body[2]]
                    _say(connection, channel, (50, 11), name + struct.pack(">II", 0, 0))
                elif method == _PUBLISH:
                    published += 1
                    _say(connection, channel, (60, 80), struct.pack(">Q?", published, False))


def _commands(asked: BinaryIO) -> Iterator[tuple[int, tuple[int, int], bytes]]:
    """Yield channel, method and arguments of each command; what a message holds is passed by."""
    while len(head := asked.read(_FRAME.size)) == _FRAME.size:
        kind, channel, size = _FRAME.unpack(head)
        body = asked.read(size + 1)[:size]
        if kind == _COMMAND:
            class_id, method_id = _METHOD.unpack_from(body)
            yield channel, (class_id, method_id), body[_METHOD.size :]


def _say(connection: socket.socket, channel: int, method: tuple[int, int], arguments: bytes) -> None:
    body = _METHOD.pack(*method) + arguments
    connection.sendall(_FRAME.pack(_COMMAND, channel, len(body)) + body + _END)


@contextmanager
def rabbit() -> Iterator[Rabbit]:
    """Yield one on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made = Rabbit(listening)
        threading.Thread(target=made.serve, daemon=True).start()
        try:
            yield made
        finally:
            made.close()
