"""Owns what a bundle is on disk: a model's files, its card, and the proof that none of them was altered.

A bundle's digest is the SHA-256 of the canonical JSON (sorted keys, no spaces) of ``{file name: SHA-256}`` over its
sealed files. ``calibration.json`` is sealed and repeats what decides an answer's meaning (id, labels, clinical,
synthetic), so that a card edited by hand is noticed too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import BundleAltered, BundleMissing

CARD = "card.json"
WEIGHTS = "weights.safetensors"
CALIBRATION = "calibration.json"
GATE = "gate.safetensors"
PARITY = "parity.safetensors"
REPORT = "report/report.html"  # where there is one; the digest does not cover it
LARGEST_REPORT = 16 << 20  # bytes of one that is sent along
SEALED = (WEIGHTS, CALIBRATION, GATE, PARITY)
SEALED_FACTS = ("id", "labels", "clinical", "synthetic")
RESEARCH_USE = "Research use only. Not a medical device. A negative result does not exclude mpox; confirm by PCR."
_REMEDY = "put the published bundle back, or rebuild it as its README.md says"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: `labels` in the order of the network's logits, the positive class first."""

    path: Path
    id: str
    digest: str
    labels: tuple[str, ...]
    clinical: bool
    synthetic: bool
    card: Mapping[str, Any]
    calibration: Mapping[str, Any]

    def file(self, name: str) -> Path:
        """Where the bundle's file of this name lies."""
        return self.path / name


def sha256_of(file: Path) -> str:
    """SHA-256 of a file, as lower-case hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of(files: Mapping[str, str]) -> str:
    """The digest of a bundle whose sealed files have these SHA-256."""
    canonical = json.dumps(dict(files), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def load_bundle(path: Path) -> Bundle:
    """Reads the bundle in folder `path` and verifies every sealed file against the card (0.05 s for 48 MB).

    Raises BundleMissing where the folder or a file is absent, BundleAltered where one is not what the card says.
    """
    if not path.is_dir():
        raise BundleMissing(f"There is no bundle at {path}: {_REMEDY}, or let MODEL name another folder.")
    card = _json(path, CARD)
    listed, digest = card.get("files"), card.get("digest")
    if not isinstance(listed, dict) or set(listed) != set(SEALED):
        raise BundleAltered(f"{path / CARD} must list exactly the files {', '.join(SEALED)}: {_REMEDY}.")
    for name in SEALED:
        _verify(path / name, str(listed[name]))
    if digest != digest_of(listed):
        raise BundleAltered(f"The digest in {path / CARD} does not follow from the files it lists: {_REMEDY}.")
    calibration = _json(path, CALIBRATION)
    for fact in SEALED_FACTS:
        if fact not in calibration or card.get(fact) != calibration[fact]:
            raise BundleAltered(f'{path / CARD} and {CALIBRATION} disagree about "{fact}": {_REMEDY}.')
    return Bundle(
        path=path,
        id=str(calibration["id"]),
        digest=str(digest),
        labels=tuple(str(label) for label in calibration["labels"]),
        clinical=bool(calibration["clinical"]),
        synthetic=bool(calibration["synthetic"]),
        card=card,
        calibration=calibration,
    )


def _verify(file: Path, expected: str) -> None:
    try:
        found = sha256_of(file)
    except FileNotFoundError:
        raise BundleMissing(f"The bundle lacks {file}: {_REMEDY}.") from None
    except OSError as error:
        raise BundleMissing(f"{file} cannot be read ({error.strerror}): {_REMEDY}.") from error
    if found != expected:
        raise BundleAltered(
            f"{file} is not the file its card describes "
            f"(SHA-256 {found[:12]}... instead of {expected[:12]}...): {_REMEDY}."
        )


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        read = json.loads((path / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleMissing(f"The bundle lacks {path / name}: {_REMEDY}.") from None
    except OSError as error:
        raise BundleMissing(f"{path / name} cannot be read ({error.strerror}): {_REMEDY}.") from error
    except ValueError as error:
        raise BundleAltered(f"{path / name} is not JSON ({error}): {_REMEDY}.") from error
    if not isinstance(read, dict):
        raise BundleAltered(f"{path / name} must hold a JSON object: {_REMEDY}.")
    return read
