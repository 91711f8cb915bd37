"""The command of the benchmarks: runs them, prints each table, keeps the figures."""

import argparse
import datetime as dt
import importlib
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import charts, machine, report

HERE = Path(__file__).resolve().parent
NAMES = (
    "engine",
    "decoding",
    "pipeline",
    "memory",
    "ledger",
    "eta",
    "scale",
    "history_pages",
    "fairness",
    "accept",
    "webhooks",
    "gil",
    "service",
    "contrast",
    "peers",
)


def measure(name: str, command: str, *, quick: bool) -> dict[str, Any]:
    """Run one benchmark and print its table."""
    began, before = time.monotonic(), machine.load()
    date = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    rows = list(importlib.import_module(f"benchmarks.{name}").run(quick=quick))
    print(f"\n{name}\n\n{report.table(rows)}", flush=True)
    about = {
        "date": date,
        "command": command,
        "quick": quick,
        "seconds": round(time.monotonic() - began, 1),
        "load_before": before,
        "load_after": machine.load(),
        "machine": machine.facts(),
    }
    return report.section(name, about, rows)


def main(arguments: list[str]) -> None:
    """Measure what was asked for; a full run also writes its figures into the README."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure against yardsticks of the same run."
    )
    parser.add_argument(
        "--only", choices=NAMES, action="append", help="this benchmark alone; may be given several times"
    )
    parser.add_argument(
        "--quick", action="store_true", help="everything tiny: shows that it works and measures nothing"
    )
    parser.add_argument("--out", type=Path, help="file of the results  [default: benchmarks/results.json; quick: none]")
    asked = parser.parse_args(arguments)
    command = " ".join(
        ["python -m benchmarks", *(f"--only {name}" for name in asked.only or ()), *(["--quick"] * asked.quick)]
    )
    out = asked.out or (None if asked.quick else HERE / "results.json")
    for name in NAMES if not asked.only else asked.only:
        found = measure(name, command, quick=asked.quick)
        if out:
            kept = report.store(out, [found])
            if out == HERE / "results.json":
                report.write_figures(HERE / "README.md", kept)
                charts.draw({item["name"]: item for item in kept}, charts.CHARTS)


if __name__ == "__main__":
    main(sys.argv[1:])
