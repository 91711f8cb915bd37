"""Named crash points: each is passed at one place, none does anything unless asked to, and those asked for kill."""

import ast
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from shared import crash_points
from shared.errors import InvalidSetting
from shared.settings import Settings
from tests.unit.test_house import ROOT, SETTINGS, modules

# Passes two points in turn, four times, and says so.
PROGRAM = """
import sys
from shared import crash_points
crash_points.arm(sys.argv[1])
for time in range(4):
    for point in ("worker.claimed", "worker.decoded"):
        crash_points.passing(point)
        print(point, flush=True)
"""


def passed(order: str) -> tuple[int, list[str]]:
    """Run the program under an order; return how it ended and the points it came past."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, order], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout.split()


def test_every_point_is_passed_at_exactly_one_place() -> None:
    calls: Counter[str] = Counter()
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "passing" and node.args:
                [name] = node.args
                if path.name != "crash_points.py":
                    assert isinstance(name, ast.Constant), f"{path}: a point is a plain word"
                    calls[str(name.value)] += 1
    assert calls == Counter(crash_points.POINTS)


def test_without_an_order_nothing_happens() -> None:
    assert passed("") == (0, ["worker.claimed", "worker.decoded"] * 4)


def test_a_process_dies_when_it_passes_the_point_for_the_time_asked_for() -> None:
    assert passed("worker.decoded:3") == (
        -signal.SIGKILL,
        [*["worker.claimed", "worker.decoded"] * 2, "worker.claimed"],
    )


def test_the_first_to_pass_a_point_named_in_the_folder_dies_and_the_next_lives(tmp_path: Path) -> None:
    (tmp_path / "worker.decoded").touch()
    assert passed(str(tmp_path)) == (-signal.SIGKILL, ["worker.claimed"])
    [kept] = tmp_path.iterdir()
    assert kept.name.startswith("worker.decoded.")
    assert kept.suffix[1:].isdecimal()
    assert passed(str(tmp_path)) == (0, ["worker.claimed", "worker.decoded"] * 4)


@pytest.mark.parametrize("order", ["worker.claimed", "worker.claimed:0", "worker.claimed:x", "nowhere:1", ":1", "at"])
def test_an_order_that_means_nothing_is_refused(order: str) -> None:
    with pytest.raises(ValueError, match="must be a folder, or a point and a number"):
        crash_points.arm(order)
    with pytest.raises(InvalidSetting, match="POXVISIO_CRASH_POINT must be a folder"):
        Settings.load({**SETTINGS, "POXVISIO_TEST_MODE": "1", "POXVISIO_CRASH_POINT": order})


def test_a_crash_point_without_the_test_mode_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="POXVISIO_CRASH_POINT kills processes"):
        Settings.load({**SETTINGS, "POXVISIO_CRASH_POINT": "worker.claimed:1"})
    settings = Settings.load({**SETTINGS, "POXVISIO_TEST_MODE": "1", "POXVISIO_CRASH_POINT": "worker.claimed:1"})
    assert settings.crash_point == "worker.claimed:1"
