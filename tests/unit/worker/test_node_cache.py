"""What a node keeps of models, and what it lets go of."""

import fcntl
import os
import time
from pathlib import Path

import pytest

from worker.node_cache import Room, prune

A, B, C = "a" * 64, "b" * 64, "c" * 64
TIGHT = Room(models=1, bytes=1 << 30, seconds=60)


def keep(cache: Path, digest: str, age: float, size: int = 100) -> None:
    """Put a copy and an engine there, used so many seconds ago."""
    bundle, engines = cache / "bundles" / digest, cache / digest[:16]
    for folder, name in ((bundle, "weights.safetensors"), (engines / "openvino-f32-0", "x.blob")):
        folder.mkdir(parents=True)
        (folder / name).write_bytes(bytes(size))
    (engines / "lock").touch()
    used = time.time() - age
    os.utime(bundle, (used, used))
    os.utime(engines / "lock", (used, used))


def left(cache: Path) -> dict[str, int]:
    """Return how many files of each model there are, without locks."""
    files = [path for path in cache.rglob("*") if path.is_file() and path.name != "lock"]
    return {
        digest[0]: sum(digest in str(path) or f"/{digest[:16]}/" in str(path) for path in files) for digest in (A, B, C)
    }


def test_what_was_used_longest_ago_goes_first_with_its_engines(tmp_path: Path) -> None:
    for digest, age in ((A, 500), (B, 300), (C, 400)):
        keep(tmp_path, digest, age)
    assert prune(tmp_path, [], Room(models=2, bytes=1 << 30, seconds=60)) == ["a" * 16]
    assert left(tmp_path) == {"a": 0, "b": 2, "c": 2}
    assert prune(tmp_path, [], Room(models=9, bytes=250, seconds=60)) == ["c" * 16]
    assert left(tmp_path) == {"a": 0, "b": 2, "c": 0}


def test_what_is_needed_or_was_just_used_or_is_being_compiled_stays(tmp_path: Path) -> None:
    for digest, age in ((A, 500), (B, 5), (C, 400)):
        keep(tmp_path, digest, age)
    with (tmp_path / C[:16] / "lock").open("r") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert prune(tmp_path, [A], TIGHT) == []
    assert left(tmp_path) == {"a": 2, "b": 2, "c": 2}
    assert prune(tmp_path, [A], TIGHT) == ["c" * 16]


@pytest.mark.parametrize("within", [Room(3, 1 << 30, 0), Room(9, 1 << 30, 0)])
def test_within_its_room_nothing_goes_and_strange_folders_never_do(tmp_path: Path, within: Room) -> None:
    for digest in (A, B, C):
        keep(tmp_path, digest, 500)
    (tmp_path / "elsewhere").mkdir()
    assert prune(tmp_path, [], within) == []
    assert prune(tmp_path, [], Room(1, 1, 0)) == ["a" * 16, "b" * 16, "c" * 16]
    assert (tmp_path / "elsewhere").is_dir()
    assert prune(tmp_path / "nothing there", [], TIGHT) == []


def test_halves_that_a_killed_process_left_go_after_an_hour(tmp_path: Path) -> None:
    fresh, old = tmp_path / "bundles" / ".part-fresh", tmp_path / "bundles" / ".part-old"
    for part in (fresh, old):
        part.mkdir(parents=True)
    os.utime(old, (0, time.time() - 7200))
    prune(tmp_path, [], TIGHT)
    assert (fresh.is_dir(), old.is_dir()) == (True, False)
