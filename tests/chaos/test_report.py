"""The report says what was killed and what came of it, to machines and to people alike."""

import json
from dataclasses import replace
from pathlib import Path

from tests.chaos.kills import Kill
from tests.chaos.report import Report

REPORT = Report(
    seed=7,
    command="make chaos KILLS=2 SEED=7",
    began="2026-11-23T07:00:00+00:00",
    seconds=4.0,
    drained_seconds=1.25,
    kills=[Kill(0.5, "worker", 11), Kill(2.0, "at web.stored", 12)],
    by_kind={"worker": 1, "at web.stored": 1},
    jobs=3,
    cancelled_jobs=1,
    photos=9,
    results=9,
    lost=0,
    doubled=0,
    quarantined=0,
    units_rerun=2,
    photos_rerun=4,
    messages=18,
    messages_came=18,
    messages_repeated=1,
    answers={"202": 3, "ConnectError": 5},
    samples=40,
    samples_missed=2,
    broken=[],
)


def test_both_files_say_the_same(tmp_path: Path) -> None:
    machine, text = REPORT.write(tmp_path / "build")
    read = json.loads(machine.read_text())
    assert (read["seed"], read["lost"], read["answers"]) == (7, 0, {"202": 3, "ConnectError": 5})
    assert read["kills"] == [
        {"at": 0.5, "what": "worker", "pid": 11},
        {"at": 2.0, "what": "at web.stored", "pid": 12},
    ]
    page = text.read_text()
    assert "**2 kills in 4 s (0.50/s), 9 photos accepted: lost 0, doubled 0, the promise held.**" in page
    assert "| 2.0 | at web.stored | 12 |" in page
    assert "3 x 202, 5 x ConnectError" in page


def test_what_broke_stands_in_the_verdict_and_on_the_page() -> None:
    broken = replace(REPORT, lost=1, results=8, broken=["counters do not add up: 1, 2"])
    assert broken.verdict().endswith("lost 1, doubled 0, 1 THINGS BROKEN")
    assert "- counters do not add up: 1, 2" in broken.text()
