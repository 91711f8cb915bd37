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
        self._view = memoryview(self._memory)

    def put(self, data: bytes) -> None:
        """Lay the next file down in place of the last one."""
        with self.room(len(data)) as room:
            room[:] = data

    def room(self, size: int) -> memoryview:
        """The room for the next file, of ``size`` bytes, in place of the last one; to be released when it is laid.

        What only a large one needed is given back. Raises ``ValueError`` where there is no room for so many bytes.
        """
        if size > len(self._view):
            raise ValueError("more than there is room for")
        if self._filled > _KEPT and sys.platform == "linux":
            self._memory.madvise(mmap.MADV_REMOVE, _KEPT)
        self._filled = size
        return self._view[:size]

    def begins(self, size: int) -> bytes:
        """The first ``size`` bytes of the file, or of what was there before it."""
        return self._memory[:size]

    def close(self) -> None:
        """Give everything back; a child keeps what it has mapped until it ends."""
        self._view.release()
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
