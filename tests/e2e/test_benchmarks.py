"""The benchmarks, tiny: they run, and their report is whole. The figures mean nothing then and are not looked at."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.apart import ROOT

# One of each kind. The others start whole services, several times over or beside other servers of models, and are tried
# with `python -m benchmarks --quick`.
TRIED = ("decoding", "ledger", "accept", "history_pages")

RUN = {"date", "command", "quick", "seconds", "load_before", "load_after", "machine"}
MACHINE = {"processor", "cores", "memory_gib", "kernel", "python", "packages"}
VERDICTS = {"reached", "missed", "not measured", ""}


def test_a_quick_run_reports_benchmarks_with_their_yardsticks(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--out", str(out), *(f"--only={name}" for name in TRIED)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=190,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    sections = json.loads(out.read_text())["benchmarks"]
    assert [section["name"] for section in sections] == list(TRIED)
    for section in sections:
        assert set(section) >= RUN, section["name"]
        assert set(section["machine"]) == MACHINE
        assert section["quick"] is True
        assert section["rows"], section["name"]
        assert any(row["target"] for row in section["rows"]) or section["name"] == "decoding"
        for row in section["rows"]:
            assert row["what"] in done.stdout
            assert row["yardstick"]
            assert row["verdict"] in VERDICTS
            assert row["ratio"] is None or row["ratio"] > 0, row
            assert row["ratio"] is not None or row["note"], row
    kept = out.read_text()
    assert str(ROOT) not in kept
    assert str(tmp_path) not in kept
