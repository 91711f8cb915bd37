"""A set of folders and files takes the place of another: whoever is killed at it leaves no folder of old and new."""

import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import DataRefused
from training.landing import refuse_foreign, replace_all

ROOT = Path(__file__).parents[3]
NAMES = ("page", "figures/first", "figures/second")
# For each step a process that dies at it, until one gets through: each opening for writing, folder made, rename and
# removal is a step.
KILLED = """
import os, signal, sys
from pathlib import Path
from training.landing import replace_all

def put(place, what):
    folder = dict.fromkeys(sys.argv[2:], what)
    replace_all({place / "report": folder, place / "bundle/report": folder}, {place / "bundle/card": what})

def die_at(last):
    steps = 0
    def count(event, arguments):
        nonlocal steps
        writes = event == "open" and isinstance(arguments[1], str) and "w" in arguments[1]
        if writes or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            steps += 1
            if steps == last:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)

status, step = None, 0
while status != 0:
    step += 1
    place = Path(sys.argv[1]) / str(step)
    put(place, b"old")
    child = os.fork()
    if not child:
        die_at(step)
        put(place, b"new")
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
"""


def put(place: Path, what: str) -> None:
    folder = dict.fromkeys(NAMES, what.encode())
    replace_all({place / "report": folder, place / "bundle/report": folder}, {place / "bundle/card": what.encode()})


def found(folder: Path) -> str:
    """Return what the folder holds, where all of it is of one set."""
    said = {path.read_text() for path in folder.rglob("*") if path.is_file()}
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert (len(said), names) == (1, set(NAMES)), f"{folder} is of {said}, with {names}"
    return said.pop()


def test_whoever_is_killed_at_any_step_leaves_each_place_old_or_new_and_the_next_makes_all_new(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), *NAMES], cwd=ROOT, check=True)
    seen = set()
    for place in tmp_path.iterdir():
        state = []
        for folder in (place / "report", place / "bundle/report"):
            aside = folder.with_name(f".{folder.name}.before")
            state.append(found(folder) if folder.exists() else f"{found(aside)} aside")
        seen.add((*state, (place / "bundle/card").read_text()))
        put(place, "new")
        assert (found(place / "report"), found(place / "bundle/report")) == ("new", "new")
        left = sorted(path.name for path in [*place.iterdir(), *(place / "bundle").iterdir()])
        assert left == ["bundle", "card", "report", "report"], f"killed at step {place.name}"
    old_before_new = [("old", "old", "old"), ("old aside", "old", "old"), ("new", "old", "old"),
                      ("new", "old aside", "old"), ("new", "new", "old"), ("new", "new", "new")]  # fmt: skip
    assert seen == set(old_before_new)


def test_a_fault_while_it_is_written_changes_nothing(tmp_path: Path) -> None:
    put(tmp_path, "old")
    with pytest.raises(IsADirectoryError):
        replace_all({tmp_path / "report": {"page": b"new", "figures/a": b"new", "figures": b"new"}}, {})
    assert found(tmp_path / "report") == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "report"]


def test_a_folder_that_was_aside_comes_back_before_anything_is_written(tmp_path: Path) -> None:
    put(tmp_path, "old")
    (tmp_path / "report").rename(tmp_path / ".report.before")
    with pytest.raises(IsADirectoryError):
        replace_all({tmp_path / "report": {"figures/a": b"new", "figures": b"new"}}, {})
    assert found(tmp_path / "report") == "old"


def test_a_folder_with_anything_else_in_it_is_refused(tmp_path: Path) -> None:
    refuse_foreign(tmp_path / "absent", ["page"])
    (tmp_path / "page").touch()
    refuse_foreign(tmp_path, ["page"])
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataRefused, match=r"holds notes\.txt"):
        refuse_foreign(tmp_path, ["page"])
    with pytest.raises(DataRefused, match="is no folder"):
        refuse_foreign(tmp_path / "page", ["page"])
