"""The memory in which a decoding child lays a picture for its worker: a pipe would copy it twice, page by page."""

import mmap
import os
from collections.abc import Iterable
from typing import Self

from worker.decoding.inbox import shared_file


class Outbox:
    """Room for one answer at a time, of at most ``size`` bytes, that the child may write and the worker only read.

    What lies in it may change at any moment, so the worker takes its own copy and judges that. Raises ``OSError`` where
    the system has no more descriptors or no memory to promise.
    """

    def __init__(self, size: int) -> None:
        self.descriptor = shared_file("picture", size)
        try:
            self._memory = mmap.mmap(self.descriptor, size, prot=mmap.PROT_READ)
        except BaseException:
            os.close(self.descriptor)
            raise

    def take(self, first: int, size: int) -> tuple[bytes, bytes]:
        """Copies of the ``first`` bytes of ``size``, and of the others.

        Raises ``ValueError`` where there is no room for so many.
        """
        if size > len(self._memory):
            raise ValueError("more than there is room for")
        return self._memory[: min(first, size)], self._memory[first:size]

    def close(self) -> None:
        """Give everything back; a child keeps what it has mapped until it ends."""
        self._memory.close()
        os.close(self.descriptor)


class ChildsOutbox:
    """The child's view of the memory."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory

    @classmethod
    def open(cls, descriptor: int) -> Self:
        """Take the descriptor, which is closed afterwards."""
        try:
            return cls(mmap.mmap(descriptor, os.fstat(descriptor).st_size))
        finally:
            os.close(descriptor)

    def put(self, parts: Iterable[bytes | memoryview]) -> int:
        """Lay the parts down one after the other and return how long they are together."""
        filled = 0
        for part in parts:
            self._memory[filled : filled + len(part)] = part
            filled += len(part)
        return filled
