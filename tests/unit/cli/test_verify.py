import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from shared import receipts
from shared.database import new_id
from shared.signing import Keyring
from shared.views import ManifestRow

KEYRING = Keyring(b"a secret of the tests, long enough to be one")
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SENT = {"a.jpg": b"one", "north/1.jpg": b"two", "south/1.jpg": b"three", "notes": b"four"}


@dataclass(frozen=True)
class Job:
    id: UUID
    total: int
    state: str = "completed"
    round: int = 0
    created_at: datetime = NOW
    closed_at: datetime | None = NOW


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in SENT.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "photos"


def _receipt(stage: receipts.Stage = "closed") -> dict[str, Any]:
    rows = [
        # The service keeps the last part of a name.
        ManifestRow(number, name.rpartition("/")[2], hashlib.sha256(content).hexdigest(), new_id(), "classified")
        for number, (name, content) in enumerate(SENT.items())
    ]
    return receipts.build(stage, Job(new_id(), len(rows)), rows, KEYRING)


def _verify(folder: Path, receipt: object, *more: str, keys: object = None) -> Result:
    paths = {"receipt.json": receipt, "keys.json": keys or KEYRING.public_jwks()}
    for name, document in paths.items():
        (folder.parent / name).write_text(json.dumps(document), encoding="utf-8")
    arguments = [str(folder), str(folder.parent / "receipt.json"), "--keys", str(folder.parent / "keys.json")]
    return CliRunner().invoke(main, ["verify", *arguments, *more])


@pytest.mark.parametrize("stage", ["accepted", "closed"])
def test_a_folder_as_it_was_sent_is_accounted_for(folder: Path, stage: receipts.Stage) -> None:
    verified = _verify(folder, _receipt(stage))
    assert verified.output.splitlines()[0] == "4 of 4 accounted for"
    assert f"signature and sums: hold, {stage} receipt of job_" in verified.output
    assert verified.exit_code == 0


def test_a_photo_that_is_gone_is_named(folder: Path) -> None:
    (folder / "a.jpg").unlink()
    verified = _verify(folder, _receipt())
    assert verified.output.splitlines()[0] == "3 of 4 accounted for"
    assert "not in the folder: a.jpg" in verified.output
    assert verified.exit_code == 1


def test_a_photo_that_was_never_sent_is_named(folder: Path) -> None:
    (folder / "north/late.jpg").write_bytes(b"late")
    verified = _verify(folder, _receipt())
    assert "not in the receipt: north/late.jpg" in verified.output
    assert verified.exit_code == 1


def test_a_photo_that_changed_is_told_from_its_namesake_in_another_folder(folder: Path) -> None:
    (folder / "south/1.jpg").write_bytes(b"other")
    verified = _verify(folder, _receipt())
    assert verified.output.splitlines()[0] == "3 of 4 accounted for"
    assert "other bytes than were sent: south/1.jpg" in verified.output
    assert verified.exit_code == 1


def test_an_altered_receipt_does_not_hold(folder: Path) -> None:
    receipt = _receipt()
    receipt["payload"]["entries"][0]["outcome"] = "abstained"
    verified = _verify(folder, receipt)
    assert "DO NOT HOLD" in verified.output
    assert verified.exit_code == 1


def test_the_signature_of_somebody_else_does_not_hold(folder: Path) -> None:
    verified = _verify(folder, _receipt(), keys=Keyring(b"the secret of another service").public_jwks())
    assert "DO NOT HOLD" in verified.output
    assert verified.exit_code == 1


@pytest.mark.parametrize("receipt", [{}, [], {"payload": {}}, {"payload": {"entries": [{"name": "a.jpg"}]}}])
def test_what_is_no_receipt_is_a_matter_of_usage(folder: Path, receipt: object) -> None:
    verified = _verify(folder, receipt)
    assert verified.exit_code == 2
    assert "is no" in verified.stderr


def test_the_verdict_can_be_read_by_a_program(folder: Path) -> None:
    verdict = json.loads(_verify(folder, _receipt(), "--json").stdout)
    assert verdict["ok"] is True
    assert verdict["report"][0] == "4 of 4 accounted for"
