"""What a process has loaded stays until it ends, so that Python's collector need not look through it again and again.

Unasked it does so while modules are imported, now and then while the process works, and once more when it ends: CPU
for nothing, and pages that would never have been written.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


def settle() -> None:
    """Keep the collector from everything there is now; what is made from here on is collected as ever."""
    gc.freeze()


@contextmanager
def loading() -> Iterator[None]:
    """Import without the collector, then settle. It is set going again only where it was going before."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        settle()
        if was_on:
            gc.enable()
