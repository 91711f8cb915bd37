"""``docs/security.md`` names a test or a reason for every requirement, and every test that it names exists."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "security.md"
REFERENCE = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
# OWASP ASVS 5.0.0: https://github.com/OWASP/ASVS/tree/master/5.0
LEVEL_1 = (
    "1.2.1 1.2.2 1.2.3 1.2.4 1.2.5 1.3.1 1.3.2 1.5.1 2.1.1 2.2.1 2.2.2 2.3.1 3.2.1 3.2.2 3.3.1 3.4.1 3.4.2 3.5.1 "
    "3.5.2 3.5.3 4.1.1 4.4.1 5.2.1 5.2.2 5.3.1 5.3.2 6.1.1 6.2.1 6.2.2 6.2.3 6.2.4 6.2.5 6.2.6 6.2.7 6.2.8 6.3.1 "
    "6.3.2 6.4.1 6.4.2 7.2.1 7.2.2 7.2.3 7.2.4 7.4.1 7.4.2 8.1.1 8.2.1 8.2.2 8.3.1 9.1.1 9.1.2 9.1.3 9.2.1 10.4.1 "
    "10.4.2 10.4.3 10.4.4 10.4.5 11.3.1 11.3.2 11.4.1 12.1.1 12.2.1 12.2.2 13.4.1 14.2.1 14.3.1 15.1.1 15.2.1 "
    "15.3.1 "
)
# Those of level 2 and 3 that touch this system.
BEYOND = (
    "1.2.10 1.3.6 1.5.2 2.1.3 2.3.2 2.3.3 2.4.1 3.4.3 3.4.4 3.4.5 3.4.6 3.4.8 4.1.2 4.1.3 4.1.4 4.1.5 4.2.1 5.1.1 "
    "5.2.3 5.2.4 5.2.5 5.2.6 5.3.3 5.4.1 5.4.2 5.4.3 6.5.2 8.2.3 8.3.2 8.4.1 11.4.2 11.5.1 12.3.2 13.1.1 13.2.4 "
    "13.2.5 13.3.1 13.3.4 13.4.2 13.4.5 14.2.2 14.2.5 14.2.8 14.3.2 15.1.2 15.1.3 15.2.2 15.2.5 15.3.2 15.4.2 "
    "16.2.1 16.2.2 16.2.3 16.2.4 16.2.5 16.3.1 16.3.2 16.3.3 16.3.4 16.4.1 16.5.1 16.5.2 16.5.4 "
)


@cache
def functions(path: str) -> frozenset[str]:
    """Return the names of the functions at the top of a file."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def table() -> dict[str, tuple[str, str]]:
    """Return the level and the last cell of every requirement in the page's table."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if re.match(r"\| \d", line)]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({row[0] for row in cells}) == len(cells)
    return {row[0]: (row[1], row[3]) for row in cells}


def test_every_requirement_of_level_1_is_there_and_those_beyond_that_touch_us() -> None:
    first = set(LEVEL_1.split())
    assert len(first) == 70
    found = table()
    assert {key for key, (level, _) in found.items() if level == "1"} == first
    assert set(found) == first | set(BEYOND.split())


def test_each_requirement_names_a_test_or_says_why_there_is_none() -> None:
    for key, (_, held) in table().items():
        assert REFERENCE.search(held) or (len(held) > 20 and held.endswith(".")), key


def test_every_test_that_the_page_names_exists() -> None:
    named = REFERENCE.findall(PAGE.read_text(encoding="utf-8"))
    assert len(named) >= 80
    missing = [f"{path}::{name}" for path, name in named if name not in functions(path)]
    assert not missing


def test_most_requirements_are_held_by_a_test() -> None:
    """Without those that wait for the accounts, for sign-in and for the front."""
    ours = [held for _, held in table().values() if not held.startswith(("With the accounts", "TLS ends"))]
    assert sum(bool(REFERENCE.search(held)) for held in ours) >= 0.85 * len(ours)
