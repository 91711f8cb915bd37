"""Ids as people and programs outside see them: a prefix that names the kind, then the UUID's 32 hex digits."""

import re
from typing import Final
from uuid import UUID

from shared.errors import NotFound

_PREFIXES: Final = {
    "job": "job_",
    "image": "img_",
    "endpoint": "whk_",
    "event": "evt_",
    "delivery": "dlv_",
    "key": "key_",
    "change": "chg_",
}
# Both names are taken: the kind in words, and its prefix as it stands in the text.
_KINDS: Final = _PREFIXES | {prefix.removesuffix("_"): prefix for prefix in _PREFIXES.values()}
_HEX: Final = re.compile(r"[0-9a-f]{32}")


def text(kind: str, value: UUID) -> str:
    """Return the outside form of an id, for example ``job_018f…`` for kind ``job``."""
    return _KINDS[kind] + value.hex


def parse(kind: str, value: str) -> UUID:
    """Read the outside form of an id of this kind.

    Raises ``NotFound`` for everything else: a malformed id and an unknown one must look the same from outside.
    """
    prefix = _KINDS[kind]
    digits = value.removeprefix(prefix)
    if digits == value or _HEX.fullmatch(digits) is None:
        raise NotFound("there is no such thing here")
    return UUID(hex=digits)
