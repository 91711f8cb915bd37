"""What the README says of the demo network is what its card says."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FIGURES = {
    "auc": "area under the ROC curve",
    "accuracy": "accuracy, if it had to answer always",
    "classified": "share of photos it answers, instead of abstaining",
    "accuracy_when_classified": "accuracy where it answers",
    "sensitivity_when_classified": "sensitivity where it answers",
    "specificity_when_classified": "specificity where it answers",
    "ece": "expected calibration error",
}


def row(name: str) -> str:
    card = json.loads((ROOT / "models/demo/card.json").read_bytes())
    figure = card["metrics"]["test"][name]
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
