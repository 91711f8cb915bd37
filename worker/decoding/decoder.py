"""The worker's side of one decoding child: starting it, talking to it within limits of time, replacing it.

The child reads hostile files, so what it says is checked like anything else from outside, and the processor time that a
file may take is watched from here.
"""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import Unavailable
from shared.logs import logger
from worker.decoding.allowance import Allowance, ChildDied, ChildEnded, Overspent
from worker.decoding.confinement import CONFINED
from worker.decoding.frames import LENGTHS, MAX_HEAD, REQUEST
from worker.decoding.heif import is_heif
from worker.decoding.inbox import Inbox
from worker.decoding.outbox import Outbox
from worker.decoding.outcomes import REASONS, UNREADABLE, Decoded, Limits, Rejected, Unreadable
from worker.inference.preprocess import SIDE, Quality

log = logger(__name__)

_ROOT = Path(__file__).parents[2]
_PIXELS = SIDE * SIDE * 3
_MAX_COPY = 8 << 20
_START_SECONDS = 60.0
_END_SECONDS = 1.0
_TRIES = 2
CPU_SECONDS = 2.0
_HEIC_TIMES = 3  # 40 megapixels of HEVC take three times as long as those of a JPEG
_BRANDS = 256  # within these a HEIC says that it is one
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "HEIC")
# What one photo took of the heap is kept for the next one: fetching it from the kernel page by page, and giving it back
# after each photo, costs a tenth of a decode. Pieces above the first number, those of the largest photos, go back.
# One arena: libde265's thread would otherwise claim 128 MiB of the address space that a file may take.
HEAP = {"MALLOC_MMAP_THRESHOLD_": str(8 << 20), "MALLOC_TRIM_THRESHOLD_": str(32 << 20), "MALLOC_ARENA_MAX": "1"}
_is_told = threading.Event()


class DecoderAway(Unavailable):
    """A decoding child cannot be started on this machine. Retry later."""


class _ChildKilled(Exception):
    """Somebody outside ended the child: the system, when memory was short, or a person."""


