"""Owns the first figures in the words of somebody who sees patients: so many of a hundred, with the interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.intervals import Measure


def sentences(metrics: Mapping[str, Measure], classified: Measure, label: str, *, synthetic: bool) -> list[str]:
    """Four sentences about photos whose patients the network did not see; those that cannot be said are left out."""
    photos, name = "synthetic photos" if synthetic else "photos", label.removesuffix(" (synthetic)")
    wrongly = {**metrics["specificity"]}
    if wrongly["value"] is not None:
        wrongly |= {"value": 1 - wrongly["value"], "low": 1 - wrongly["high"], "high": 1 - wrongly["low"]}
    said = (
        (metrics["sensitivity"], f"Of 100 {photos} of {name}, {{}} are called {name}; the others are missed."),
        (wrongly, f"Of 100 other {photos}, {{}} are called {name} although they are not."),
        (metrics["ppv_5"], f"Where 5 of 100 {photos} show {name}: of 100 that are called {name}, {{}} are it indeed."),
        (classified, f"Of 100 {photos}, {{}} get an answer; on the others the service abstains and says why."),
    )
    return [text.format(_of_hundred(found)) for found, text in said if found["value"] is not None] or [
        f"There are too few {photos} to say how many would be called rightly."
    ]


def _of_hundred(found: Mapping[str, Any]) -> str:
    value, low, high = (f"{100 * float(found[key]):.0f}" for key in ("value", "low", "high"))
    return value if "constant" in found else f"{value} ({low} to {high})"
