"""``/openapi.json`` is valid, and says of the running server neither more nor less than is true."""

import re

from flask import Flask
from openapi_spec_validator import OpenAPIV31SpecValidator

from shared.webhooks import KINDS
from tests.integration.web.conftest import Caller
from web.openapi import described_rules
from web.problems import KINDS as PROBLEMS

METHODS = {"GET", "POST", "PATCH", "PUT", "DELETE"}


def test_the_document_is_valid_openapi(clinic: Caller) -> None:
    document = clinic.client.get("/openapi.json").json
    assert document is not None
    OpenAPIV31SpecValidator(document).validate()
    assert document["openapi"] == "3.1.0"
    assert set(document["webhooks"]) == set(KINDS)


def test_the_document_and_the_url_map_hold_the_same_routes(app: Flask, clinic: Caller) -> None:
    document = clinic.client.get("/openapi.json").json
    assert document is not None
    described = {(path, method.upper()) for path, item in document["paths"].items() for method in item}
    served = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) & METHODS
    }
    assert described == served


def test_every_operation_names_its_scope_or_that_it_needs_none(app: Flask, clinic: Caller) -> None:
    document = clinic.client.get("/openapi.json").json
    assert document is not None
    for rule, operation in described_rules(app):
        for item in document["paths"][re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)].values():
            if item["operationId"] == rule.endpoint.replace(".", "_"):
                assert item["security"] == ([{"key": [operation.scope]}] if operation.scope else [])


def test_only_what_must_be_open_needs_no_key(app: Flask) -> None:
    open_routes = {rule.rule for rule, operation in described_rules(app) if operation.scope is None}
    assert open_routes == {
        "/",
        "/.well-known/poxvisio-keys.json",
        "/livez",
        "/openapi.json",
        "/problems/<name>",
        "/readyz",
        "/static/<name>",
        "/v1/limits",
        "/v1/links/<link>",
    }


def test_operation_ids_are_unique(clinic: Caller) -> None:
    document = clinic.client.get("/openapi.json").json
    assert document is not None
    names = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(names) == len(set(names))


def test_every_kind_of_problem_has_its_page(clinic: Caller) -> None:
    for name, kind in PROBLEMS.items():
        page = clinic.client.get(f"/problems/{name}")
        assert page.status_code == 200
        assert kind.title in page.text
        told = clinic.client.get(f"/problems/{name}", headers={"Accept": "application/json"}).json
        assert told is not None
        assert (told["status"], told["title"]) == (kind.status, kind.title)
    assert clinic.client.get("/problems/no-such").status_code == 404
