"""What workers of both sides note down as they go: one line each, in one write, so that no kill can halve it."""

import os
from collections import Counter
from pathlib import Path

READY, BEGUN, ANSWERED = "ready", "begun", "answered"


def note(what: str, which: str) -> None:
    """Add a line to the file that ``CONTRAST_NOTES`` names."""
    descriptor = os.open(os.environ["CONTRAST_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{what} {which}\n".encode())
    os.close(descriptor)


def read(path: Path, what: str) -> Counter[str]:
    """Return how often each was noted."""
    if not path.exists():
        return Counter()
    lines = (line.partition(" ") for line in path.read_text(encoding="utf-8").splitlines())
    return Counter(which for kind, _, which in lines if kind == what)
