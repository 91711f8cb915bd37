"""Owns how figures are said: with digits enough to be true, and first in the words of somebody who sees patients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from training.intervals import Measure

_MOST_DIGITS: Final = 4  # of the figures as they are stored


def sentences(metrics: Mapping[str, Measure], classified: Measure, label: str, *, synthetic: bool) -> list[str]:
    """Four sentences about photos whose patients the network did not see; those that cannot be said are left out."""
    photos, name = "synthetic photos" if synthetic else "photos", label.removesuffix(" (synthetic)")
    wrongly = {**metrics["specificity"]}
    if wrongly["value"] is not None:
        wrongly |= {"value": 1 - wrongly["value"], "low": 1 - wrongly["high"], "high": 1 - wrongly["low"]}
    told = (
        (metrics["sensitivity"], f"Of 100 {photos} of {name}, {{}} are called {name}; the others are missed."),
        (wrongly, f"Of 100 other {photos}, {{}} are called {name} although they are not."),
        (metrics["ppv_5"], f"Where 5 of 100 {photos} show {name}: of 100 that are called {name}, {{}} are it indeed."),
        (classified, f"Of 100 {photos}, {{}} get an answer; on the others the service abstains and says why."),
    )
    return [text.format(_of_hundred(found)) for found, text in told if found["value"] is not None] or [
        f"There are too few {photos} to say how many would be called rightly."
    ]


def _of_hundred(found: Mapping[str, Any]) -> str:
    value, low, high = said(found, 0, whole=100)
    return value if "constant" in found else f"{value} ({low} to {high})"


def said(found: Mapping[str, Any], digits: int, *, whole: int = 1) -> tuple[str, str, str]:
    """A figure and the ends of its interval, as parts of `whole`, with so many digits or as many more as it takes.

    0.9998 is not 1.000, and an interval from 0.9996 does not begin there: nothing may seem certain by rounding.
    """
    value, low, high = (whole * float(found[key]) for key in ("value", "low", "high"))
    while digits < _MOST_DIGITS and (
        _rounds_to(value, 0, digits)
        or _rounds_to(value, whole, digits)
        or _rounds_to(low, whole, digits)
        or _rounds_to(high, 0, digits)
    ):
        digits += 1
    return f"{value:.{digits}f}", f"{low:.{digits}f}", f"{high:.{digits}f}"


def _rounds_to(figure: float, certain: int, digits: int) -> bool:
    """Whether it is not quite that, and would be printed so."""
    return round(figure, _MOST_DIGITS) != certain and round(figure, digits) == certain
