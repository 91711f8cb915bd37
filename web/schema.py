"""The revision of the database's schema that this program knows: the newest of the migrations beside it."""

import re
from functools import cache
from pathlib import Path
from typing import Final

_MIGRATIONS: Final = Path(__file__).resolve().parent.parent / "migrations" / "versions"
# Alembic would say it too, and loads every migration, and a template engine, in each web process for it.
_NAMES: Final = re.compile(r'^(down_)?revision = (?:"(\w+)"|None)$', re.MULTILINE)


@cache
def known_revision() -> str | None:
    """Return the newest revision; None where the program came without its migrations."""
    found: dict[str, set[str]] = {"": set(), "down_": set()}
    for file in _MIGRATIONS.glob("*.py"):
        for kind, revision in _NAMES.findall(file.read_text(encoding="utf-8")):
            found[kind].add(revision)
    return max(found[""] - found["down_"], default=None)
