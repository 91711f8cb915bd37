"""Owns what the networks of a run say of photos they never learnt from, calibrated on others than those they judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.calibration import calibrate
from training.intervals import Resampling
from training.metrics import Flags, Numbers
from training.runs import TEST, TRAIN, VALIDATION, Member, Run
from worker.inference.answers import Answer, Calibration, QualityLimits, answers_from, probabilities_of
from worker.inference.engine import Outputs
from worker.inference.gate import gate_of

LEVELS: Final = (0.90, 0.95)


@dataclass(frozen=True)
class Judged:
    """Answers of one seed's networks for the photos that each did not see, pooled over the folds.

    rows, kinds, patients, folds [n]; p, raw [n, classes]: calibrated and at temperature 1; answers: as the service
    would give them; called: per operating point the photos called positive; temperatures: one a fold.
    """

    rows: NDArray[np.intp]
    kinds: NDArray[np.int64]
    patients: NDArray[Any]
    folds: NDArray[np.int64]
    p: Numbers
    raw: Numbers
    distances: Numbers
    answers: tuple[Answer, ...]
    called: Mapping[str, Flags]
    temperatures: Mapping[int, float]
    thresholds: Mapping[str, Mapping[int, float]]

    @property
    def positive(self) -> Flags:
        """Photos of the positive class."""
        return np.asarray(self.kinds == 0)

    @property
    def said(self) -> NDArray[np.intp]:
        """The most probable class of each photo."""
        return np.asarray(self.p.argmax(axis=1))

    @property
    def right(self) -> Flags:
        """Photos whose most probable class is their own."""
        return np.asarray(self.said == self.kinds)

    @property
    def own(self) -> Numbers:
        """The probability of each photo's own class."""
        return np.asarray(self.p[np.arange(len(self.kinds)), self.kinds])

    def sample(self) -> Resampling:
        """Resamples of the patients."""
        return Resampling.of(self.patients)

    def at(self, chosen: Flags) -> Judged:
        """Some of the photos."""
        keep = np.flatnonzero(chosen)
        return Judged(
            self.rows[keep], self.kinds[keep], self.patients[keep], self.folds[keep], self.p[keep], self.raw[keep],
            self.distances[keep], tuple(self.answers[i] for i in keep),
            {name: flags[keep] for name, flags in self.called.items()}, self.temperatures, self.thresholds,
        )  # fmt: skip


def judge(run: Run, seed: int) -> Judged:
    """Calibrates each member on its validation patients, and lets it judge its test patients."""
    parts = [_judge_one(run, member) for member in run.members if member.seed == seed]
    names = parts[0].called
    return Judged(
        rows=np.concatenate([part.rows for part in parts]),
        kinds=np.concatenate([part.kinds for part in parts]),
        patients=np.concatenate([part.patients for part in parts]),
        folds=np.concatenate([part.folds for part in parts]),
        p=np.concatenate([part.p for part in parts]),
        raw=np.concatenate([part.raw for part in parts]),
        distances=np.concatenate([part.distances for part in parts]),
        answers=tuple(answer for part in parts for answer in part.answers),
        called={name: np.concatenate([part.called[name] for part in parts]) for name in names},
        temperatures={fold: t for part in parts for fold, t in part.temperatures.items()},
        thresholds={name: {k: v for part in parts for k, v in part.thresholds[name].items()} for name in names},
    )


def _judge_one(run: Run, member: Member) -> Judged:
    train, validation, test = (member.rows(role) for role in (TRAIN, VALIDATION, TEST))
    stored, gate = calibrate(
        run.labels,
        member.logits[validation],
        run.kinds[validation],
        train_features=member.features[train],
        train_kinds=run.kinds[train],
        features=member.features[validation],
        seen=[run.qualities[row] for row in validation],
        gate_kind=run.facts["gate"]["kind"],
    )
    rules = Calibration(
        run.labels, stored["temperature"], stored["thresholds"], gate_of(gate), stored["gate"]["limit"],
        QualityLimits(**stored["quality_limits"]),
    )  # fmt: skip
    outputs = Outputs(member.logits[test], np.zeros((len(test), 7, 7), np.float32), member.features[test])
    p = probabilities_of(member.logits[test], rules.temperature)
    levels = operating_levels(probabilities_of(member.logits[validation], rules.temperature)[:, 0],
                              run.kinds[validation] == 0)  # fmt: skip
    return Judged(
        rows=test,
        kinds=run.kinds[test],
        patients=run.frame["patient"].to_numpy()[test],
        folds=np.full(len(test), member.fold),
        p=p,
        raw=probabilities_of(member.logits[test], 1.0),
        distances=rules.gate.distances(outputs.features) / max(rules.gate_limit, 1e-12),
        answers=tuple(answers_from(outputs, [run.qualities[row] for row in test], rules)),
        called={name: np.asarray(p[:, 0] >= level) for name, level in levels.items()},
        temperatures={member.fold: rules.temperature},
        thresholds={name: {member.fold: round(level, 4)} for name, level in levels.items()},
    )


def operating_levels(p: Numbers, positive: Flags) -> dict[str, float]:
    """Least probability called positive, from validation: 0.5, and those that keep a specificity or a sensitivity.

    Where a class is missing the level stays 0.5.
    """
    found = {"p >= 0.5": 0.5}
    for level in LEVELS:
        below, above = np.sort(p[~positive]), np.sort(p[positive])
        found[f"specificity {level:.2f}"] = (
            float(np.nextafter(below[min(len(below) - 1, int(np.ceil(level * len(below))) - 1)], 2.0))
            if len(below)
            else 0.5
        )
        found[f"sensitivity {level:.2f}"] = (
            float(above[int(np.floor((1.0 - level) * len(above) + 1e-9))]) if len(above) else 0.5
        )
    return found
