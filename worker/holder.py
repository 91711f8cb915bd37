"""The name under which a process holds leases, and releasing what dead processes of this host still hold.

A name is HOST/PID/START, with the name of a part of the process behind HOST where it has a part, so that any process of
the host can tell whether its holder lives. A dead worker's photos then wait for nobody: whoever sees the death, a new
child or the supervisor, releases its leases at once. Nothing in a name comes from a clock that can be set: on Linux
START is the ticks since the boot (proc(5)), and HOST names the boot and the space of process ids too, since machines
and containers may share a name and not their processes. What was held before a reboot runs out by its lease.
"""

import os
import socket
from pathlib import Path

import psutil

from shared.database import Database
from shared.ledger import reap
from shared.logs import logger

log = logger(__name__)

_PIDS = Path("/proc/self/ns/pid")
_BOOT = Path("/proc/sys/kernel/random/boot_id")
# Field 22 of /proc/PID/stat, counted from behind the name, which may hold anything.
_START_TICKS = 19


def host_name() -> str:
    """Return this host's name as it stands in holders' names."""
    host = socket.gethostname().replace("/", "-")
    if not (_BOOT.exists() and _PIDS.exists()):
        return host
    return f"{host}-{_BOOT.read_text(encoding='ascii')[:8]}-{_PIDS.stat().st_ino}"


def holder_name(part: str = "") -> str:
    """Return the name of this process, or of a part of it whose leases are released apart from the others."""
    return "/".join(filter(None, (host_name(), part, str(os.getpid()), _started(os.getpid()))))


def is_alive(holder: str) -> bool:
    """Return whether the process of that name, on this host, still runs. A pid used again does not count."""
    _, pid, started = holder.rsplit("/", 2)
    try:
        return psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE and _started(int(pid)) == started
    except psutil.NoSuchProcess:
        return False


def release_dead(database: Database) -> int:
    """Release the leases that dead processes of this host hold, and return how many there were."""
    with database.transaction() as session:
        dead = [holder for holder in reap.holders(session, host_name()) if not is_alive(holder)]
    released = 0
    for holder in dead:
        # A release may count into jobs, which is the last thing that a transaction does.
        with database.transaction() as session:
            released += reap.release(session, holder).total
    if released:
        log.warning("leases_of_dead_released", holders=len(dead), units=released)
    return released


def _started(pid: int) -> str:
    """Return when a process began, as a word; raises ``psutil.NoSuchProcess``."""
    if not _BOOT.exists():
        return str(int(psutil.Process(pid).create_time() * 100))
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        raise psutil.NoSuchProcess(pid) from None
    return fields[_START_TICKS]
