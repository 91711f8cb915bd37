"""Owns the sections that say what was evaluated: identity, data, split with its proof, operations, limits."""

# ruff: noqa: E501 - sentences and table rows
from __future__ import annotations

from itertools import combinations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.bundle import RESEARCH_USE, Bundle, sha256_of
from training import splits
from training.canary import canary
from training.intervals import Resampling
from training.report import words
from training.runs import CONFIG, MANIFEST, NAMED, TEST, TRAIN, VALIDATION, Member, Run
from training.shortcuts import places, traits

_ROLES: Final = {"train": TRAIN, "validation": VALIDATION, "test": TEST}


def identity(run: Run, bundle: Bundle) -> dict[str, Any]:
    """What was evaluated, by its digests, and what it was made with."""
    facts = run.facts
    return {
        "bundle": {"id": bundle.id, "digest": bundle.digest},
        "labels": list(run.labels),
        "manifest_sha256": sha256_of(run.folder / MANIFEST),
        "config_sha256": sha256_of(run.folder / CONFIG),
        "commit": facts["commit"],
        "seeds": facts["seeds"],
        "split": facts["split"],
        "folds": facts["folds"],
        "shipped": facts["shipped"],
        "start": facts["start"],
        "recipe": facts["recipe"],
        "gate": facts["gate"],
        "versions": facts["versions"],
        "hardware": facts["hardware"],
        "precision": facts["precision"],
    }


def use(run: Run) -> dict[str, Any]:
    """What it is for, what it is not for."""
    return {
        "statement": RESEARCH_USE,
        "intended": words.INTENDED,
        "not_for": list(words.NOT_FOR),
        "population": f"{run.frame['patient'].nunique()} patients of {', '.join(sorted(run.frame['source'].unique()))}"
        + (" (generated)" if run.synthetic else ""),
        "exclusions": "augmented copies, files that cannot be read; nothing else was left out",
    }


def data(run: Run) -> dict[str, Any]:
    """Photos and patients of each class, where they are from, and what ties patients together."""
    frame, classes = run.frame, []
    for at, label in enumerate(run.labels):
        mine = frame[run.kinds == at]
        classes.append({"label": label, "photos": len(mine), "patients": int(mine["patient"].nunique()),
                        "from": {str(k): int(v) for k, v in mine["label"].value_counts().sort_index().items()}})  # fmt: skip
    return {
        "photos": len(frame),
        "patients": int(frame["patient"].nunique()),
        "groups": int(frame["group"].nunique()),
        "classes": classes,
        "sources": sorted(frame["source"].unique()),
        "licence": run.facts["licence"],
        "synthetic": run.synthetic,
        "near_duplicates_between_patients": len(splits.across(frame, "patient")),
        "de_duplication": "photos whose 64-bit perceptual hashes differ in at most 10 bits count as one group with their patients",
    }


def split(run: Run) -> dict[str, Any]:
    """Who learnt from whom, the proof that nobody is on two sides, and the canary that would sing if somebody were."""
    members = [_split_of(run, member) for member in run.members]
    named = run.facts["split"] == NAMED
    pairs = splits.across(run.frame, "named_split" if named else "fold")
    used = pairs[(pairs["one_side"] != "") & (pairs["other_side"] != "")]
    return {
        "unit": "patient, as the data set's authors split them" if named else "patient, joined with near-duplicates",
        "members": members,
        "overlap": sum(sum(member["overlap"].values()) for member in members),
        "near_duplicates_across_folds": len(used),
        "canary": canary(run.frozen.astype(np.float64), run.frame["group"].to_numpy(), run.frame["fold"].to_numpy()),
    }


def shortcuts(run: Run, pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """Whether a fixed place of the photo, or a trait of it that no disease has, tells the label by itself."""
    patients = run.frame["patient"].to_numpy()
    known: dict[str, NDArray[np.float64]] = {
        "size of the photo": np.array([quality.size for quality in run.qualities], dtype=np.float64)
    }
    if "tone" in run.frame:
        known["skin tone"] = run.frame["tone"].to_numpy(dtype=np.float64)
    found = places(pixels, run.kinds, run.frame["fold"].to_numpy(), patients, run.labels)
    rows = traits(known, run.kinds == 0, Resampling.of(patients))
    return {"place": found, "traits": rows, "flagged": found["flagged"] or any(row["flagged"] for row in rows)}


def _split_of(run: Run, member: Member) -> dict[str, Any]:
    rows = {name: member.rows(role) for name, role in _ROLES.items()}
    overlap = {}
    for column in ("patient", "group", "sha256"):
        values = {name: set(run.frame[column].to_numpy()[at]) for name, at in rows.items()}
        overlap[column] = sum(len(values[a] & values[b]) for a, b in combinations(rows, 2))
    return {
        "fold": member.fold,
        "seed": member.seed,
        "photos": {name: len(at) for name, at in rows.items()},
        "patients": {name: int(run.frame["patient"].iloc[at].nunique()) for name, at in rows.items()},
        "overlap": overlap,
    }


def operations(run: Run) -> dict[str, Any]:
    """What was measured once, when the bundle was made."""
    return dict(run.operations)


def limits(run: Run, accuracy: float | None) -> dict[str, Any]:
    """What the figures cannot say, and the alarm where they are too good to be true."""
    told = [*([words.SYNTHETIC] if run.synthetic else []), *words.LIMITS]
    if "tone" not in run.frame:
        told.append(words.NO_TONES)
    alarm = not run.synthetic and accuracy is not None and accuracy > words.ALARM
    if alarm:
        told.insert(0, f"ALARM: an accuracy of {accuracy:.3f} is above {words.ALARM}, more than honest splits of such data "
                    "have given. Look for a leak before believing it.")  # fmt: skip
    return {"leakage_alarm": alarm, "sentences": told}
