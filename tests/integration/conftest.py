"""What integration tests share: a folder for real services, and a Valkey that a test may hurt."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.embedded.valkey import EmbeddedValkey


@pytest.fixture
def services_dir() -> Iterator[Path]:
    """A fresh folder that every user of the machine may enter, removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="poxvisio-services-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def valkey(services_dir: Path) -> Iterator[EmbeddedValkey]:
    """Return a Valkey of the test's own, which it may hurt."""
    server = EmbeddedValkey(services_dir / "valkey")
    yield server
    for pid in server.pids():
        os.kill(pid, signal.SIGCONT)
    server.stop()
