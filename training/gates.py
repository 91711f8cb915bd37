"""Owns the rules that an evaluation must keep before anyone may trust its bundle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

LARGEST_ECE: Final = 0.05
ABSTAINED: Final = 0.85
ACCEPTED: Final = 0.93
_INTERVAL_IN_ERRORS: Final = 3.92  # a 95 % interval is so many standard errors wide


@dataclass(frozen=True)
class Gate:
    """A rule, what was found, and whether it holds; a figure that is missing does not."""

    rule: str
    found: str
    passed: bool


def _at(measure: Mapping[str, Any]) -> float:
    return float("nan") if measure["value"] is None else float(measure["value"])


def _said(value: float, digits: int = 3) -> str:
    return "not measured" if math.isnan(value) else f"{value:.{digits}f}"


def gates(document: Mapping[str, Any]) -> list[Gate]:
    """Holds metrics.json against the rules."""
    s = document["sections"]
    ece, coverage = _at(s["calibration"]["after"]["ece"]), s["abstention"]["coverage"]
    error = 0.0 if coverage["value"] is None else (coverage["high"] - coverage["low"]) / _INTERVAL_IN_ERRORS
    least = s["abstention"]["nominal_coverage"] - 2.0 * error
    strangers = next(row for row in s["ood"]["rows"] if row["family"] == "all")
    abstained, accepted = _at(strangers["abstained"]), _at(s["abstention"]["accepted"])
    crossing = s["split"]["overlap"] + s["split"]["near_duplicates_across_folds"]
    canary = s["split"]["canary"]
    alarm = bool(s["limits"]["leakage_alarm"])
    unbeaten = [row["name"] for row in s["baselines"]["rows"] if not row["beaten"]]
    return [
        Gate("nobody is on two sides of a split", f"{crossing} are", crossing == 0),
        Gate("the leak canary is silent by patient and sings when copies leak",
             f"{_said(_at(canary['grouped']))} and {_said(_at(canary['leaking']))}", bool(canary["passed"])),
        _shortcut(s["shortcuts"]),
        Gate(f"calibration error at most {LARGEST_ECE}", _said(ece, 4), ece <= LARGEST_ECE),
        Gate(f"coverage at least {least:.3f} (nominal - 2 SE)", _said(_at(coverage)), _at(coverage) >= least),
        Gate(f"at least {ABSTAINED} of probes abstained on, at {ACCEPTED} of photos accepted",
             f"{_said(abstained)} at {_said(accepted)}", abstained >= ABSTAINED and accepted >= ACCEPTED),
        Gate("every baseline is beaten", ", ".join(unbeaten) or "yes", not unbeaten),
        Gate("no leakage alarm", "raised" if alarm else "none", not alarm),
    ]  # fmt: skip


def _shortcut(found: Mapping[str, Any]) -> Gate:
    place, told = found["place"], [row["trait"] for row in found["traits"] if row["flagged"]]
    if place["flagged"]:
        told.append(f"row {place['row']}, column {place['column']} of 7 tells {place['label']}")
    measured = place["strongest"]["value"] is not None
    said = ", ".join(told) or ("nothing found" if measured else "not enough photos to look")
    return Gate("no shortcut: no fixed place, photo size or skin tone tells the label", said, measured and not told)
