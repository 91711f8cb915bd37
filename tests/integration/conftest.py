"""What integration tests share: a folder for real services."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def services_dir() -> Iterator[Path]:
    """A fresh folder that every user of the machine may enter, removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="poxvisio-services-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
