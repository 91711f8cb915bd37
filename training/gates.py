"""Owns the rules that an evaluation must keep before anyone may trust its bundle: ``python -m training.gates RUN``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from training.runs import REPORT

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
    unbeaten = [row["name"] for row in s["baselines"]["rows"] if not row["beaten"]]
    return [
        Gate("nobody is on two sides of a split", f"{crossing} are", crossing == 0),
        Gate("the leak canary is silent by patient and sings when copies leak",
             f"{_at(canary['grouped']):.3f} and {_at(canary['leaking']):.3f}", bool(canary["passed"])),
        Gate(f"calibration error at most {LARGEST_ECE}", f"{ece:.4f}", ece <= LARGEST_ECE),
        Gate(f"coverage at least {least:.3f} (nominal - 2 SE)", f"{_at(coverage):.3f}", _at(coverage) >= least),
        Gate(f"at least {ABSTAINED} of probes abstained on, at {ACCEPTED} of photos accepted",
             f"{abstained:.3f} at {accepted:.3f}", abstained >= ABSTAINED and accepted >= ACCEPTED),
        Gate("every baseline is beaten", ", ".join(unbeaten) or "yes", not unbeaten),
        Gate("no leakage alarm", str(s["limits"]["leakage_alarm"]), not s["limits"]["leakage_alarm"]),
    ]  # fmt: skip


def main() -> int:
    """Prints each rule with what was found; 1 where any does not hold."""
    parser = argparse.ArgumentParser(prog="python -m training.gates", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of an evaluated run")
    report: Path = parser.parse_args().run / REPORT / "metrics.json"
    found = gates(json.loads(report.read_text(encoding="utf-8")))
    for gate in found:
        print(f"{'holds' if gate.passed else 'FAILS'}  {gate.rule}: {gate.found}")
    return 0 if all(gate.passed for gate in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
