"""A bundle is served whole and unaltered or not at all."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.bundle import CALIBRATION, CARD, SEALED, digest_of, load_bundle, sha256_of
from shared.errors import BundleAltered, BundleMissing
from training.publish import write_bundle

IDENTITY: dict[str, Any] = {"id": "little", "labels": ["yes", "no"], "clinical": False, "synthetic": True}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete bundle whose weights are four numbers."""
    some = {"kernel": np.ones(4, dtype=np.float16)}
    calibration = {**IDENTITY, "temperature": 1.5}
    write_bundle(tmp_path, weights=some, calibration=calibration, gate=some, parity=some, card=IDENTITY)
    return tmp_path


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def test_a_whole_bundle_loads(folder: Path) -> None:
    bundle = load_bundle(folder)
    assert (bundle.id, bundle.labels, bundle.clinical, bundle.synthetic) == ("little", ("yes", "no"), False, True)
    assert bundle.calibration["temperature"] == 1.5
    assert bundle.card["use"] == "research-only"
    assert bundle.digest == bundle.card["digest"] == digest_of({name: sha256_of(folder / name) for name in SEALED})


@pytest.mark.parametrize("name", [*SEALED, CARD])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleMissing, match=name):
        load_bundle(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleMissing, match="nowhere"):
        load_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize("name", SEALED)
def test_one_changed_byte_is_noticed_and_the_file_named(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleAltered, match=name):
        load_bundle(folder)


@pytest.mark.parametrize("name", SEALED)
def test_altering_any_file_changes_the_digest(folder: Path, name: str) -> None:
    hashes = {sealed: sha256_of(folder / sealed) for sealed in SEALED}
    assert digest_of({**hashes, name: "0" * 64}) != digest_of(hashes)


def test_a_file_and_its_card_altered_together_still_fail_by_the_digest(folder: Path) -> None:
    edit(folder / CALIBRATION, temperature=9.0)
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    edit(folder / CARD, files={**card["files"], CALIBRATION: sha256_of(folder / CALIBRATION)})
    with pytest.raises(BundleAltered, match="digest"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("fact", "value"), [("labels", ["no", "yes"]), ("clinical", True), ("synthetic", False), ("id", "other")]
)
def test_a_card_that_claims_something_else_is_noticed(folder: Path, fact: str, value: object) -> None:
    edit(folder / CARD, **{fact: value})
    with pytest.raises(BundleAltered, match=fact):
        load_bundle(folder)


@pytest.mark.parametrize("content", ["{", "[]", "null", '{"files": {}}', '{"files": {"weights.safetensors": "x"}}'])
def test_a_card_that_is_no_card_is_refused(folder: Path, content: str) -> None:
    (folder / CARD).write_text(content, encoding="utf-8")
    with pytest.raises(BundleAltered, match=CARD):
        load_bundle(folder)


def test_a_card_cannot_point_outside_its_folder(folder: Path) -> None:
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    edit(folder / CARD, files={**card["files"], "../elsewhere": "0" * 64})
    with pytest.raises(BundleAltered):
        load_bundle(folder)


def test_reading_a_bundle_needs_no_engine() -> None:
    script = "import sys, shared.bundle; print({'tensorflow', 'keras', 'openvino', 'worker'} & set(sys.modules))"
    fresh = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == "set()"
