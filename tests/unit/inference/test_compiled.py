"""Compiled code is used again only where its record says that it was compiled and checked for this very identity."""

import json
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shared.bundle import Bundle
from worker.inference.compiled import RECORD, compiled_folder, identity, machine

Fill = Callable[..., Path]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tmp_path, "little", "d" * 64, ("yes", "no"), False, True, {}, {})


@pytest.fixture
def fill(bundle: Bundle, tmp_path: Path) -> Fill:
    """Return a function that leaves compiled code with a record of this identity, but for the changes given."""

    def run(**changes: object) -> Path:
        with compiled_folder(tmp_path / "cache", bundle, "openvino", "f32") as folder:
            (folder / "code.blob").write_bytes(b"compiled")
            record: dict[str, Any] = {**identity(bundle, "openvino", "f32"), "passed": True, **changes}
            (folder / RECORD).write_text(json.dumps(record), encoding="utf-8")
        return folder

    return run


def kept(bundle: Bundle, tmp_path: Path) -> bool:
    with compiled_folder(tmp_path / "cache", bundle, "openvino", "f32") as folder:
        return (folder / "code.blob").exists()


def test_code_with_a_record_of_this_identity_is_kept(fill: Fill, bundle: Bundle, tmp_path: Path) -> None:
    fill(max_difference=1e-6)
    assert kept(bundle, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"machine": "0123456789ab"},
        {"cpu": "Another CPU"},
        {"digest": "e" * 64},
        {"engine": "tensorflow"},
        {"precision": "bf16"},
        {"passed": False},
        {"passed": None},
    ],
)
def test_code_of_another_identity_or_one_that_failed_is_compiled_anew(
    fill: Fill, bundle: Bundle, tmp_path: Path, changes: dict[str, object]
) -> None:
    fill(**changes)
    assert not kept(bundle, tmp_path)


@pytest.mark.parametrize("record", [None, "", "{", "[]", '"passed"'])
def test_code_without_a_readable_record_is_compiled_anew(
    fill: Fill, bundle: Bundle, tmp_path: Path, record: str | None
) -> None:
    file = fill() / RECORD
    file.unlink()
    if record is not None:
        file.write_text(record, encoding="utf-8")
    assert not kept(bundle, tmp_path)


def test_each_engine_and_precision_has_a_folder_of_its_own_named_by_the_machine(bundle: Bundle, tmp_path: Path) -> None:
    folders = set()
    for engine, precision in (("openvino", "f32"), ("openvino", "bf16"), ("torch", "bf16")):
        with compiled_folder(tmp_path, bundle, engine, precision) as folder:
            assert folder == tmp_path / bundle.digest[:16] / f"{engine}-{precision}-{machine()}"
            folders.add(folder)
    assert len(folders) == 3


def test_whoever_compiles_has_the_folder_alone(bundle: Bundle, tmp_path: Path) -> None:
    """Each opens the lock for itself, so that threads exclude one another as processes do."""
    inside, most = 0, 0
    begin = threading.Barrier(4)

    def compile_often() -> None:
        nonlocal inside, most
        begin.wait()
        for _ in range(5):
            with compiled_folder(tmp_path, bundle, "openvino", "f32"):
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)  # the others try meanwhile
                inside -= 1

    with ThreadPoolExecutor(4) as pool:
        for ended in [pool.submit(compile_often) for _ in range(4)]:
            ended.result()
    assert most == 1


def test_the_machine_has_a_name_that_stays() -> None:
    assert machine() == machine()
    assert re.fullmatch("[0-9a-f]{12}", machine())
