"""The report on a shadow run as one HTML file that needs nothing else: figures, and photos to look at."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from shared.bundle import RESEARCH_USE

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }
table { border-collapse: collapse; margin: .5rem 0 1.5rem } td, th { padding: .25rem .75rem; text-align: left;
border-bottom: 1px solid #ddd; vertical-align: top } td.n { text-align: right; font-variant-numeric: tabular-nums }
.use { border: 2px solid #8a4b00; padding: .5rem .75rem } .few { color: #666 } img { width: 10rem; display: block }
"""

_SAID = (
    "What it says was shown to nobody. Agreement is no accuracy: which of the two is right, this page does not know. "
    "Sums are over the photos of all tenants, the list below holds those of yours alone."
)


def page(report: Mapping[str, Any], photos: Mapping[str, bytes]) -> str:
    """Return the page of a report; ``photos`` are JPEGs by image id, and may be fewer than the report lists."""
    title = f"Shadow run of {report['model']}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="use"><strong>{escape(RESEARCH_USE)}</strong></p>',
        f"<p>Digest <code>{escape(report['digest'])}</code>; it looks at {report['share']:.0%} of photos. {_SAID}</p>",
        "<h2>Agreement on the label</h2>",
        _rates([report["total"]]),
        "<h2>By the label that stands</h2>",
        _rates(report["by_label"]),
        "<h2>By the probability of the label that stands</h2>",
        _rates(report["by_confidence"]),
        "<h2>From label to label</h2>",
        _table(
            ("stands", "shadow", "photos"),
            [(escape(m["standing"]), escape(m["shadow"]), str(m["photos"])) for m in report["moves"]],
        ),
        _differences(report),
        f"<h2>Photos that it calls otherwise ({len(report['disagreements'])})</h2>",
        _photos(report["disagreements"], photos),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _rates(rates: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for one in rates:
        said = f'<span class="few">{escape(one["data"])}</span>'
        if one["rate"] is not None:
            said = f"{one['rate']:.1%} ({one['low']:.1%} to {one['high']:.1%})"
        alike = f"{one['same_outcome']} of {one['photos']}"
        rows.append((escape(one["name"]), str(one["photos"]), str(one["agreeing"]), said, alike))
    return _table(("group", "photos", "same label", "rate (Wilson, 95 %)", "same outcome"), rows)


def _differences(report: Mapping[str, Any]) -> str:
    if report["largest_difference"] is None:
        return "<p>Its labels are others, so probabilities cannot be compared.</p>"
    return (
        f"<p>Difference of a probability: {report['mean_difference']:.3g} in the mean over photos, "
        f"{report['largest_difference']:.3g} at most.</p>"
    )


def _photos(found: Sequence[Mapping[str, Any]], photos: Mapping[str, bytes]) -> str:
    if not found:
        return "<p>None of yours.</p>"
    rows = []
    for one in found:
        links = f'<a href="{escape(one["page_url"])}">page</a>, <a href="{escape(one["result_url"])}">result</a>'
        shown = escape(one["image"])
        if data := photos.get(one["image"]):
            packed = base64.b64encode(data).decode()
            shown = f'<img alt="" src="data:image/jpeg;base64,{packed}">{shown}'
        standing = f"{one['standing']} {one['standing_probability']:.3f}, {one['standing_outcome']}"
        shadow = f"{one['shadow']} {one['shadow_probability']:.3f}, {one['shadow_outcome']}"
        rows.append((shown, escape(standing), escape(shadow), links))
    return _table(("photo", "stands", "shadow", "open"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; cells are HTML already."""
    if not rows:
        return '<p class="few">not enough data</p>'
    heads = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{heads}</tr>{lines}</table>"
