"""The report of a run of kills: one file for machines, one for people, made of the same facts."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from shared.processors import processors
from tests.chaos.kills import Kill


@dataclass(frozen=True)
class Report:
    """What a run was, what it killed, and what was found afterwards; ``broken`` is empty where the promise held."""

    seed: int
    command: str
    began: str
    seconds: float
    drained_seconds: float
    kills: Sequence[Kill]
    by_kind: Mapping[str, int]
    jobs: int
    cancelled_jobs: int
    photos: int
    results: int
    lost: int
    doubled: int
    quarantined: int
    units_rerun: int
    photos_rerun: int
    messages: int
    messages_came: int
    messages_repeated: int
    answers: Mapping[str, int]
    samples: int
    samples_missed: int
    broken: Sequence[str]

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write ``chaos-report.json`` and ``chaos-report.md`` into the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        machine, text = folder / "chaos-report.json", folder / "chaos-report.md"
        machine.write_text(json.dumps({"machine": _machine(), **asdict(self)}, indent=1) + "\n", encoding="utf-8")
        text.write_text(self.text() + "\n", encoding="utf-8")
        return machine, text

    def verdict(self) -> str:
        """Return the outcome in one line."""
        rate = len(self.kills) / self.seconds
        return (
            f"{len(self.kills)} kills in {self.seconds:.0f} s ({rate:.2f}/s), {self.photos} photos accepted: "
            f"lost {self.lost}, doubled {self.doubled}, "
            + ("the promise held" if not self.broken else f"{len(self.broken)} THINGS BROKEN")
        )

    def text(self) -> str:
        """Return the report as a page."""
        lines = [
            "# Chaos run",
            "",
            f"**{self.verdict()}.**",
            "",
            f"`{self.command}`, begun {self.began}, on {_machine()}.",
            "",
            "| what | count |",
            "|---|---|",
            *(f"| {what} | {count} |" for what, count in self._figures()),
            "",
            "| killed | times |",
            "|---|---|",
            *(f"| {what} | {times} |" for what, times in self.by_kind.items()),
        ]
        lines += ["", "## Broken", "", *(f"- {what}" for what in self.broken)] if self.broken else []
        lines += ["", "## When", "", "| second | killed | process |", "|---|---|---|"]
        return "\n".join(lines + [f"| {kill.at:.1f} | {kill.what} | {kill.pid} |" for kill in self.kills])

    def _figures(self) -> list[tuple[str, object]]:
        told = ", ".join(f"{times} x {what}" for what, times in sorted(self.answers.items()))
        return [
            ("jobs accepted, of them cancelled on request", f"{self.jobs}, {self.cancelled_jobs}"),
            ("photos accepted", self.photos),
            ("results", self.results),
            ("photos lost", self.lost),
            ("photos or jobs doubled", self.doubled),
            ("photos quarantined, each after three deaths", self.quarantined),
            (
                "units run again, photos in results of a second or later attempt",
                f"{self.units_rerun}, {self.photos_rerun}",
            ),
            ("messages owed, arrived, of them more than once under one id", self._messages()),
            ("what the clients were told", told),
            (
                "looks at the counters while it ran; while the database was away",
                f"{self.samples}; {self.samples_missed}",
            ),
            ("seconds until all was answered after the last kill", round(self.drained_seconds, 1)),
        ]

    def _messages(self) -> str:
        return f"{self.messages}, {self.messages_came}, {self.messages_repeated}"


def _machine() -> str:
    return f"{platform.system()} {platform.machine()}, {processors()} cores, Python {platform.python_version()}"
