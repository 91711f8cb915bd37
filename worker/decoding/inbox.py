"""The memory in which a worker lays a file before its decoding child.

A pipe copies a photo twice, page by page, and wakes both sides for each of its fillings; here the child is told a
number of bytes and finds them.
"""

import fcntl
import mmap
import os
import sys
import tempfile

_KEPT = 8 << 20


class Inbox:
    """Room for one file at a time, of at most ``size`` bytes.

    The child's descriptor allows it to read; neither side can make the memory shorter under the other's feet. Raises
    ``OSError`` where the system has no more descriptors or no memory to promise.
    """

    def __init__(self, size: int) -> None:
        self._filled = 0
        writable = shared_file("photo", max(1, size))
        try:
            self._memory = mmap.mmap(writable, max(1, size))
            self.descriptor = _reading_descriptor(writable)
        finally:
            os.close(writable)

    def put(self, data: bytes) -> None:
        """Lay the next file down in place of the last one, and give back what only a large one needed."""
        if self._filled > _KEPT and sys.platform == "linux":
            self._memory.madvise(mmap.MADV_REMOVE, _KEPT)
        self._memory[: len(data)] = data
        self._filled = len(data)

    def close(self) -> None:
        """Give everything back; a child keeps what it has mapped until it ends."""
        self._memory.close()
        os.close(self.descriptor)


def open_inbox(descriptor: int, size: int) -> mmap.mmap:
    """The child's view of the memory, for reading alone. Takes the descriptor."""
    try:
        return mmap.mmap(descriptor, max(1, size), prot=mmap.PROT_READ)
    finally:
        os.close(descriptor)


def shared_file(name: str, size: int) -> int:
    """A file on no disk where this is Linux; pages that were never written take no memory. The name is for people."""
    if sys.platform != "linux":
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            return os.dup(file.fileno())
    made = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(made, size)
    fcntl.fcntl(made, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return made


def _reading_descriptor(writable: int) -> int:
    """A second opening of the file that can never be mapped for writing; a duplicate could."""
    if sys.platform != "linux":
        return os.dup(writable)
    return os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
