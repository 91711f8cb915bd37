"""Owns the evaluation as one document: every section in order, computed from a finished run and nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.bundle import RESEARCH_USE
from shared.errors import DataRefused
from training.baselines import baselines
from training.disturbance import disturb
from training.gates import gates
from training.judged import Judged, judge
from training.pictures import look_at_all, masks_of, opened
from training.report import account, findings, performance, plain, words
from training.runs import BUNDLE, TEST, Run
from training.saliency import against_masks, controls, reliance
from training.served import Asked, Served
from training.strangers import measure_strangers

FORMAT: Final = 1


@dataclass(frozen=True)
class Extent:
    """How many photos the slow parts look at: disturbed photos, photos whose evidence is tested, probes a family."""

    disturbed: int = 120
    explained: int = 60
    probes: int = 24


@dataclass(frozen=True)
class Evaluation:
    """The document, and the gallery, whose pictures belong on the page alone."""

    document: dict[str, Any]
    gallery: list[dict[str, Any]]


def evaluate(
    run: Run, folder: Path, *, extent: Extent, with_photos: bool, tell: Callable[[str], None] = lambda _: None
) -> Evaluation:
    """Computes every section; `folder` holds the photos. Raises DataRefused where they are not the manifest's.

    1. Figures of the answers that the run keeps: no photo is needed for them.
    2. Figures of the bundle on photos that it did not learn from: disturbed, covered, and replaced by no skin.
    3. Baselines on the same splits.
    """
    tell("reading the photos")
    pixels, _ = look_at_all(folder, run.frame["image"].tolist())
    by_seed = {seed: judge(run, seed) for seed in run.facts["seeds"]}
    first = run.facts["seeds"][0]
    judged = by_seed[first]
    sample = judged.sample()
    tell("metrics of each fold")
    sections: dict[str, Any] = {"folds": performance.per_fold(by_seed)}
    tell("pooled metrics and curves")
    sections["pooled"] = performance.pooled(judged, run.labels, sample)
    sections["operating"] = performance.operating(judged, sample)
    sections["plots"] = performance.plots(judged, run.labels, sample)
    sections["calibration"] = performance.calibration(judged, sample)
    sections["abstention"] = performance.abstention(judged, run.labels, sample)
    tell("subgroups and baselines")
    sections["subgroups"] = findings.subgroups(run, judged)
    sections["baselines"] = findings.baseline_rows(judged, baselines(run, first, pixels), sample)
    sections["errors"] = findings.errors(run, judged)
    tell("what tells the label without the lesion")
    sections["shortcuts"] = account.shortcuts(run, pixels)
    with tempfile.TemporaryDirectory() as cache:
        served = Served.load(run.folder / BUNDLE, Path(cache))
        unseen = _unseen(run, served, pixels)
        with_bundle, gallery = _of_bundle(
            run, served, folder, unseen, extent=extent, with_photos=with_photos, cache=Path(cache), tell=tell
        )
        few, place = unseen.at(_spread(unseen, extent.explained)), sections["shortcuts"]["place"]
        sections["shortcuts"]["reliance"] = reliance(served, few, place["cell"])
    sections |= with_bundle | _told(run, served, sections["pooled"]["metrics"]["accuracy"]["value"])
    sections["summary"] = summary(sections, judged, run)
    return Evaluation(_document(run, sections), gallery)


def _unseen(run: Run, served: Served, pixels: NDArray[np.uint8]) -> Asked:
    rows = run.shipped.rows(TEST)
    if not len(rows):
        raise DataRefused("the network as served has no photo that it did not learn from")
    patients = run.frame["patient"].to_numpy()[rows]
    return Asked(rows, pixels[rows], run.kinds[rows], patients, served.outputs(pixels[rows]))


def _of_bundle(
    run: Run,
    served: Served,
    folder: Path,
    unseen: Asked,
    *,
    extent: Extent,
    with_photos: bool,
    cache: Path,
    tell: Callable[[str], None],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    names = run.frame["image"].to_numpy()
    away = served.rules.gate.distances(run.shipped.features[unseen.rows])
    tell("pictures that are no skin")
    ood = measure_strangers(served, away, [str(patient) for patient in unseen.patients], extent.probes)
    tell("disturbed photos")
    few = unseen.at(_spread(unseen, extent.disturbed))
    pictures = [opened(folder / names[row]) for row in few.rows]
    robustness = list(disturb(served, pictures, few.kinds, few.patients))
    tell("what the network looks at")
    few = unseen.at(_spread(unseen, extent.explained))
    explained = controls(served, few, cache)
    masks = masks_of(folder, [str(name) for name in names[few.rows]])
    if masks is not None:
        explained["lesions"] = against_masks(served, few, masks)
    gallery = findings.gallery(served, unseen, names[unseen.rows], with_photos=with_photos)
    shown = [{key: row[key] for key in ("cell", "image", "p")} for row in gallery]
    return {
        "ood": {"gate": run.facts["gate"], "rows": ood},
        "robustness": {"photos": len(pictures), "rows": robustness},
        "explanations": {**explained, "gallery": shown},
    }, gallery


def _told(run: Run, served: Served, accuracy: float | None) -> dict[str, Any]:
    return {
        "identity": account.identity(run, served.bundle),
        "use": account.use(run),
        "data": account.data(run),
        "split": account.split(run),
        "comparison": {"rows": [], "note": words.NOT_BESIDE} if run.synthetic else words.published(),
        "external": {"done": False, "statement": words.EXTERNAL},
        "operations": account.operations(run),
        "limits": account.limits(run, accuracy),
        "checklists": {
            name: [{"topic": topic, "where": where} for topic, where in rows] for name, rows in words.CHECKLISTS.items()
        },
    }


def _document(run: Run, sections: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "use": "research-only",
        "statement": RESEARCH_USE,
        "synthetic": run.synthetic,
        "synthetic_statement": words.SYNTHETIC if run.synthetic else None,
        "interval": "95 %, 2000 resamples of whole patients",
        "sections": {name: sections[name] for name, _ in words.SECTIONS},
    }


def summary(sections: dict[str, Any], judged: Judged, run: Run) -> dict[str, Any]:
    """What to read first: five figures, the same in sentences, the rules of trust, and what must not be missed."""
    metrics, flags = sections["pooled"]["metrics"], []
    if sections["split"]["overlap"] or sections["split"]["near_duplicates_across_folds"]:
        flags.append("Patients or near-duplicates are on two sides of a split: no figure here can be trusted.")
    if not sections["split"]["canary"]["passed"]:
        flags.append("The leak canary did not pass: look at the split before the figures.")
    if sections["shortcuts"]["flagged"]:
        flags.append(words.SHORTCUT)
    if sections["limits"]["leakage_alarm"]:
        flags.append(sections["limits"]["sentences"][0])
    if not all(row["beaten"] for row in sections["baselines"]["rows"]):
        flags.append(sections["baselines"]["statement"])
    return {
        "photos": len(judged.rows),
        "patients": len(np.unique(judged.patients)),
        "figures": {name: metrics[name] for name in ("auroc", "sensitivity", "specificity", "ece")},
        "classified": sections["abstention"]["classified"],
        "plain": plain.sentences(metrics, sections["abstention"]["classified"], run.labels[0], synthetic=run.synthetic),
        "rules": [asdict(gate) for gate in gates({"sections": sections})],
        "flags": flags,
    }


def _spread(asked: Asked, most: int) -> NDArray[np.intp]:
    """The places of at most `most` photos, evenly from each class in order: no draw, so the same ones every time."""
    ordered = np.argsort(asked.kinds, kind="stable")
    return np.asarray(ordered[np.linspace(0, len(ordered) - 1, min(most, len(ordered))).astype(int)])
