"""Standing back: threads and processes that take a processor only as far as nothing more urgent wants it."""

import os
import sys
import threading
from contextlib import suppress
from typing import Final

# A tenth of what is not standing back gets (the weights of sched(7)); enough to go on, whoever else is busy.
STANDING_BACK: Final = 10


def stand_back() -> None:
    """Let this thread, and every thread and process that it starts from now on, stand back; nobody can take it back.

    Only Linux knows that of a thread alone; elsewhere nothing happens, nor where a filter of system calls forbids it.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + STANDING_BACK)
