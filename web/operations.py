"""What each route does, takes and answers, said once: for readers, for the document and for the guard.

Each view carries an ``Operation``: what it does, the scope it asks for, the pydantic models of what goes in and out,
and the problems it may answer with. The document (``web/openapi.py``) is made from it and the route is guarded by it
(``web/auth.py``), so that the one cannot say one thing and the server do another; a route without one stops the process
at start.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flask import Flask
from pydantic import BaseModel
from werkzeug.routing import Rule

from web import problems
from web.problems import Kind

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Header:
    """A header of a request or of an answer."""

    name: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})


IDEMPOTENCY_KEY = Header(
    "Idempotency-Key",
    "Makes the request safe to send again for 24 hours (quoted or bare). The same body replays the stored answer, "
    "another body is 422, a request still running is 409.",
    {"type": "string", "minLength": 1, "maxLength": 255},
)
IF_NONE_MATCH = Header("If-None-Match", "An ETag seen before; 304 while nothing has changed.")
PREFER_WAIT = Header(
    "Prefer", "`wait=N`: answer when something changes, after N seconds (60 at most) in any case (RFC 7240)."
)
LAST_EVENT_ID = Header(
    "Last-Event-ID",
    "The `id`, a number, of the last event of a stream that broke off: the answer goes on behind it, whatever `after` "
    "says.",
)
LOCATION = Header("Location", "Absolute address of what was made.", {"type": "string", "format": "uri"})
CONTENT_LOCATION = Header("Content-Location", "Absolute address of what is shown.", {"type": "string", "format": "uri"})
REPLAYED = Header("Idempotency-Replayed", "`true` where the stored answer of an earlier request is shown again.")
ETAG = Header("ETag", "Changes with the state and the counts.")
LINK = Header("Link", 'The next page, `rel="next"` (RFC 8288).')
RETRY_AFTER = Header("Retry-After", "Seconds to wait before asking again.", {"type": "integer", "minimum": 0})

RATE_LIMIT_POLICY = Header(
    "RateLimit-Policy", "How often the key and its tenant may ask: quota `q` in `w` seconds (IETF draft)."
)
RATE_LIMIT = Header("RateLimit", "What is left of it: `r` requests, and more in `t` seconds (IETF draft).")

Content = Mapping[str, type[BaseModel] | Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    """One successful answer: what it means, its media types with their models or schemas, its headers."""

    description: str
    content: Content = field(default_factory=dict)
    headers: Sequence[Header] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """What a route does and takes, for readers and for the guard alike."""

    summary: str
    answers: Mapping[int, Answer]
    tag: str
    scope: str | None = None
    description: str = ""
    query: type[BaseModel] | None = None
    body: Content | None = None
    body_required: bool = True
    headers: Sequence[Header] = ()
    problems: Sequence[Kind] = ()
    # Models that a schema written by hand refers to.
    schemas: Sequence[type[BaseModel]] = ()
    # Answered however often anybody asks, as probes must be.
    is_probe: bool = False

    def all_problems(self) -> list[Kind]:
        """Return the kinds of problem this operation may answer with, those of every route included."""
        found = list(self.problems)
        if self.scope is not None:
            found += [problems.UNAUTHORIZED, problems.MISSING_SCOPE, problems.DATABASE_AWAY]
            found += [problems.RATE_LIMITED, problems.TOO_MANY_REFUSED]
        elif not self.is_probe:
            found.append(problems.RATE_LIMITED)
        if self.query is not None:
            found.append(problems.INVALID_OPTIONS)
        if self.body is not None:
            found.append(problems.TOO_MANY_UPLOADS)
        if IDEMPOTENCY_KEY in self.headers:
            found += [problems.BAD_REQUEST, problems.IN_FLIGHT, problems.KEY_REUSED]
        return list(dict.fromkeys([*found, problems.INTERNAL]))


def operation(
    summary: str,
    answers: Mapping[int, Answer],
    *,
    tag: str,
    scope: str | None = None,
    description: str = "",
    query: type[BaseModel] | None = None,
    body: Content | None = None,
    body_required: bool = True,
    headers: Sequence[Header] = (),
    problems: Sequence[Kind] = (),
    schemas: Sequence[type[BaseModel]] = (),
    is_probe: bool = False,
) -> Callable[[View], View]:
    """Attach the description of a route to its view; ``scope`` is what the caller's key must allow."""
    described = Operation(
        summary, answers, tag, scope, description, query, body, body_required, headers, problems, schemas, is_probe
    )

    def attach(view: View) -> View:
        view.operation = described  # type: ignore[attr-defined]  # functions take attributes
        return view

    return attach


def operation_of(app: Flask, endpoint: str | None) -> Operation | None:
    """Return the operation of an endpoint; None for an address that is no route."""
    view = app.view_functions.get(endpoint or "")
    return getattr(view, "operation", None)


def described_rules(app: Flask) -> Iterator[tuple[Rule, Operation]]:
    """Return every route with its operation; raises ``LookupError`` for a route that has none."""
    for rule in app.url_map.iter_rules():
        if rule.endpoint == "static":
            continue
        found = operation_of(app, rule.endpoint)
        if found is None:
            raise LookupError(f"the route {rule.rule} has no operation")
        yield rule, found


def template(rule: Rule) -> str:
    """Return the path of a route as OpenAPI writes it."""
    return "".join(part if not is_dynamic else f"{{{part}}}" for is_dynamic, part in rule._trace).lstrip("|")  # noqa: SLF001  # the only parsed form there is
