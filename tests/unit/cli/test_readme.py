"""What the README and the changelog say is what is there: figures, files, commands."""

import json
import re
import subprocess
from pathlib import Path

import click
import pytest

from cli.main import main

ROOT = Path(__file__).parents[3]
FIGURES = {
    "auroc": "area under the ROC curve",
    "accuracy": "accuracy, if it had to answer always",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "classified": "share of photos it answers, instead of abstaining",
    "ece": "expected calibration error",
}


def row(name: str) -> str:
    card = json.loads((ROOT / "models/demo/card.json").read_bytes())
    figure = card["metrics"][name]
    return f"| {FIGURES[name]} | {figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f}) |"


@pytest.mark.parametrize("name", FIGURES)
def test_the_readme_quotes_the_card(name: str) -> None:
    assert row(name) in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()


def test_every_file_the_readme_names_is_there() -> None:
    diagram = (ROOT / "README.md").read_text(encoding="utf-8").partition("## The path of one photo")[2]
    words = diagram.replace(",", " ").replace(":", " ").replace("`", " ").split()
    named = {word for word in words if word.startswith(("web/", "shared/", "worker/", "models/", "docs/"))}
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md"])
def test_no_command_is_called_missing_that_is_there(page: str) -> None:
    missing = (ROOT / page).read_text(encoding="utf-8").partition("## Not there yet")[2].partition("\n## ")[0]
    line = next(line for line in missing.splitlines() if "commands" in line.lower())
    named = set(re.findall(r"`(\w+)`", line))
    assert named
    assert named & set(main.list_commands(click.Context(main))) == set()


def test_make_names_every_target_that_a_person_may_call() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = {line.split()[1] for line in shown.splitlines() if line.startswith("make ")}
    assert listed == set(
        re.findall(r"^\.PHONY: ([\w-]+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert {"demo", "up", "test", "bench", "fuzz"} <= listed
