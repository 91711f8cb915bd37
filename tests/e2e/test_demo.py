import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.demo import PHOTOS
from cli.photos import find_photos
from tests.chaos.running import LONG
from tests.e2e.conftest import COMMAND, ROOT, environment, processes_below, until


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


def _says(word: str) -> Callable[["subprocess.Popen[str]", Path], bool]:
    """Wait until the demo says it."""

    def said(demo: "subprocess.Popen[str]", _: Path) -> bool:
        assert demo.stdout is not None
        return any(line.startswith(word) for line in demo.stdout)

    return said


def _starts_its_parts(demo: "subprocess.Popen[str]", temporary: Path) -> bool:
    """Wait until some of its processes run and others do not."""
    return until(lambda: any(temporary.glob("*/data/logs/*.log")) or demo.poll() is not None, 120)


@pytest.mark.parametrize(
    "comes",
    [
        pytest.param(_says("starting"), id="it starts"),
        pytest.param(_starts_its_parts, id="its parts start"),
        pytest.param(_says("ready"), id="it is ready", marks=LONG),
    ],
)
def test_an_interrupted_demo_cleans_up(temporary: Path, comes: Callable[["subprocess.Popen[str]", Path], bool]) -> None:
    demo = _start(temporary)
    assert comes(demo, temporary), "the moment never came"
    demo.send_signal(signal.SIGINT)
    demo.communicate(timeout=90)
    assert demo.returncode == 130
    end = time.monotonic() + 30
    while not _nothing_left(temporary) and time.monotonic() < end:
        time.sleep(0.1)
    assert _nothing_left(temporary)