class Decoder:
    """One decoding child, started when first needed and replaced when it dies or takes too long.

    ``seconds`` is the time by the clock that a file may take, ``cpu_seconds`` that of a processor. Belongs to the
    thread that uses it: Linux ends the child when the thread that started it ends.
    """

    def __init__(self, limits: Limits, *, seconds: float, cpu_seconds: float = CPU_SECONDS) -> None:
        self._limits = limits
        self._seconds = seconds
        self._cpu_seconds = cpu_seconds
        self._child: subprocess.Popen[bytes] | None = None
        self._inbox: Inbox | None = None
        self._outbox: Outbox | None = None
        self.confinement = ""
        """What holds the child: ``seccomp``, or ``limits only: `` and why; empty before the first one has started."""

    @property
    def pid(self) -> int | None:
        """The child's process, if there is one."""
        return self._child.pid if self._child else None

    def warm_up(self) -> None:
        """Start the child now; where that fails, the first photo says so."""
        with suppress(DecoderAway):
            self._start()

    def decode(self, data: bytes) -> Decoded | Rejected | Unreadable:
        """What becomes of the file ``data``, as ``decode_laid`` has it."""
        if len(data) > self._limits.max_bytes:
            return Rejected("too_large", f"The file has {len(data)} bytes; {self._limits.max_bytes} are the limit.")
        self.inbox.put(data)
        return self.decode_laid(len(data))

    @property
    def inbox(self) -> Inbox:
        """Where files are laid; it outlives a child that is replaced. Raises ``DecoderAway`` if it cannot be made."""
        if not self._inbox:
            try:
                self._inbox = Inbox(self._limits.max_bytes)
            except OSError as error:
                raise DecoderAway("There is no memory in which to lay a photo before a decoding child.") from error
        return self._inbox

    def decode_laid(self, size: int, *, is_alone: bool = False) -> Decoded | Rejected | Unreadable:
        """What becomes of the file of ``size`` bytes that lies in the inbox; with ``is_alone`` on two processors.

        A child that dies or hangs over it is replaced, and the file tried again. A crash that comes a second time is
        the file's doing, and so is processor time overspent. A child that was killed from outside, or had no moment of
        the processor, says nothing about the file: that is ``Unreadable``. Raises ``DecoderAway`` if no child can be
        started.
        """
        crashes = 0
        for tries_left in reversed(range(_TRIES)):
            try:
                self._start()
                return self._ask(size, is_alone=is_alone)
            except DecoderAway:
                if not tries_left:
                    raise
            except Overspent:
                self._end()
                return Rejected("timed_out", REASONS["timed_out"])
            except TimeoutError:  # a child that was stopped, or a machine without a moment to spare
                self._end()
            except _ChildKilled:
                self._end()
            except ChildDied:
                crashes += 1
                self._end()
        if crashes == _TRIES:
            return Rejected("decoder_died", REASONS["decoder_died"])
        return Unreadable("decoder_unavailable", UNREADABLE["decoder_unavailable"])

    def close(self) -> None:
        """End the child, and give back where files are laid."""
        self._end()
        inbox, self._inbox = self._inbox, None
        if inbox:
            inbox.close()

    def _end(self) -> None:
        child, self._child = self._child, None
        if child:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe:
                    with suppress(OSError):
                        pipe.close()
        outbox, self._outbox = self._outbox, None
        if outbox:
            outbox.close()

    def _start(self) -> None:
        if self._child and self._child.poll() is None:
            return
        self._end()
        limits = json.dumps(dataclasses.asdict(self._limits))
        try:
            inbox = self.inbox
            self._outbox = outbox = Outbox(_PIXELS + _MAX_COPY)
            arguments = [limits, str(os.getpid()), str(inbox.descriptor), str(outbox.descriptor)]
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "worker.decoding.child", *arguments],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[inbox.descriptor, outbox.descriptor],
                cwd="/",
                # Nothing of the worker's own environment: it holds secrets.
                env={"PYTHONPATH": str(_ROOT), "OPENBLAS_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"} | HEAP,
            )
            os.set_blocking(self._stdout, False)
            self._await_ready()
        except (OSError, ChildDied) as error:  # a start that takes too long is an OSError too
            self._end()
            raise DecoderAway("A decoding child could not be started.") from error

    def _await_ready(self) -> None:
        head, *_ = self._receive(Allowance(self._pid, _START_SECONDS))
        if head.get("ready") is not True:
            raise ChildDied
        self.confinement = str(head.get("confinement", "limits only: the child does not say"))
        if self.confinement != CONFINED and not _is_told.is_set():
            _is_told.set()
            log.warning("sandbox_missing", reason=self.confinement)

    @property
    def _pid(self) -> int:
        if not self._child:
            raise ChildDied
        return self._child.pid

    @property
    def _stdin(self) -> int:
        if not self._child or not self._child.stdin:
            raise ChildDied
        return self._child.stdin.fileno()

    @property
    def _stdout(self) -> int:
        if not self._child or not self._child.stdout:
            raise ChildDied
        return self._child.stdout.fileno()

    def _ask(self, size: int, *, is_alone: bool) -> Decoded | Rejected:
        try:
            cpu_seconds = self._cpu_seconds * (_HEIC_TIMES if is_heif(self.inbox.begins(min(size, _BRANDS))) else 1)
            allowance = Allowance(self._pid, self._seconds, cpu_seconds)
            self._request(size, is_alone)
            head, pixels, copy = self._receive(allowance)
        except ChildEnded:
            if self._was_killed():
                raise _ChildKilled from None
            raise
        try:
            return _outcome(head, pixels, copy)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ChildDied from error

    def _was_killed(self) -> bool:
        """Whether the child ended by SIGKILL: none of its own limits sends that, and its filter lets it send none."""
        if not self._child:
            return False
        with suppress(subprocess.TimeoutExpired):  # it closed its pipe and lives: no child of ours would
            return self._child.wait(_END_SECONDS) == -signal.SIGKILL
        return False

    def _request(self, *said: int) -> None:
        try:
            os.write(self._stdin, REQUEST.pack(*said))  # there is one request at a time: it always fits
        except BrokenPipeError:
            raise ChildEnded from None

    def _receive(self, allowance: Allowance) -> tuple[dict[str, Any], bytes, bytes]:
        said = self._read(b"", LENGTHS.size, allowance)
        head_size, body_size = LENGTHS.unpack_from(said)
        if head_size > MAX_HEAD or not self._outbox:
            raise ChildDied
        said = self._read(said, LENGTHS.size + head_size, allowance)
        try:
            head = json.loads(said[LENGTHS.size :])  # whatever came behind it is no JSON
            if not isinstance(head, dict):
                raise ChildDied
            return head, *self._outbox.take(_PIXELS, body_size)
        except (ValueError, RecursionError):
            raise ChildDied from None

    def _read(self, said: bytes, size: int, allowance: Allowance) -> bytes:
        """What the child has said so far and, until that is ``size`` bytes, says now: nearly always all at once."""
        while len(said) < size:
            allowance.wait_for(self._stdout)
            with suppress(BlockingIOError):
                more = os.read(self._stdout, MAX_HEAD)
                if not more:
                    raise ChildEnded
                said += more
        return said


def _outcome(head: dict[str, Any], pixels: bytes, copy: bytes) -> Decoded | Rejected:
    """What the child answered. Raises for anything that is no answer."""
    if "reason" in head:
        if head["reason"] not in REASONS or pixels:
            raise ValueError("no reason of ours")
        return Rejected(head["reason"], str(head["detail"])[:500])
    quality = head["quality"]
    if head["format"] not in _FORMATS or not copy.startswith(b"\xff\xd8"):
        raise ValueError("no picture of ours")
    return Decoded(
        pixels=np.frombuffer(pixels, np.uint8).reshape(SIDE, SIDE, 3),
        copy=copy,
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
