"""The report of the benchmarks: verdicts, numbers, and a README that shows what the file of results holds."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.__main__ import HERE, NAMES
from benchmarks.peers.servers import PEERS
from benchmarks.report import BEGIN, END, Row, figures, load, number, store, table, versus, write_figures

MACHINE = {"processor": "one", "cores": 2, "memory_gib": 4.0, "kernel": "Linux 6", "python": "3.11.9", "packages": {}}
RUN = {
    "date": "2026-11-23 10:00 UTC",
    "command": "python -m benchmarks",
    "quick": False,
    "seconds": 12.3,
    "load_before": [0.1, 0.2, 0.3],
    "load_after": [1.1, 0.2, 0.3],
    "machine": MACHINE,
}


@pytest.mark.parametrize(
    ("row", "target", "verdict"),
    [
        (versus("a", 3.0, "s", "b", 1.0, at_least=2.4), ">= 2.4", "reached"),
        (versus("a", 2.0, "s", "b", 1.0, at_least=2.4), ">= 2.4", "missed"),
        (versus("a", 0.2, "s", "b", 1.0, at_most=0.25), "<= 0.25", "reached"),
        (versus("a", 0.3, "s", "b", 1.0, at_most=0.25), "<= 0.25", "missed"),
        (versus("a", 0.3, "s", "b", 1.0), "", ""),
        (Row("a", 0.3, "s", "b", at_least=0.9, note="no compiler"), ">= 0.9", "not measured"),
    ],
)
def test_a_row_says_whether_it_reached_its_target(row: Row, target: str, verdict: str) -> None:
    assert (row.target, row.verdict) == (target, verdict)


def test_numbers_have_three_digits_that_mean_something() -> None:
    assert [number(value) for value in (12_345.6, 123.4, 12.345, 0.01234)] == ["12,346", "123", "12.3", "0.0123"]


def test_notes_stand_below_the_table() -> None:
    text = table([versus("a", 1.0, "s", "b", 2.0, at_most=1.0, note="on one core")])
    assert text.splitlines()[-1] == "- a: on one core"
    assert len({len(line) for line in text.splitlines()[:3]}) == 1


def test_a_new_run_replaces_its_own_section_and_no_other(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    store(out, [report.section("engine", RUN, [versus("a", 1.0, "s", "b", 2.0)])])
    store(out, [report.section("ledger", RUN, [versus("c", 1.0, "s", "d", 2.0)])])
    kept = store(out, [report.section("engine", RUN, [versus("e", 1.0, "s", "b", 2.0)])])
    assert [(item["name"], item["rows"][0]["what"]) for item in kept] == [("engine", "e"), ("ledger", "c")]
    assert load(out) == kept


def test_figures_go_between_the_marks_of_the_readme(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_figures(readme, [report.section("engine", RUN, [versus("a", 1.0, "s", "b", 2.0)])])
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "2 cores, 4.0 GiB, Linux 6, Python 3.11.9; load 0.1 before and 1.1 after" in text


def test_the_readme_shows_what_the_results_hold() -> None:
    kept = load(HERE / "results.json")
    assert {item["name"] for item in kept} == set(NAMES)
    assert not any(item["quick"] for item in kept)
    assert figures(kept) in (HERE / "README.md").read_text(encoding="utf-8")


def test_the_peers_have_the_packages_that_decode_and_classify_here_in_the_same_versions() -> None:
    """What one lacks would only show once somebody measures; what is older would be another decoder."""
    asked = (
        "import sys, benchmarks.peers.network; from importlib.metadata import packages_distributions, version;"
        "found = packages_distributions();"
        "names = {name.partition('.')[0] for name in sys.modules} & set(found) - {'psutil'};"
        "print(*{found[name][0].lower().replace('_', '-') + '==' + version(found[name][0]) for name in names})"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    declared = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    ours = {re.split("[<>=~!;]", line)[0].strip() for line in declared}
    wanted = {pin for pin in done.stdout.split() if pin.partition("==")[0] in ours}
    # These they bring along themselves.
    wanted = {pin for pin in wanted if pin.partition("==")[0] not in {"packaging", "psutil"}}
    assert len(wanted) >= 6
    for peer in PEERS:
        pinned = (HERE / "peers" / f"{peer.name}.txt").read_text(encoding="utf-8").split()
        assert wanted <= set(pinned), peer.title
