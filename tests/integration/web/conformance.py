"""Holds each answer against ``/openapi.json``: its status is documented, and so is every field of its body."""

import json
from typing import Any

from flask import Flask
from jsonschema import Draft202012Validator
from werkzeug.exceptions import HTTPException
from werkzeug.test import TestResponse

from web.openapi import document, template

PROBLEM = "application/problem+json"


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
    schema = {**content[answer.mimetype]["schema"], "components": described["components"]}
    Draft202012Validator(schema).validate(json.loads(answer.data))
    if answer.mimetype == PROBLEM:
        name = json.loads(answer.data)["type"].rpartition("/")[2]
        assert f"`{name}`" in responses[str(answer.status_code)]["description"], f"{rule.rule} answered {name}"


def _document(app: Flask) -> dict[str, Any]:
    found: dict[str, Any] | None = app.extensions.get("tests.document")
    if found is None:
        found = app.extensions["tests.document"] = document(app, "http://127.0.0.1:8000", {})
    return found
