"""``/openapi.json`` is valid, and says of the running server neither more nor less than is true."""

import json
import re
from collections.abc import Iterator
from typing import Any

from flask import Flask
from jsonschema import Draft202012Validator, FormatChecker
from markupsafe import escape
from openapi_spec_validator import OpenAPIV31SpecValidator

from shared import event_body
from shared.webhooks import KINDS
from tests.integration.web.conftest import Caller
from web.advice import ADVICE
from web.description import described
from web.members import MEANT
from web.openapi import is_opaque
from web.operations import described_rules, template
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
        "/docs",
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


def bodies(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield every body of a request or an answer: where it stands, its media type, and what is said of it."""
    items = [*document["paths"].items(), *document["webhooks"].items()]
    for path, item in items:
        for method, operation in item.items():
            contents = {"request": operation.get("requestBody", {}), **operation["responses"]}
            for part, said in contents.items():
                for media, body in said.get("content", {}).items():
                    yield f"{method} {path} {part}", media, body


def members(node: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every member of every schema below a node: where it stands, and what is said of it."""
    if isinstance(node, dict):
        for name, member in node.get("properties", {}).items():
            yield f"{place} {name}", member
        for name, each in node.items():
            if name not in ("example", "examples"):
                yield from members(each, f"{place}/{name}")
    elif isinstance(node, list):
        for number, each in enumerate(node):
            yield from members(each, f"{place}/{number}")


def test_every_member_of_every_schema_says_what_it_means(app: Flask) -> None:
    document = described(app, "http://127.0.0.1:8000")
    found = [each for part in ("paths", "webhooks", "components") for each in members(document[part], part)]
    assert len(found) > 400
    assert [place for place, member in found if not member.get("description")] == []


def test_no_meaning_stands_there_for_a_member_that_there_is_not(app: Flask) -> None:
    document = described(app, "http://127.0.0.1:8000")
    places = [
        place.split(" ") for part in ("paths", "webhooks", "components") for place, _ in members(document[part], part)
    ]
    there = {name for _, name in places}
    there |= {f"{schema.rpartition('/')[2].rpartition('__')[2]}.{name}" for schema, name in places}
    there |= {f"requestBody.{name}" for place, name in places if "/requestBody/" in place}
    assert MEANT.keys() - there == set()


def test_every_kind_of_webhook_shows_every_form_of_its_body(app: Flask) -> None:
    for kind, item in described(app, "http://127.0.0.1:8000")["webhooks"].items():
        content = item["post"]["requestBody"]["content"]
        for media, of_kind in (("application/json", "type"), ("application/cloudevents+json", "specversion")):
            shown = {name: each["value"] for name, each in content[media]["examples"].items()}
            assert all(next(iter(body)) == of_kind and body["type"] == kind for body in shown.values())
            if kind not in event_body.ANSWERED:
                assert shown.keys() == {"thin"}
                continue
            more = shown["full"]["data"].keys() - shown["thin"]["data"].keys()
            assert more == ({"result"} if kind == "image.completed" else {"results", "results_complete"})


def test_every_body_has_an_example_that_fits_its_schema(clinic: Caller) -> None:
    document = clinic.client.get("/openapi.json").json
    assert document is not None
    seen = 0
    for place, media, body in bodies(document):
        if is_opaque(media, body["schema"]):
            continue
        examples = [entry["value"] for entry in body.get("examples", {}).values()] or [body["example"]]
        schema = {**body["schema"], "components": document["components"]}
        for example in examples:
            Draft202012Validator(schema, format_checker=FormatChecker()).validate(example)
            assert example not in ({}, [], "text"), f"{place} shows nothing as {media}"
            seen += 1
    assert seen >= 300


def test_every_example_of_a_request_is_one_that_the_server_takes(app: Flask) -> None:
    document = described(app, "http://127.0.0.1:8000")
    tried = 0
    for rule, operation in described_rules(app):
        for media, model in (operation.body or {}).items():
            if isinstance(model, type):
                content = document["paths"][template(rule)]["post" if "POST" in (rule.methods or ()) else "patch"]
                example = content["requestBody"]["content"][media]["example"]
                model.model_validate_json(json.dumps(example))
                tried += 1
    assert tried >= 10


def test_every_operation_and_every_header_and_parameter_is_described(app: Flask) -> None:
    document = described(app, "http://127.0.0.1:8000")
    undescribed = [
        f"{method} {path} {parameter['name']}"
        for path, item in document["paths"].items()
        for method, operation in item.items()
        for parameter in operation["parameters"]
        if not parameter.get("description")
    ]
    assert undescribed == []
    assert all(tag["description"] for tag in document["tags"])


def test_every_kind_of_problem_has_its_page(clinic: Caller) -> None:
    assert set(ADVICE) == set(PROBLEMS)
    for name, kind in PROBLEMS.items():
        page = clinic.client.get(f"/problems/{name}")
        assert page.status_code == 200
        for heading in (escape(kind.title), "What happened", "What to do", "Example"):
            assert heading in page.text, name
        assert escape(ADVICE[name].detail) in page.text, name
        told = clinic.client.get(f"/problems/{name}", headers={"Accept": "application/json"}).json
        assert told is not None
        assert (told["status"], told["title"]) == (kind.status, kind.title)
        assert told["example"]["type"] == told["type"]
    assert clinic.client.get("/problems/no-such").status_code == 404


def test_the_type_of_an_answer_leads_to_its_page(clinic: Caller) -> None:
    for path in ("/v1/jobs/job_1", "/v1/jobs?limit=x", "/nowhere", "/v1/links/x"):
        problem = clinic.get(path).json
        assert problem is not None
        page = clinic.client.get(problem["type"].removeprefix("http://127.0.0.1:8000"))
        assert (page.status_code, page.mimetype) == (200, "text/html")
        assert escape(problem["title"]) in page.text
