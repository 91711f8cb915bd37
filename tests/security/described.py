"""Requests made from ``/openapi.json`` by Schemathesis: whole ones, broken ones, and chains of them."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import schemathesis
from flask import Flask, Response, request, request_finished
from schemathesis import engine
from schemathesis.engine import events

# The document cannot say all that makes a request wrong, for example that a webhook's URL must be a public one; and
# who may ask is what the authorization matrix is about.
_LEFT_OUT: Final = ("positive_data_acceptance", "ignored_auth")


@dataclass
class Findings:
    """What came of a run: how often each status was answered, what was asked with success, and what must not happen."""

    statuses: Counter[int] = field(default_factory=Counter)
    succeeded: set[str] = field(default_factory=set)
    chained: int = 0
    faults: list[str] = field(default_factory=list)


def explore(
    app: Flask, new_token: Callable[[], str], known: Mapping[str, str], *, seed: int, examples: int, chains: int
) -> Findings:
    """Send what the document allows and what it forbids, and chains in which one answer's ids make the next request.

    ``known`` are ids that exist, by the parameter's name. ``examples`` are of each operation. A token that a request
    has revoked is replaced by a new one.
    """
    config = schemathesis.Config.from_dict(
        {
            "seed": seed,
            "continue-on-failure": True,
            "suppress-health-check": ["all"],
            "dictionaries": {name: {"values": [value]} for name, value in known.items()},
            "parameters": {f"path.{name}": {"dictionary": name, "probability": 0.7} for name in known},
            "checks": {name: {"enabled": False} for name in _LEFT_OUT},
            "generation": {
                "max-examples": examples,
                "no-shrink": True,
                "database": "none",
                "with-security-parameters": False,
            },
            # A key that was ended can still be read about.
            "operations": [{"include-path": "/v1/keys/{key}", "checks": {"use_after_free": {"enabled": False}}}],
            "phases": {"stateful": {"generation": {"max-examples": chains}}},
        }
    )
    document = schemathesis.openapi.from_wsgi("/openapi.json", app, config=config)
    tokens = _Tokens(app, new_token)
    document.auth(refresh_interval=None)(_caller(tokens))
    findings = Findings()
    with request_finished.connected_to(tokens.note, app):
        for event in engine.from_schema(document).execute():
            _note(findings, event)
    return findings


class _Tokens:
    """The token that is sent, and another one where a request has ended its key: chains end keys, this one too."""

    def __init__(self, app: Flask, new: Callable[[], str]) -> None:
        self._app, self._new = app, new
        self._token, self._is_suspect = new(), False

    def note(self, _: Flask, response: Response, **__: object) -> None:
        """Look at an answer: to try the token before each request took longer than the requests."""
        changes_a_key = request.method != "GET" and request.path.startswith("/v1/keys/")
        self._is_suspect |= response.status_code == 401 or (changes_a_key and response.status_code < 300)

    def present(self) -> str:
        """Return a token that is good."""
        if self._is_suspect:
            headers = {"Authorization": f"Bearer {self._token}"}
            if self._app.test_client().get("/v1/models", headers=headers).status_code == 401:
                self._token = self._new()
            self._is_suspect = False
        return self._token


def _caller(tokens: _Tokens) -> type[Any]:
    class Caller:
        """Sends the token."""

        def get(self, case: schemathesis.Case[Any], context: schemathesis.AuthContext) -> str:
            return tokens.present()

        def set(self, case: schemathesis.Case[Any], data: str, context: schemathesis.AuthContext) -> None:
            case.headers["Authorization"] = f"Bearer {data}"

    return Caller


def _note(findings: Findings, event: events.EngineEvent) -> None:
    if isinstance(event, events.ScenarioFinished):
        recorder = event.recorder
        answers = {key: one.response for key, one in recorder.interactions.items() if one.response is not None}
        findings.statuses.update(answer.status_code for answer in answers.values())
        asked = {key: node.value.operation.label for key, node in recorder.cases.items()}
        findings.succeeded |= {asked[key] for key, answer in answers.items() if answer.status_code < 300}
        findings.chained += sum(node.parent_id is not None for node in recorder.cases.values())
        for checks in recorder.checks.values():
            findings.faults += [_told(check.failure_info) for check in checks if check.failure_info is not None]
    elif isinstance(event, events.NonFatalError):
        findings.faults.append(f"{event.label}: {event.value!r}")
    elif isinstance(event, events.FatalError):
        findings.faults.append(repr(event.exception))


def _told(info: Any) -> str:
    failure = info.failure
    message = " ".join(failure.message.split())
    return f"{failure.operation}: {failure.title}: {message[:600]}; {info.code_sample[:1000]}"
