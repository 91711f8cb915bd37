import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from cli.demo import PHOTOS
from cli.photos import find_photos
from tests.e2e.conftest import COMMAND, ROOT, environment, processes_below


@pytest.fixture
def temporary(services_root: Path) -> Path:
    """Return a folder of its own for what the demo puts into the folder of temporary files."""
    return Path(tempfile.mkdtemp(prefix="demo-", dir=services_root))


def _start(temporary: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*COMMAND, "demo"],
        env=environment(TMPDIR=str(temporary)),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _nothing_left(temporary: Path) -> bool:
    return list(temporary.iterdir()) == [] and processes_below(temporary) == []


def test_the_demo_accounts_for_every_photo_and_leaves_nothing_behind(temporary: Path) -> None:
    demo = _start(temporary)
    shown, _ = demo.communicate(timeout=150)
    photos = find_photos([str(PHOTOS)])
    count = len(photos)
    assert demo.returncode == 0, shown
    assert shown.splitlines()[-1] == f"demo: {count} photos sent, {count} answered, 0 unaccounted"
    for photo in photos:
        assert re.search(rf"^{re.escape(photo.name)} +{photo.size} ", shown, re.MULTILINE)
    assert "signature verified by standardwebhooks" in shown
    for stage in ("accepted", "closed"):
        assert f"receipt ({stage}): {count} of {count} accounted for, signature and Merkle root verified" in shown
    assert _nothing_left(temporary)


@pytest.mark.parametrize("moment", ["starting", "ready"])
def test_an_interrupted_demo_cleans_up(temporary: Path, moment: str) -> None:
    demo = _start(temporary)
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith(moment):
            break
    demo.send_signal(signal.SIGINT)
    demo.communicate(timeout=90)
    assert demo.returncode == 130
    end = time.monotonic() + 30
    while not _nothing_left(temporary) and time.monotonic() < end:
        time.sleep(0.1)
    assert _nothing_left(temporary)
