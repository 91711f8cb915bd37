"""Hostile files by the hundred thousand through the real decoding children: the program behind ``make fuzz``.

1. Pillow's own test images, out of its source distribution as the lock has it, among them its named crashes and bombs.
2. Seeded mutants of photos of every kind.

Nothing may end or hang a child, and no file may take more processor time or memory than the limits say. What does is
kept under ``build/fuzz`` and named with the seed; ``--seed`` repeats a run. Exit code 0 if nothing was found.
"""

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from rich.console import Console
from rich.progress import track

from tests.security.photos.bombs import BOMBS
from tests.security.photos.mutants import mutant
from worker.decoding.decoder import CPU_SECONDS, Decoder
from worker.decoding.outcomes import Decoded, Limits

ROOT = Path(__file__).parents[3]
KEPT = ROOT / "build" / "fuzz"
LIMITS = Limits(max_bytes=50 << 20, max_pixels=40_000_000, copy_side=768)
MOST_MEMORY = 512 << 20
_PILLOW = "pillow==13.0.0"


@dataclass(slots=True)
class Findings:
    """What came of a run: how often each outcome, the dearest file, and all that must not happen."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    cpu_seconds: float = 0.0
    dearest: str = ""
    memory: int = 0
    confinement: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, data: bytes, outcome: str, cpu_seconds: float, fault: str) -> None:
        """Count one file; keep it where it did what no file may do."""
        with self.lock:
            self.outcomes[outcome] += 1
            if cpu_seconds > self.cpu_seconds:
                self.cpu_seconds, self.dearest = cpu_seconds, name
            if fault:
                KEPT.mkdir(parents=True, exist_ok=True)
                (KEPT / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
                self.faults.append(f"{name}: {fault}")


def decode_all(named: Iterable[tuple[str, bytes]], *, children: int = 1) -> Findings:
    """Send every file through one of some decoding children, and watch what it does to it."""
    findings, coming, draw = Findings(), iter(named), threading.Lock()

    def work() -> None:
        decoder = Decoder(LIMITS, seconds=60)
        try:
            decoder.decode(b"x")
            process, before = _process(decoder), 0
            before = process.memory_info().rss
            while True:
                with draw:
                    name, data = next(coming, ("", b""))
                if not name:
                    break
                process = _watch(decoder, process, name, data, findings)
            with findings.lock:
                findings.confinement = decoder.confinement
                findings.memory = max(findings.memory, _peak(process) - before)
        finally:
            decoder.close()

    threads = [threading.Thread(target=work) for _ in range(children)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return findings


def _watch(decoder: Decoder, process: psutil.Process, name: str, data: bytes, findings: Findings) -> psutil.Process:
    """Decode one file, and return the child that is there now."""
    started = _cpu(process)
    answer = decoder.decode(data)
    outcome = "decoded" if isinstance(answer, Decoded) else answer.reason
    fault = outcome if outcome in {"decoder_died", "timed_out"} else ""
    if decoder.pid == process.pid:
        taken = _cpu(process) - started
        fault = fault or (f"took {taken:.2f} s of the processor" if taken > CPU_SECONDS else "")
    else:
        decoder.decode(b"x")
        process, taken, fault = _process(decoder), 0.0, fault or "its child ended"
    findings.add(name, data, outcome, taken, fault)
    return process


def _process(decoder: Decoder) -> psutil.Process:
    return psutil.Process(decoder.pid)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _peak(process: psutil.Process) -> int:
    """Return the most memory that the process ever had, in bytes; what it has now where the system does not say."""
    status = Path(f"/proc/{process.pid}/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")), process.memory_info().rss)


def mutants(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield the first mutants of a seed."""
    for number in range(count):
        yield f"mutant {number} of seed {seed}", mutant(seed, number)


def _archive() -> Path:
    return ROOT / "build" / "corpus" / f"{_PILLOW.replace('==', '-')}.tar.gz"


def has_corpus() -> bool:
    """Tell whether Pillow's source distribution was fetched before."""
    return _archive().exists()


def corpus() -> list[tuple[str, bytes]]:
    """Return Pillow's test images by name; its source is fetched once and must be the one that the lock names."""
    archive = _archive()
    if not archive.exists():
        command = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--no-binary", "pillow"]
        subprocess.run([*command, "--dest", str(archive.parent), _PILLOW], check=True)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest not in (ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8"):
        raise SystemExit(f"{archive} is not the one of the lock; remove it and try again")
    with tarfile.open(archive) as opened:
        members = [member for member in opened if "/Tests/images/" in member.name and member.isfile()]
        return [(member.name.split("/", 1)[1], _contents(opened, member)) for member in members]


def _contents(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file else b""


def _report(console: Console, title: str, findings: Findings) -> bool:
    counts = ", ".join(f"{count} {name}" for name, count in findings.outcomes.most_common())
    console.print(f"{title}: {findings.outcomes.total()} files: {counts}", highlight=False)
    console.print(
        f"  the dearest took {findings.cpu_seconds:.2f} s of the processor ({findings.dearest}), "
        f"memory grew by {findings.memory >> 20} MiB, children held by: {findings.confinement}",
        highlight=False,
    )
    if findings.memory > MOST_MEMORY:
        findings.faults.append(f"memory grew by more than {MOST_MEMORY >> 20} MiB")
    for fault in findings.faults:
        console.print(f"  FAULT {fault}", style="red", highlight=False, markup=False)
    return not findings.faults


def main() -> int:
    """Run everything and return the exit code."""
    parser = argparse.ArgumentParser(description="Send hostile files through the real decoding children.")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31), help="repeats a run")
    parser.add_argument("--mutants", type=int, default=100_000, help="how many (default: %(default)s)")
    parser.add_argument("--no-corpus", action="store_true", help="leave out Pillow's test images")
    asked = parser.parse_args()
    console = Console()
    console.print(f"seed {asked.seed}", highlight=False)
    parts = [("bombs", [(bomb.name, bomb.make()) for bomb in BOMBS])]
    if not asked.no_corpus:
        parts.append(("Pillow's test images", corpus()))
    is_good = True
    for title, files in parts:
        is_good &= _report(console, title, decode_all(track(files, title, console=console), children=1))
    shown = track(mutants(asked.seed, asked.mutants), "mutants", total=asked.mutants, console=console)
    is_good &= _report(console, "mutants", decode_all(shown, children=os.cpu_count() or 1))
    console.print("nothing found" if is_good else f"faults found; repeat with SEED={asked.seed}", highlight=False)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
