"""The report is complete: every section and figure, each with its interval, and the same bytes from the same run."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.unit.training.run_folder import make
from training.gates import gates
from training.report import words
from training.report.performance import METRICS

SCHEMA = json.loads((Path(words.__file__).parent / "metrics.schema.json").read_text(encoding="utf-8"))


def evaluated(run: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "cli.main", "evaluate", str(run), "--out", str(out)]
    subprocess.run([*command, "--robustness-photos", "2", "--probes", "4"], check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("evaluated"))


@pytest.fixture(scope="module")
def report(run: Path) -> Path:
    return evaluated(run, run / "report")


@pytest.fixture(scope="module")
def document(report: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((report / "metrics.json").read_text(encoding="utf-8"))
    return read


def measures(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if {"value", "low", "high"} <= set(value):
            yield value
        for inner in value.values():
            yield from measures(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from measures(inner)


def test_every_section_is_in_the_numbers_and_on_the_page(document: dict[str, Any], report: Path) -> None:
    page = (report / "report.html").read_text(encoding="utf-8")
    assert list(document["sections"]) == [name for name, _ in words.SECTIONS]
    for name, title in words.SECTIONS:
        assert f'<section id="{name}"><h2>{title}</h2>' in page
    assert "External validation: none done." in page


def test_every_metric_is_there_with_its_interval_or_the_reason_why_not(document: dict[str, Any]) -> None:
    sections = document["sections"]
    assert set(sections["pooled"]["metrics"]) == set(METRICS)
    for member in sections["folds"]["members"]:
        assert set(member["metrics"]) == set(METRICS)
    found = list(measures(sections))
    assert len(found) > 300
    for one in found:
        if one["value"] is None:
            assert one["reason"]
        else:
            assert one["low"] <= one["value"] + 1e-9
            assert one["value"] <= one["high"] + 1e-9


def test_the_schema_refuses_a_figure_without_an_interval(document: dict[str, Any]) -> None:
    jsonschema.validate(document, SCHEMA)
    broken = json.loads(json.dumps(document))
    del broken["sections"]["pooled"]["metrics"]["auroc"]["low"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, SCHEMA)


def test_every_figure_of_generated_photos_says_so_and_no_clinical_figure_stands_beside(report: Path) -> None:
    page = (report / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg class=") == 10
    assert page.count('class="mark"') == 10
    assert "Research use only" in page
    assert "Melbourne" not in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "SYNTHETIC" in (report / "card.md").read_text(encoding="utf-8")


def test_the_same_run_gives_the_same_bytes(run: Path, report: Path, tmp_path: Path) -> None:
    again = evaluated(run, tmp_path / "again")
    files = sorted(path.relative_to(report) for path in report.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert [name for name in files if (report / name).read_bytes() != (again / name).read_bytes()] == []


def test_a_folder_that_is_no_finished_run_is_refused_with_the_way_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli.main", "evaluate", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "--resume" in done.stderr


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        (("split", "overlap"), 1, "two sides"),
        (("split", "canary", "passed"), False, "canary"),
        (("calibration", "after", "ece", "value"), 0.2, "calibration"),
        (("calibration", "after", "ece", "value"), None, "calibration"),
        (("abstention", "coverage", "value"), 0.5, "coverage"),
        (("abstention", "accepted", "value"), 0.5, "probes"),
        (("limits", "leakage_alarm"), True, "alarm"),
    ],
)
def test_a_gate_fails_where_its_figure_is_bad_or_missing(
    document: dict[str, Any], path: tuple[str, ...], value: object, rule: str
) -> None:
    bad = json.loads(json.dumps(document))
    place = bad["sections"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert [gate.passed for gate in gates(bad) if rule in gate.rule] == [False]
