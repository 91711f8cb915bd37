"""Holds each answer against ``/openapi.json``: its status is documented, and so is every field of its body."""

import json
from typing import Any, Final

from flask import Flask
from jsonschema import Draft202012Validator
from werkzeug.exceptions import HTTPException
from werkzeug.test import TestResponse

from web.openapi import document
from web.operations import template

PROBLEM = "application/problem+json"
#: The document, and what validates the bodies of each answer, by the routes they are of: every test has an application
#: of its own, and to describe one takes longer than most tests.
_DOCUMENTS: Final[dict[frozenset[str], dict[str, Any]]] = {}
_VALIDATORS: Final[dict[tuple[int, str, str, str, str], Draft202012Validator]] = {}


def assert_documented(app: Flask, answer: TestResponse) -> None:
    """Raise ``AssertionError`` where an answer is not what the document says of its route."""
    request = answer.request
    try:
        rule, _ = app.url_map.bind("127.0.0.1").match(request.path, method=request.method, return_rule=True)
    except HTTPException:
        assert answer.mimetype == PROBLEM
        return
    described = _document(app)
    responses = described["paths"][template(rule)][request.method.lower()]["responses"]
    assert str(answer.status_code) in responses, (
        f"{request.method} {rule.rule} answered {answer.status_code}: {answer.text[:500]}"
    )
    content = responses[str(answer.status_code)].get("content", {})
    if answer.mimetype not in ("application/json", PROBLEM):
        return
    assert answer.mimetype in content, f"{rule.rule} answered {answer.mimetype}"
    of = (id(described), rule.rule, request.method, str(answer.status_code), answer.mimetype)
    if of not in _VALIDATORS:
        schema = {**content[answer.mimetype]["schema"], "components": described["components"]}
        _VALIDATORS[of] = Draft202012Validator(schema)
    _VALIDATORS[of].validate(json.loads(answer.data))
    if answer.mimetype == PROBLEM:
        name = json.loads(answer.data)["type"].rpartition("/")[2]
        assert f"`{name}`" in responses[str(answer.status_code)]["description"], f"{rule.rule} answered {name}"


def _document(app: Flask) -> dict[str, Any]:
    routes = frozenset(f"{rule.rule} {sorted(rule.methods or ())}" for rule in app.url_map.iter_rules())
    if routes not in _DOCUMENTS:
        _DOCUMENTS[routes] = document(app, "http://127.0.0.1:8000", {})
    return _DOCUMENTS[routes]
