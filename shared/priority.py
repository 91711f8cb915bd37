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

    It is one that works through what there is, too (``SCHED_BATCH`` of sched(7)): woken, it waits for its turn, and
    whoever has the processor keeps what lies in its caches. Only Linux knows that of a thread alone; elsewhere nothing
    happens, nor where a filter of system calls forbids it.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + STANDING_BACK)
        with suppress(OSError):
            if os.sched_getscheduler(thread) == os.SCHED_OTHER:  # else somebody has chosen, perhaps less than this
                os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))
