"""The report is complete: every section and figure, each with its interval, and the same bytes from the same run."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner

from cli.main import main
from shared.bundle import load_bundle
from tests.unit.training.run_folder import DEMO, make
from training.gates import gates
from training.intervals import Resampling
from training.pictures import look_at_all
from training.report import words
from training.report.account import shortcuts
from training.report.document import Evaluation
from training.report.files import for_the_bundle
from training.report.performance import METRICS
from training.runs import load_run
from training.served import Asked, Served
from training.shortcuts import traits

SCHEMA = json.loads((Path(words.__file__).parent / "metrics.schema.json").read_text(encoding="utf-8"))


def asked(run: Path, out: Path) -> list[str]:
    return [str(run), "--out", str(out), "--gates", "--robustness-photos", "1", "--probes", "1"]


def assert_refused(code: int, told: str) -> None:
    """The photos bear a watermark: the rules cannot hold."""
    assert code == 1, told
    assert "FAILS  no shortcut" in told
    assert "holds  nobody is on two sides" in told


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("evaluated"), patients=7)


@pytest.fixture(scope="module")
def report(run: Path) -> Path:
    command = [sys.executable, "-m", "cli.main", "evaluate", *asked(run, run / "report")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert_refused(done.returncode, done.stderr)
    return run / "report"


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
    assert "on the validation photos of the network that is served" in page


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


def test_the_card_of_the_bundle_has_the_figures_and_its_digest_stays(document: dict[str, Any], run: Path) -> None:
    bundle = load_bundle(run / "bundle")
    assert bundle.digest == load_bundle(DEMO).digest
    assert bundle.card["metrics"]["auroc"] == document["sections"]["pooled"]["metrics"]["auroc"]
    assert bundle.card["metrics"]["statement"].startswith("SYNTHETIC")
    assert [rule["passed"] for rule in bundle.card["metrics"]["rules_of_trust"] if "shortcut" in rule["rule"]] == [
        False
    ]


def test_the_bundle_holds_the_report_and_its_digest_stays(run: Path, report: Path) -> None:
    held = {path.name: path.read_bytes() for path in (run / "bundle/report").iterdir()}
    assert sorted(held) == ["card.md", "metrics.json", "report.html"]
    assert held == {name: (report / name).read_bytes() for name in held}
    assert load_bundle(run / "bundle").digest == load_bundle(DEMO).digest


@pytest.mark.parametrize(("synthetic", "kept"), [(True, "cGhvdG8="), (False, None)])
def test_a_photograph_of_a_person_never_gets_into_the_bundle(synthetic: bool, kept: str | None) -> None:
    shown = {"cell": "called rightly", "image": "a.jpg", "p": 0.9, "photo": "cGhvdG8=", "layer": "bGF5ZXI="}
    found = for_the_bundle(Evaluation({"synthetic": synthetic}, [shown]))
    assert found.gallery == [shown | {"photo": kept}]


def test_a_report_never_takes_the_place_of_other_files(run: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.md").write_text("mine", encoding="utf-8")
    done = CliRunner().invoke(main, ["evaluate", str(run), "--out", str(tmp_path)])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "thesis.md" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.md"]


@pytest.mark.parametrize("inside", ["bundle", "bundle/report", "bundle/report/mine", "report/../bundle/report"])
def test_a_report_is_not_written_where_the_bundle_has_its_own(run: Path, inside: str) -> None:
    before = sorted(path for path in run.rglob("*"))
    done = CliRunner().invoke(main, ["evaluate", str(run), "--out", str(run / inside)])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "lies in the bundle" in done.stderr
    assert sorted(path for path in run.rglob("*")) == before


def test_the_schema_refuses_a_figure_without_an_interval(document: dict[str, Any]) -> None:
    jsonschema.validate(document, SCHEMA)
    broken = json.loads(json.dumps(document))
    del broken["sections"]["pooled"]["metrics"]["auroc"]["low"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, SCHEMA)


def test_every_figure_of_generated_photos_says_so_and_no_clinical_figure_stands_beside(report: Path) -> None:
    page = (report / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg class=") == 11
    assert page.count('class="mark"') == 11
    assert "Research use only" in page
    assert "Melbourne" not in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "SYNTHETIC" in (report / "card.md").read_text(encoding="utf-8")


def test_the_same_run_gives_the_same_bytes(run: Path, report: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    # In this process, another than that of the report, all is loaded already.
    done = CliRunner().invoke(main, ["evaluate", *asked(run, again)])
    assert_refused(done.exit_code, done.output)
    files = sorted(path.relative_to(report) for path in report.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert [name for name in files if (report / name).read_bytes() != (again / name).read_bytes()] == []


def test_what_was_said_of_some_photos_is_what_is_said_when_they_are_asked_again(run: Path, tmp_path: Path) -> None:
    served, finished = Served.load(run / "bundle", tmp_path), load_run(run)
    pixels, _ = look_at_all(run.parent / "photos", finished.frame["image"].tolist()[:3])
    asked = Asked(np.arange(3), pixels, np.array([0, 0, 1]), np.array(["a", "b", "c"]), served.outputs(pixels))
    few = asked.at(np.array([2, 0]))
    assert (few.rows.tolist(), few.kinds.tolist(), few.patients.tolist()) == ([2, 0], [1, 0], ["c", "a"])
    for kept, again in zip(vars(few.outputs).values(), vars(served.outputs(few.pixels)).values(), strict=True):
        assert np.array_equal(kept, again)


def test_a_watermark_that_goes_with_a_label_is_told_and_fails_the_gate(document: dict[str, Any], run: Path) -> None:
    found = document["sections"]["shortcuts"]
    assert found["flagged"]
    assert (found["place"]["row"], found["place"]["label"]) == (1, "mpox (synthetic)")  # it is drawn at the upper edge
    assert found["place"]["column"] >= 5  # on the right
    assert any("tells the label" in flag for flag in document["sections"]["summary"]["flags"])
    [gate] = [gate for gate in gates(document) if "shortcut" in gate.rule]
    assert not gate.passed
    assert "row 1" in gate.found
    # The same photos without the mark, and nothing else changed.
    finished = load_run(run)
    pixels, _ = look_at_all(run.parent / "clean", finished.frame["image"].tolist())
    clean = json.loads(json.dumps(document))
    clean["sections"]["shortcuts"] = {**shortcuts(finished, pixels), "reliance": found["reliance"]}
    assert not clean["sections"]["shortcuts"]["flagged"]
    assert [gate.passed for gate in gates(clean) if "shortcut" in gate.rule] == [True]
    jsonschema.validate(clean, SCHEMA)


def test_a_skin_tone_or_a_size_that_goes_with_a_label_is_told() -> None:
    draws = np.random.default_rng(3)
    patients, positive = np.arange(80), np.arange(80) < 40
    tones = np.where(positive, draws.integers(3, 6, 80), draws.integers(0, 3, 80)).astype(float)
    rows = traits({"tone": tones, "size": draws.normal(size=80)}, positive, Resampling.of(patients))
    assert [row["flagged"] for row in rows] == [True, False]


def test_the_evidence_is_held_against_the_lesions_themselves(document: dict[str, Any]) -> None:
    found = document["sections"]["explanations"]["lesions"]
    assert found["photos"] > 0
    for name in ("inside", "chance", "difference", "auroc_lesions_painted_over"):
        assert found[name]["value"] is not None or "not enough data" in found[name]["reason"]


def test_a_folder_that_is_no_finished_run_is_refused_with_the_way_on(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["evaluate", str(tmp_path)])
    assert done.exit_code == 2
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
        (("shortcuts", "place", "strongest", "value"), None, "shortcut"),
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
