"""What every answer has in common: security headers, a request id, and one log line that holds no secrets."""

import re
import secrets
import time
from typing import Any, Final
from uuid import UUID

from flask import Flask, Response, g, request
from structlog.contextvars import bind_contextvars, clear_contextvars

from shared.logs import logger
from web.rates import header_fields
from web.services import services

log = logger(__name__)

_OURS: Final = re.compile(r"[A-Za-z0-9_.-]{8,64}")
_YEAR: Final = 365 * 24 * 3600
# Photos and data are no documents: should a browser be led to open one, it may do nothing.
_DATA_POLICY: Final = "default-src 'none'; frame-ancestors 'none'; sandbox"
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cache-Control": "private, no-store",
    "Content-Security-Policy": _DATA_POLICY,
}
_ERRORS: Final = 400
_BODILESS: Final = (204, 304)
_PIECE: Final = 128 * 1024
_DRAINED: Final = 16 * 1024 * 1024
PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def install(app: Flask) -> None:
    """Number, time and log every request, and dress every answer."""

    @app.before_request
    def begin() -> None:
        given = request.headers.get("X-Request-Id", "")
        g.request_id = given if _OURS.fullmatch(given) else secrets.token_hex(12)
        # Every line that this thread logs until its next request carries it.
        clear_contextvars()
        bind_contextvars(request_id=g.request_id)
        g.started = time.perf_counter()

    @app.after_request
    def finish(answer: Response) -> Response:
        for name, value in _HEADERS.items():
            answer.headers.setdefault(name, value)
        if services().settings.public_url.startswith("https://"):
            answer.headers["Strict-Transport-Security"] = f"max-age={_YEAR}; includeSubDomains"
        answer.headers["X-Request-Id"] = g.request_id
        answer.headers.update(header_fields(g.get("levels", ())))
        if answer.status_code in _BODILESS or (request.method == "OPTIONS" and answer.status_code < _ERRORS):
            answer.headers.remove("Content-Type")  # the framework names one for what is not there too
        _log(answer)
        if answer.status_code >= _ERRORS and g.get("tenant") is not None:
            _drain_in_place(g.tenant)
        return answer


def _drain_in_place(tenant: UUID) -> None:
    """Read on where there is a place for it: who sends slowly on purpose must not hold a thread for each request."""
    places = services().documents
    place = places.enter(tenant, 0)
    if place is not None:
        try:
            _drain(request.environ)
        finally:
            places.leave(place)


def _drain(environ: dict[str, Any]) -> None:
    """Read on after a refusal, 16 MiB at most: a client that is still sending would meet a reset, not the answer.

    Only for callers whose key is good, or was a moment ago, since reading is work; and only where the server knows
    where a body ends.
    """
    if not environ.get("wsgi.input_terminated"):
        return
    left = _DRAINED
    try:
        while left > 0 and (piece := environ["wsgi.input"].read(_PIECE)):
            left -= len(piece)
    except OSError:
        return  # the client is gone, and hears nothing anyway


def _log(answer: Response) -> None:
    """Write the one line: the route's pattern, never the path, which may name things."""
    tenant = g.get("tenant")
    log.info(
        "request",
        method=request.method,
        route=request.url_rule.rule if request.url_rule else None,
        status=answer.status_code,
        ms=round((time.perf_counter() - g.started) * 1000, 1),
        tenant=str(tenant) if tenant else None,
    )
