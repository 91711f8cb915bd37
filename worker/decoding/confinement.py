"""What a decoding child gives up before it sees the first file."""

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

from worker.decoding.seccomp import SandboxMissing, install_filter

CONFINED = "seccomp"
_PR_SET_PDEATHSIG = 1
_OPEN_FILES = 16


def confine(*, memory: int, parent: int) -> str:
    """Give up what decoding does not need, for good, and return what holds.

    Called once, after every codec has been loaded and before the first file is read. ``memory`` is how many bytes of
    address space may come on top of what the process has; ``parent`` is the process that started it, without which it
    ends. Returns ``seccomp``, or ``limits only: `` and the reason where the system has no filter of system calls.
    """
    _die_with(parent)
    missing = [
        name
        for name, wanted in (
            ("RLIMIT_AS", _address_space() + memory),
            ("RLIMIT_NOFILE", _OPEN_FILES),
            ("RLIMIT_FSIZE", 0),
            ("RLIMIT_CORE", 0),
        )
        if not _limit(getattr(resource, name), wanted)
    ]
    try:
        install_filter()
    except SandboxMissing as error:
        missing.append(str(error))
    return f"limits only: {', '.join(missing)}" if missing else CONFINED


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:  # it died before the line above
        sys.exit(0)


def _address_space() -> int:
    """Bytes of address space in use: programs, tables and whatever one decode of each kind has left behind."""
    if sys.platform != "linux":
        return 0
    pages = int(Path("/proc/self/statm").read_bytes().split()[0])
    return pages * resource.getpagesize()


def _limit(which: int, wanted: int) -> bool:
    """Set a limit, lower where the system's own is lower. Some systems have limits that they do not let one set."""
    hard = resource.getrlimit(which)[1]
    value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(which, (value, value))
    except (OSError, ValueError):
        return False
    return True
