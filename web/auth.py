"""Who is asking: every route is guarded by the scope its operation names, before its view runs."""

import re
from typing import Final

from flask import Flask, current_app, g, request

from shared import accounts
from shared.accounts import Caller
from web.openapi import operation_of
from web.problems import MISSING_SCOPE, UNAUTHORIZED, Problem, challenge
from web.services import services

_BEARER: Final = re.compile(r"bearer +(pxv_[0-9A-Za-z-]{1,64}_[0-9A-Za-z_-]{1,256}) *", re.IGNORECASE)


def caller() -> Caller:
    """Return who sends the present request; only for views behind a scope."""
    found: Caller = g.caller
    return found


def install(app: Flask) -> None:
    """Authenticate before every view whose operation names a scope; 404 and 405 need no key."""

    @app.before_request
    def authenticate() -> None:
        found = operation_of(current_app, request.endpoint)
        if found is None or found.scope is None:
            return
        g.caller = _authenticated()
        if found.scope not in g.caller.scopes:
            raise Problem(MISSING_SCOPE, f"This needs a key with the scope {found.scope!r}.")


def _authenticated() -> Caller:
    matched = _BEARER.fullmatch(request.headers.get("Authorization", ""))
    if matched is None:
        raise Problem(UNAUTHORIZED, "Send an API key: `Authorization: Bearer pxv_<id>_<secret>`.", headers=challenge())
    with services().database.transaction() as session:
        return accounts.authenticate(session, matched[1])
