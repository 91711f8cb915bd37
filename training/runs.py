"""Owns the folder of a training run: what lies where in it, and its reading as one thing.

config.toml manifest.csv    what was asked, on which photos
begun.json                  with which weights and arithmetic, which a run that goes on must not change
run.json                    what it was: labels, members, versions, machine, weights it began with
frozen.npy                  features of all photos under the weights it began with
qualities.npy               blur, exposure, size and flatness of all photos
logs/fold0-seed7/           loss and validation figures of each epoch, for TensorBoard
members/fold0-seed7/        history.csv, outputs.npz (logits, features, roles of all photos)
operations.json             measured once: seconds, memory and size of the network as served
bundle/                     the network as served
report/                     what `poxvisio evaluate` writes
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shared.errors import TrainingRefused
from training import manifest
from training.landing import replace_file
from worker.inference.preprocess import Quality

FORMAT: Final = 2
CONFIG, MANIFEST, BEGUN, FACTS, FROZEN = "config.toml", "manifest.csv", "begun.json", "run.json", "frozen.npy"
QUALITIES, MEMBERS, OUTPUTS, HISTORY = "qualities.npy", "members", "outputs.npz", "history.csv"
OPERATIONS, BUNDLE, REPORT, LOGS = "operations.json", "bundle", "report", "logs"
TRAIN, VALIDATION, TEST, UNUSED = 0, 1, 2, 3
NAMED: Final = "named"  # the data set's own split, where the folds are not used
REST: Final = "*"  # stands among the classes for every label that is not named


@dataclass(frozen=True)
class Member:
    """A trained network of a run and what it says of all photos: logits [n, classes], features [n, 2048], roles [n]."""

    fold: int
    seed: int
    logits: NDArray[np.float32]
    features: NDArray[np.float32]
    roles: NDArray[np.uint8]

    @property
    def name(self) -> str:
        """The member's folder."""
        return member_name(self.fold, self.seed)

    def rows(self, role: int) -> NDArray[np.intp]:
        """The rows of the manifest that had a role for this member."""
        return np.flatnonzero(self.roles == role)


@dataclass(frozen=True)
class Run:
    """A finished run, read whole. kinds [n]: the class of each photo as a place in `labels`, the positive one 0."""

    folder: Path
    facts: Mapping[str, Any]
    frame: pd.DataFrame
    kinds: NDArray[np.int64]
    frozen: NDArray[np.float32]
    qualities: list[Quality]
    members: tuple[Member, ...]
    operations: Mapping[str, Any]

    @property
    def labels(self) -> tuple[str, ...]:
        """The published labels in the order of the logits."""
        return tuple(self.facts["labels"])

    @property
    def synthetic(self) -> bool:
        """Whether the photos were generated."""
        return bool(self.facts["synthetic"])

    @property
    def shipped(self) -> Member:
        """The member that the bundle holds."""
        named = self.facts["shipped"]
        return next(m for m in self.members if (m.fold, m.seed) == (named["fold"], named["seed"]))


def member_name(fold: int, seed: int) -> str:
    """The folder of one member below `members`."""
    return f"fold{fold}-seed{seed}"


def kinds_of(labels: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """The place [n] of each photo's manifest label among the classes; labels that are not named are of class `*`."""
    places = {name: at for at, name in enumerate(classes)}
    rest = places.get(REST)
    unknown = sorted({label for label in labels if label not in places}) if rest is None else []
    if unknown:
        raise TrainingRefused(
            f"the manifest holds photos of {', '.join(unknown)}, which `classes` does not name ({', '.join(classes)}): "
            'name them, or end `classes` with "*" for all others together'
        )
    found = [places.get(label, -1 if rest is None else rest) for label in labels]
    empty = [name for at, name in enumerate(classes) if at not in found]
    if empty:
        raise TrainingRefused(f"the manifest holds no photo of {', '.join(empty)}: mend `classes`")
    return np.array(found, dtype=np.int64)


def save_arrays(path: Path, **arrays: NDArray[Any]) -> None:
    """Writes arrays as one .npz, whole or not at all."""
    held = io.BytesIO()
    np.savez(held, **arrays)  # type: ignore[arg-type]  # its keyword allow_pickle is typed as one of the arrays
    replace_file(path, held.getvalue())


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Writes one array as .npy, whole or not at all."""
    held = io.BytesIO()
    np.save(held, array)
    replace_file(path, held.getvalue())


def save_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON, whole or not at all."""
    replace_file(path, as_json(content))


def as_json(content: Mapping[str, Any]) -> bytes:
    """JSON as it stands in the files of a run."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def save_member(folder: Path, member: Member) -> None:
    """Writes what a member says of all photos; its presence is what makes the member finished."""
    save_arrays(
        folder / MEMBERS / member.name / OUTPUTS, logits=member.logits, features=member.features, roles=member.roles
    )


def load_member(folder: Path, fold: int, seed: int) -> Member:
    """Reads one finished member."""
    with np.load(folder / MEMBERS / member_name(fold, seed) / OUTPUTS) as stored:
        return Member(fold, seed, stored["logits"], stored["features"], stored["roles"])


def save_qualities(path: Path, qualities: Sequence[Quality]) -> None:
    """Writes the quality of each photo."""
    save_array(path, np.array([[q.blur, q.exposure, q.size, q.flat] for q in qualities], dtype=np.float64))


def load_qualities(path: Path) -> list[Quality]:
    """Reads the quality of each photo."""
    return [Quality(float(b), float(e), int(s), float(f)) for b, e, s, f in np.load(path)]


def load_run(folder: Path) -> Run:
    """Reads a finished run. Raises TrainingRefused where a part is missing, DataRefused for an unsound manifest."""
    needed = (FACTS, MANIFEST, FROZEN, QUALITIES, OPERATIONS)
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise TrainingRefused(
            f"{folder} is no finished run ({', '.join(missing)} missing): "
            f"go on with `poxvisio train --config FILE --out {folder} --resume`"
        )
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        if not isinstance(facts, dict) or "format" not in facts:
            raise TrainingRefused(f"{folder / FACTS} is none of a run: give the folder that `poxvisio train` wrote")
        if facts["format"] != FORMAT:
            raise TrainingRefused(f"{folder} was written by another version (format {facts['format']}): train anew")
        frame = manifest.read(folder / MANIFEST)
        return Run(
            folder=folder,
            facts=facts,
            frame=frame,
            kinds=kinds_of(frame["label"].tolist(), facts["classes"]),
            frozen=np.load(folder / FROZEN),
            qualities=load_qualities(folder / QUALITIES),
            members=tuple(load_member(folder, m["fold"], m["seed"]) for m in facts["members"]),
            operations=json.loads((folder / OPERATIONS).read_text(encoding="utf-8")),
        )
    except (OSError, ValueError, KeyError) as error:
        raise TrainingRefused(f"{folder} cannot be read as a run: {error}") from error
