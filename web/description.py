"""The description of the whole service, for ``/openapi.json`` and ``/docs`` alike: its routes, and what it sends."""

from copy import deepcopy
from typing import Any

from flask import Flask

from shared.webhooks import KINDS
from web import members, sent
from web.openapi import document

_KEPT = "poxvisio.description"


def described(app: Flask, url: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the application; it is made once."""
    kept: dict[str, Any] | None = app.extensions.get(_KEPT)
    if kept is None:
        # A copy, since parts of it are constants of the modules that wrote them.
        kept = deepcopy(document(app, url, {kind: {"post": sent.webhook(kind)} for kind in KINDS}))
        members.describe(kept)
        app.extensions[_KEPT] = kept
    return kept
