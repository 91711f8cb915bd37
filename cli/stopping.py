"""Requests to stop: SIGTERM and SIGINT, counted instead of obeyed on the spot."""

import select
import signal
import socket
import time
from types import FrameType, TracebackType
from typing import Self


class Stopping(Exception):
    """SIGTERM or SIGINT came while something else was waited for."""


class StopRequests:
    """Counts the requests to stop while it is entered, which only the main thread can do.

    The first request means drain. Of the further ones only SIGINT, somebody at a terminal, means hurry.
    """

    def __init__(self) -> None:
        self.count = 0
        self._old: dict[int, object] = {}
        self._reader: socket.socket | None = None
        self._writer: socket.socket | None = None

    def __enter__(self) -> Self:
        self._reader, self._writer = socket.socketpair()
        for end in (self._reader, self._writer):
            end.setblocking(False)
        # A child that dies wakes whoever pauses, as the requests do.
        handlers = {signal.SIGTERM: self._on_stop, signal.SIGINT: self._on_stop, signal.SIGCHLD: lambda *_: None}
        self._old = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal returned it takes back
        for end in (self._reader, self._writer):
            if end:
                end.close()
        self._reader = self._writer = None

    @property
    def hurry(self) -> bool:
        """Whether patience has ended."""
        return self.count > 1

    def check(self) -> None:
        """Raise ``Stopping`` if somebody asked to stop."""
        if self.count:
            raise Stopping

    def pause(self, seconds: float) -> None:
        """Wait, less if a signal comes."""
        if self._reader is None:
            time.sleep(seconds)
        elif select.select([self._reader], [], [], seconds)[0]:
            self._reader.recv(4096)

    def _on_stop(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT or not self.count:
            self.count += 1
