"""An environment of its own for each peer, below build/peers: pinned packages, installed once, by the ordinary pip."""

import re
import subprocess
import sys
from pathlib import Path

from benchmarks.apart import ROOT

_HERE = Path(__file__).resolve().parent
_BUILD = ROOT / "build" / "peers"
_SECONDS = 1_200
_ADDRESS = re.compile(r"\S*[/@]\S*")


class NotInstalled(Exception):
    """A peer cannot be installed on this machine; says why. Trying again changes nothing."""


def python_of(name: str) -> Path:
    """Return the interpreter that has the peer; installs it where its list is new. Raises ``NotInstalled``."""
    wanted = _HERE / f"{name}.txt"
    folder = _BUILD / name
    python, stamp = folder / "bin" / "python", folder / "installed.txt"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted.read_text(encoding="utf-8"):
        return python
    if not python.exists():
        _run([sys.executable, "-m", "venv", str(folder)])
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(wanted)])
    stamp.write_text(wanted.read_text(encoding="utf-8"), encoding="utf-8")
    return python


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(type(error).__name__) from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip said nothing"]
        # What pip says names addresses of whoever runs it, which are nobody's business.
        raise NotInstalled(_ADDRESS.sub("...", said[-1])[:200])
