"""Owns the folder of compiled code: one for each bundle, engine, precision and machine, and never another's.

Code compiled on one processor may be wrong, slow or illegal on the next, and a cache travels easily: in an image, on a
shared disk. So the folder is named by all four, and what lies in it is kept only where its record repeats them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from shared.bundle import Bundle

RECORD = "parity.json"
# The lines of /proc/cpuinfo that say what a processor can compute: x86 first, then ARM.
_TRAITS = ("model name", "flags", "CPU implementer", "CPU part", "Features")


@contextlib.contextmanager
def compiled_folder(cache: Path, bundle: Bundle, engine: str, precision: str) -> Iterator[Path]:
    """The folder inside `cache` for this identity, held against other workers of this machine while inside.

    1. Waits for whoever compiles: OpenVINO's files race when two compile at once.
    2. Empties the folder unless its record says that this very identity passed the parity check.
    """
    own = identity(bundle, engine, precision)
    folder = cache / bundle.digest[:16] / f"{engine}-{precision}-{own['machine']}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _passed(folder / RECORD, own):
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir()
        yield folder


def identity(bundle: Bundle, engine: str, precision: str) -> dict[str, str]:
    """What compiled code and a parity record hold for."""
    return {
        "bundle": bundle.id,
        "digest": bundle.digest,
        "engine": engine,
        "precision": precision,
        "cpu": processor_name(),
        "machine": machine(),
    }


def machine() -> str:
    """Twelve hex digits that differ between processors with other names or other instructions."""
    traits = sorted({line for line in _cpuinfo() if line.startswith(_TRAITS)})
    said = "\n".join([platform.machine(), platform.processor(), *traits])
    return hashlib.sha256(said.encode()).hexdigest()[:12]


def _passed(record: Path, own: dict[str, str]) -> bool:
    try:
        said = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(said, dict) and said.get("passed") is True and all(said.get(key) == own[key] for key in own)


def processor_name() -> str:
    """What the processor calls itself."""
    names = (line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
