"""A program that confines itself as a decoding child does and then tries what a hostile file might make it try.

``python -m tests.security.photos.probe HOW [ATTEMPT]``; HOW is ``confined``, ``confined as nobody`` or ``free``.
Prints a JSON object: what holds, and per attempt ``done`` or the error. The deadly ones are tried one at a time.
"""

import ctypes
import errno
import json
import mmap
import os
import platform
import resource
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from worker.decoding.child import _try_codecs
from worker.decoding.confinement import confine

_LIBC = ctypes.CDLL(None, use_errno=True)
_HERE = Path(__file__)
_FOLDER = Path(tempfile.mkdtemp())
_PARENT = os.getppid()
_PIPE = os.pipe()
_NUMBERS = {
    "x86_64": {"ptrace": 101, "bpf": 321, "unshare": 272},
    "aarch64": {"ptrace": 117, "bpf": 280, "unshare": 97},
}
_MODE_READ_WRITE_EXECUTE = 7


def _checked(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "")


def _number(call: str) -> ctypes.c_long:
    return ctypes.c_long(_NUMBERS[platform.machine()][call])


def _fork() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _thread() -> None:
    thread = threading.Thread(target=_FOLDER.name.upper)
    thread.start()
    thread.join()


def _mprotect_executable() -> None:
    place = mmap.mmap(-1, mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(place))
    _checked(_LIBC.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), 5))


def _write_file() -> None:
    with (_FOLDER / "new").open("wb") as file:
        file.write(b"x")


REFUSED: dict[str, Callable[[], object]] = {
    "read a file": _HERE.read_bytes,
    "write a file": _write_file,
    "look at a file": _HERE.stat,
    "list a folder": lambda: os.listdir("/"),  # noqa: PTH208 -- the plain call is what is tried
    "remove a file": (_FOLDER / "old").unlink,
    "make a link": lambda: (_FOLDER / "link").symlink_to("/"),
    "open a socket to the network": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "open a datagram socket": lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
    "open a socket of this machine": lambda: socket.socket(socket.AF_UNIX),
    "make a pair of sockets": socket.socketpair,
    "make a pipe": os.pipe,
    "make a file in memory": lambda: os.memfd_create("x"),
    "start a process": _fork,
    "signal the worker": lambda: os.kill(_PARENT, 0),
    "signal itself": lambda: os.kill(os.getpid(), 0),
    "map executable memory": lambda: mmap.mmap(-1, mmap.PAGESIZE, prot=_MODE_READ_WRITE_EXECUTE),
    "make memory executable": _mprotect_executable,
    "raise a limit": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE)),
    "change the folder": lambda: os.chdir("/"),
    "copy a descriptor": lambda: os.dup(_PIPE[0]),
    "wait": lambda: signal.setitimer(signal.ITIMER_REAL, 0),
}
DEADLY: dict[str, Callable[[], object]] = {
    "start a program": lambda: os.execv("/bin/sh", ["sh", "-c", "exit 0"]),
    "be traced": lambda: _checked(_LIBC.syscall(_number("ptrace"), 0, 0, 0, 0)),
    "leave the namespaces": lambda: _checked(_LIBC.syscall(_number("unshare"), 0)),
}
STILL_WORKS: dict[str, Callable[[], object]] = {
    "take memory": lambda: bytes(64 << 20),
    "map memory": lambda: mmap.mmap(-1, 1 << 20),
    "write to the pipe": lambda: os.write(_PIPE[1], b"x"),
    "read from the pipe": lambda: os.read(_PIPE[0], 1),
    "decode a photo of each kind": _try_codecs,
    "start a thread": _thread,
    "be random": lambda: os.urandom(8),
}


def _tried(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "OSError")
    except Exception as error:  # noqa: BLE001 -- whatever it is, it is what is asked for
        return type(error).__name__
    return "done"


def main(how: str, deadly: str) -> None:
    """Confine this process, or leave it free, and report."""
    (_FOLDER / "old").touch()
    _FOLDER.chmod(0o777)
    _try_codecs()
    if how == "confined as nobody" and os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    holds = "nothing" if how == "free" else confine(memory=512 << 20, parent=_PARENT)
    if deadly:
        sys.stdout.write(json.dumps({deadly: _tried(DEADLY[deadly])}))
        return
    found = {name: _tried(attempt) for name, attempt in (REFUSED | STILL_WORKS).items()}
    sys.stdout.write(json.dumps({"holds": holds, "found": found}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if sys.argv[2:] else "")
