"""Owns the writing of the report: page, figures, numbers and card; the same document gives the same bytes."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import jsonschema
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from shared.bundle import CARD
from shared.errors import DataRefused
from training.landing import refuse_foreign, replace_all, telling_of_the_disk
from training.report import charts, words
from training.report.document import Evaluation
from training.report.performance import METRICS
from training.report.plain import said
from training.runs import REPORT, as_json

HERE: Final = Path(__file__).parent
IN_THE_BUNDLE: Final = ("report.html", "metrics.json", "card.md")
FIGURES: Final = "figures"
SCHEMA: Final = HERE / "metrics.schema.json"
NAMES: Final = {
    "auroc": "AUROC", "auprc": "AUPRC", "mcc": "MCC", "f1": "F1", "ece": "ECE", "brier": "Brier score",
    "log_loss": "log-loss", "balanced_accuracy": "balanced accuracy",
    **{f"{kind}_{at}": f"{kind.upper()} at {at} %" for kind in ("ppv", "npv") for at in (1, 5, 20, 45)},
}  # fmt: skip


def figures_of(document: Mapping[str, Any]) -> dict[str, str]:
    """Every figure by name."""
    sections, synthetic = document["sections"], bool(document["synthetic"])
    plots = sections["plots"]
    diagonal = [(0.0, 0.0), (1.0, 1.0)]
    prevalence = sum(plots["confusion"]["counts"][0]) / max(sections["pooled"]["photos"], 1)

    def frame(title: str, x: str, y: str, top: float = 1.0, bottom: float = 0.0) -> charts.Frame:
        return charts.Frame(title, x, y, y_range=(bottom, top), synthetic=synthetic)

    least = math.floor(10 * min(0.0, *(max(row["low"], -0.2) for row in plots["decision"]))) / 10
    most = math.ceil(10 * max(0.1, *(row["high"] for row in plots["decision"]))) / 10
    worst = math.ceil(10 * max(0.1, *(row["high"] for row in plots["coverage_risk"]))) / 10
    folds = [(f"fold {m['fold']}, seed {m['seed']}", m["metrics"]["auroc"]) for m in sections["folds"]["members"]]
    nobody = ("calling nobody", [(0.0, 0.0), (1.0, 0.0)])
    treat_all = [(r["x"], max(r["all"], least)) for r in plots["decision"] if r["all"] >= least]
    return {
        "roc": charts.band_plot(frame("ROC", "1 - specificity", "sensitivity"), plots["roc"],
                                others=[("chance", diagonal)], legend_below=True),
        "precision_recall": charts.band_plot(frame("Precision and recall", "recall", "precision"),
                                             plots["precision_recall"],
                                             others=[("calling everyone", [(0.0, prevalence), (1.0, prevalence)])]),
        "reliability": charts.band_plot(frame("Reliability", "said probability", "share that is positive"),
                                        plots["reliability"], others=[("perfect", diagonal)], dots=True,
                                        legend_below=True),
        "coverage_risk": charts.band_plot(frame("Error among the most confident", "share answered", "error", worst),
                                          plots["coverage_risk"]),
        "decision": charts.band_plot(frame("Decision curve", "threshold", "net benefit", most, least),
                                     plots["decision"],
                                     others=[("calling everyone", treat_all), nobody]),
        "histogram": charts.histogram(frame("Probabilities", "said probability of the first label", ""),
                                      plots["histogram"], (sections["identity"]["labels"][0], "all others")),
        "confusion": charts.confusion("Confusion", plots["confusion"]["labels"], plots["confusion"]["counts"],
                                      synthetic=synthetic),
        "shortcuts": charts.places("What each place tells", sections["shortcuts"]["place"]["areas"],
                                   synthetic=synthetic),
        "folds": charts.forest("AUROC of each network on its unseen fold", folds, low=0.0, synthetic=synthetic),
        "subgroups": charts.forest("Accuracy by subgroup", [(r["group"][:30], r["accuracy"])
                                                            for r in sections["subgroups"]], synthetic=synthetic),
        "robustness": charts.forest("Accuracy of disturbed photos", [(f"{r['family']}, {r['level']}", r["accuracy"])
                                    for r in sections["robustness"]["rows"]], synthetic=synthetic),
    }  # fmt: skip


def refuse_to_overwrite(folder: Path, bundle: Path) -> None:
    """Raises DataRefused where a report would take the place of a folder that holds something else.

    Nor may it lie in the bundle: what goes there is another page, without photographs of people, and nothing beside it.
    """
    if folder.resolve().is_relative_to(bundle.resolve()):
        raise DataRefused(f"{folder} lies in the bundle {bundle}, which gets a report of its own: give another folder")
    _refuse_foreign(folder)


def _refuse_foreign(folder: Path) -> None:
    refuse_foreign(folder, (*IN_THE_BUNDLE, FIGURES))


def write(evaluation: Evaluation, folder: Path, bundle: Path) -> list[Path]:
    """Writes report.html, metrics.json, card.md and the figures with their points; returns what was written.

    The first three go into the bundle's `report/` too, there without photographs of people, and the first figures into
    its card, all as one set. Raises DataRefused where the disk refuses or the folder holds something else,
    jsonschema.ValidationError where the document is not what the schema promises: a fault of this program.
    """
    document = evaluation.document
    jsonschema.validate(document, json.loads(SCHEMA.read_text(encoding="utf-8")))
    figures = figures_of(document)
    content = {
        "metrics.json": json.dumps(document, indent=1, ensure_ascii=False) + "\n",
        "report.html": _rendered("report.html.jinja", evaluation, figures, escape=True),
        "card.md": _rendered("card.md.jinja", evaluation, figures, escape=False),
        **{f"{FIGURES}/{name}.svg": charts.standalone(svg) for name, svg in figures.items()},
        **{
            f"{FIGURES}/{name}.csv": _table(points)
            for name, points in document["sections"]["plots"].items()
            if isinstance(points, list)
        },
    }
    written = {name: text.encode() for name, text in content.items()}
    page = _rendered("report.html.jinja", for_the_bundle(evaluation), figures, escape=True)
    in_bundle = {name: written[name] for name in IN_THE_BUNDLE} | {"report.html": page.encode()}
    refuse_to_overwrite(folder, bundle)
    _refuse_foreign(bundle / REPORT)
    with telling_of_the_disk(folder):
        replace_all({bundle / REPORT: in_bundle, folder: written}, {bundle / CARD: _card(document, bundle)})
    return [folder / name for name in content]


def for_the_bundle(evaluation: Evaluation) -> Evaluation:
    """What goes wherever the bundle is sent: no photograph of a person, whatever was asked for."""
    if evaluation.document["synthetic"]:
        return evaluation
    return replace(evaluation, gallery=[shown | {"photo": None} for shown in evaluation.gallery])


def _card(document: Mapping[str, Any], bundle: Path) -> bytes:
    """The card of the bundle with the first figures and their intervals; its digest does not cover them."""
    s, card = document["sections"], json.loads((bundle / CARD).read_text(encoding="utf-8"))
    card["metrics"] = {
        "statement": document["synthetic_statement"] or document["statement"],
        "interval": document["interval"],
        "photos": s["pooled"]["photos"],
        "patients": s["pooled"]["patients"],
        **s["pooled"]["metrics"],
        **{name: s["abstention"][name] for name in ("coverage", "accepted", "classified")},
        "probes_without_skin": next(row for row in s["ood"]["rows"] if row["family"] == "all"),
        "rules_of_trust": s["summary"]["rules"],
    }
    return as_json(card)


@cache
def _surroundings(*, escape: bool) -> Environment:
    """Kept, since it holds the templates it has compiled."""
    surroundings = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=escape,  # noqa: S701 - off for card.md alone: it is no HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    own = {"measure": measure, "named": named, "last_part": last_part, "p_value": p_value, "said": said}
    surroundings.filters |= own
    return surroundings


def _rendered(template: str, evaluation: Evaluation, figures: Mapping[str, str], *, escape: bool) -> str:
    page = _surroundings(escape=escape).get_template(template)
    return page.render(
        document=evaluation.document,
        s=evaluation.document["sections"],
        gallery=evaluation.gallery,
        figures={name: Markup(svg) for name, svg in figures.items()},  # noqa: S704 - drawn by us, its texts escaped
        titles=words.SECTIONS,
        metrics=METRICS,
    )


def measure(found: Mapping[str, Any]) -> str:
    """A figure with its interval, or why there is none."""
    if found["value"] is None:
        return str(found["reason"])
    value, low, high = said(found, 3)
    return f"{value} (in every resample)" if "constant" in found else f"{value} ({low} to {high})"


def last_part(image: str) -> str:
    """The file name of a photo, which in the data sets known tells patient and number."""
    return image.rpartition("/")[2]


def p_value(p: float) -> str:
    """A p as papers print it."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"  # noqa: PLR2004 - three digits


def named(metric: str) -> str:
    """A metric as people write it."""
    return NAMES.get(metric, metric.replace("_", " "))


def _table(points: Sequence[Mapping[str, Any]]) -> str:
    held = io.StringIO()
    table = csv.DictWriter(held, list(points[0]) if points else ["x", "y"], lineterminator="\n")
    table.writeheader()
    table.writerows(points)
    return held.getvalue()
