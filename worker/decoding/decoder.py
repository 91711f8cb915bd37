"""The worker's side of one decoding child: starting it, talking to it within a time limit, replacing it.

The child reads hostile files, so what it says is checked like anything else from outside.
"""

import dataclasses
import fcntl
import json
import math
import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import Unavailable
from worker.decoding.frames import LENGTHS, MAX_HEAD, pack_head
from worker.decoding.outcomes import REASONS, Decoded, Limits, Rejected
from worker.inference.preprocess import SIDE, Quality

_ROOT = Path(__file__).parents[2]
_PIXELS = SIDE * SIDE * 3
_MAX_COPY = 8 << 20
_PIPE = 1 << 20
_START_SECONDS = 60.0
_CHUNK = 1 << 20
_TRIES = 2
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP")


class DecoderAway(Unavailable):
    """A decoding child cannot be started on this machine. Retry later."""


class _ChildDied(Exception):
    """The child ended, or said what no child of ours would say."""


class Decoder:
    """One decoding child, started when first needed and replaced when it dies or takes too long.

    Belongs to the thread that uses it: Linux ends the child when the thread that started it ends.
    """

    def __init__(self, limits: Limits, *, seconds: float) -> None:
        self._limits = limits
        self._seconds = seconds
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The child's process, if there is one."""
        return self._child.pid if self._child else None

    def decode(self, data: bytes) -> Decoded | Rejected:
        """What becomes of the file ``data``; a child that dies over it is replaced, and the file tried once more.

        A second death is the file's doing. Raises ``DecoderAway`` if no child can be started.
        """
        for tries_left in reversed(range(_TRIES)):
            try:
                self._start()
                return self._ask(data)
            except DecoderAway:
                if not tries_left:
                    raise
            except TimeoutError:
                self.close()
                return Rejected("timed_out", f"The decoder took more than {self._seconds:g} seconds over this file.")
            except _ChildDied:
                self.close()
        return Rejected("decoder_died", REASONS["decoder_died"])

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe:
                    with suppress(OSError):
                        pipe.close()

    def _start(self) -> None:
        if self._child and self._child.poll() is None:
            return
        self.close()
        limits = json.dumps(dataclasses.asdict(self._limits))
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "worker.decoding.child", limits, str(os.getpid())],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd="/",
                # Nothing of the worker's own environment: it holds secrets.
                env={"PYTHONPATH": str(_ROOT), "OPENBLAS_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"},
            )
            for pipe in (self._stdin, self._stdout):
                os.set_blocking(pipe, False)
                if sys.platform == "linux":
                    with suppress(OSError):  # an account may hold only so much; photos then take more turns
                        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)
            self._await_ready()
        except (OSError, _ChildDied) as error:  # a start that takes too long is an OSError too
            self.close()
            raise DecoderAway("A decoding child could not be started.") from error

    def _await_ready(self) -> None:
        head, _ = self._receive(time.monotonic() + _START_SECONDS)
        if head != {"ready": True}:
            raise _ChildDied

    @property
    def _stdin(self) -> int:
        if not self._child or not self._child.stdin:
            raise _ChildDied
        return self._child.stdin.fileno()

    @property
    def _stdout(self) -> int:
        if not self._child or not self._child.stdout:
            raise _ChildDied
        return self._child.stdout.fileno()

    def _ask(self, data: bytes) -> Decoded | Rejected:
        deadline = time.monotonic() + self._seconds
        self._send(pack_head({}, len(data)), deadline)
        self._send(data, deadline)
        head, body = self._receive(deadline)
        try:
            return _outcome(head, body)
        except (KeyError, TypeError, ValueError) as error:
            raise _ChildDied from error

    def _send(self, data: bytes, deadline: float) -> None:
        left = memoryview(data)
        while left:
            _await(self._stdin, select.POLLOUT, deadline)
            try:
                left = left[os.write(self._stdin, left) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise _ChildDied from None

    def _receive(self, deadline: float) -> tuple[dict[str, Any], bytes]:
        head_size, body_size = LENGTHS.unpack(self._read(LENGTHS.size, deadline))
        if head_size > MAX_HEAD or body_size > _PIXELS + _MAX_COPY:
            raise _ChildDied
        try:
            head = json.loads(self._read(head_size, deadline))
        except ValueError:
            raise _ChildDied from None
        if not isinstance(head, dict):
            raise _ChildDied
        return head, self._read(body_size, deadline)

    def _read(self, size: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            _await(self._stdout, select.POLLIN, deadline)
            with suppress(BlockingIOError):
                piece = os.read(self._stdout, min(size - len(data), _CHUNK))
                if not piece:
                    raise _ChildDied
                data += piece
        return bytes(data)


def _await(pipe: int, event: int, deadline: float) -> None:
    """Return when the pipe is ready or broken. Raises ``TimeoutError``."""
    poll = select.poll()
    poll.register(pipe, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError


def _outcome(head: dict[str, Any], body: bytes) -> Decoded | Rejected:
    """What the child answered. Raises for anything that is no answer."""
    if "reason" in head:
        if head["reason"] not in REASONS or body:
            raise ValueError("no reason of ours")
        return Rejected(head["reason"], str(head["detail"])[:500])
    quality = head["quality"]
    if head["format"] not in _FORMATS or len(body) <= _PIXELS or body[_PIXELS : _PIXELS + 2] != b"\xff\xd8":
        raise ValueError("no picture of ours")
    return Decoded(
        pixels=np.frombuffer(body, np.uint8, _PIXELS).reshape(SIDE, SIDE, 3),
        copy=body[_PIXELS:],
        quality=Quality(
            blur=_number(quality["blur"]),
            exposure=_number(quality["exposure"]),
            size=int(_number(quality["size"])),
            flat=_number(quality["flat"]),
        ),
        width=int(_number(head["width"])),
        height=int(_number(head["height"])),
        format=head["format"],
        seconds=_number(head["seconds"]),
    )


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("no number")
    return value
