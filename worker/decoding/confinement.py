"""What a decoding child gives up before it sees the first file."""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1
_OPEN_FILES = 16


def confine(*, memory: int, parent: int) -> None:
    """Give up what decoding does not need: ``memory`` bytes of address space, few files, no dumps, no life of its own.

    Called once, after every codec has been loaded and before the first file is read. ``parent`` is the process that
    started this one; without it the child ends. The system call filter belongs here, as the last step.
    """
    _die_with(parent)
    for limit, wanted in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(limit)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(limit, (value, value))


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:  # it died before the line above
        sys.exit(0)
