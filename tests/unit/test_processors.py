"""How many processors a process may keep busy: those it may run on, and what its control groups allow of their time."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.processors import processors, quota

CPU = Path("/sys/fs/cgroup/cpu")


def group(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")


@pytest.mark.parametrize(
    ("line", "files", "allowed"),
    [
        ("0::/", {}, math.inf),
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/", {"cpu.max": "max 100000"}, math.inf),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, 2),
        ("0::/a/b", {"a/b/cpu.max": "50000 100000", "a/cpu.max": "200000 100000"}, 0.5),
        ("0::/never/seen", {"cpu.max": "300000 100000"}, 3),
        ("4:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, math.inf),
        ("4:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "250000", "cpu/a/cpu.cfs_period_us": "100000"}, 2.5),
        ("4:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "250000"}, math.inf),
        ("4:cpuset:/a", {"cpu/a/cpu.cfs_quota_us": "250000", "cpu/a/cpu.cfs_period_us": "100000"}, math.inf),
        ("1:name=systemd:/init.scope\n0::/", {"cpu.max": "100000 100000"}, 1),
    ],
)
def test_each_group_from_a_process_up_to_the_root_bounds_it(
    tmp_path: Path, line: str, files: dict[str, str], allowed: float
) -> None:
    group(tmp_path / "mounted", files)
    (tmp_path / "groups").write_text(line + "\n")
    assert quota(tmp_path / "groups", tmp_path / "mounted") == allowed


def test_without_control_groups_nothing_bounds_a_process(tmp_path: Path) -> None:
    assert quota(tmp_path / "groups", tmp_path) == math.inf


def test_a_process_has_no_more_processors_than_it_may_run_on() -> None:
    able = os.sched_getaffinity(0)
    assert 1 <= processors() <= len(able)
    os.sched_setaffinity(0, {min(able)})
    try:
        assert processors() == 1
    finally:
        os.sched_setaffinity(0, able)


@pytest.fixture
def narrow() -> Iterator[Path]:
    """Return a control group of this kernel that allows half a processor's time."""
    made = CPU / f"poxvisio-test-{os.getpid()}"
    try:
        made.mkdir()
    except OSError as error:
        pytest.skip(f"no control group of version 1 can be made here: {error}")
    try:
        (made / "cpu.cfs_quota_us").write_text("50000")
        yield made
    finally:
        made.rmdir()


def test_a_process_in_a_group_of_half_a_processor_says_one(narrow: Path) -> None:
    enter = f"open({str(narrow / 'cgroup.procs')!r}, 'w').write('0')"
    asks = "from shared.processors import processors, quota; print(quota(), processors())"
    done = subprocess.run([sys.executable, "-c", f"{enter}; {asks}"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0.5", "1"]
