"""The OpenAPI 3.1 document, generated from the operations of the routes themselves."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from flask import Flask
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from werkzeug.routing import Rule

from shared.bundle import RESEARCH_USE
from web import problems
from web.advice import example_of_problem
from web.examples import HERE, example_of
from web.operations import (
    RATE_LIMIT,
    RATE_LIMIT_POLICY,
    RETRY_AFTER,
    Content,
    Header,
    Operation,
    described_rules,
    template,
)
from web.problems import Kind
from web.wire import Tombstone

_REFS: Final = "#/components/schemas/{model}"
_TOO_MANY: Final = problems.RATE_LIMITED.status
_METHODS: Final = frozenset({"GET", "POST", "PATCH", "PUT", "DELETE"})

# What each group of routes is about, in the order in which a reader needs them.
TAGS: Final = {
    "jobs": "Photos in, answers out: one job for each submission, however many photos it has.",
    "uploads": "Photos that come piece by piece, before their job.",
    "images": "One photo: its answer, its working copy, its heat map.",
    "events": "Everything that happened, numbered without a gap.",
    "webhooks": "Addresses that want to be told, and the log of what was sent to them.",
    "models": "What answers, and what may answer.",
    "keys": "The tenant's API keys.",
    "admin": "For administrators.",
    "service": "What the service says about itself.",
    "health": "For whatever watches over the processes.",
    "pages": "For people with a browser.",
}

PATHS: Final = {
    "change": "Id of the change: `chg_` and 32 hex digits",
    "delivery": "Id of the delivery: `dlv_` and 32 hex digits",
    "image": "Id of the photo: `img_` and 32 hex digits",
    "job": "Id of the job: `job_` and 32 hex digits",
    "key": "Id of the key: `key_` and 32 hex digits",
    "link": "The link's own text, as it was given out",
    "model": "Id of the model, as `GET /v1/models` lists it",
    "name": "As the page that leads here writes it",
    "webhook": "Id of the webhook: `whk_` and 32 hex digits",
}

# Parameters of many lists.
QUERIES: Final = {
    "limit": "How many at most",
    "state": "Only those in this state",
    "after": "Only what has a larger number",
    "priority": "The lane; default: interactive for one photo, normal up to 100, bulk above",
    "deadline": "Photos not started by then are `expired` (RFC 3339)",
    "max_failure_rate": "Stop when rejected + failed over finished exceeds this, from 50 photos on",
    "model": "Id of a served model",
}


@dataclass(frozen=True, slots=True)
class _Known:
    """The schemas of the models: where each is referred to, and what the references mean."""

    references: Mapping[Any, Any]
    definitions: Mapping[str, Any]


def document(app: Flask, server: str, webhooks: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document for the routes of ``app``; ``webhooks`` are its path items for what we send."""
    rules = list(described_rules(app))
    schemas, definitions = models_json_schema(
        [(model, "serialization") for model in _models(operation for _, operation in rules)], ref_template=_REFS
    )
    known = _Known(
        {model: schema for (model, _), schema in schemas.items()}, {**definitions.get("$defs", {}), "Problem": _PROBLEM}
    )
    used = {found.tag for _, found in rules}
    paths: dict[str, dict[str, Any]] = {}
    for rule, found in sorted(rules, key=lambda pair: pair[0].rule):
        for method in sorted((rule.methods or set()) & _METHODS):
            paths.setdefault(template(rule), {})[method.lower()] = _path_item(rule, found, known)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "PoxVisio",
            "version": "1",
            "summary": "Classifies photographs of skin lesions in bulk, and accounts for every one.",
            "description": RESEARCH_USE,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": server}],
        "security": [{"key": []}],
        "tags": [{"name": name, "description": told} for name, told in TAGS.items() if name in used]
        + [{"name": name, "description": ""} for name in sorted(used - TAGS.keys())],
        "paths": paths,
        "webhooks": dict(webhooks),
        "components": {
            "schemas": dict(known.definitions),
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "bearerFormat": "pxv_<id>_<secret>"},
            },
        },
    }


_PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "description": "RFC 9457",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "request_id": {"type": "string", "description": "Of this request, as in X-Request-Id; the log has it too"},
        "violated-policies": {
            "type": "array",
            "items": {"type": "string"},
            "description": "The policies of RateLimit-Policy of which nothing was left",
        },
        "oldest": {"type": "integer", "description": "Of `events-gone`: the smallest number there is"},
        "tombstone": {"$ref": _REFS.format(model="Tombstone")},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["detail"],
                "properties": {
                    "detail": {"type": "string"},
                    "pointer": {"type": "string", "description": "JSON pointer into the body (RFC 6901)"},
                    "parameter": {"type": "string", "description": "Name of a parameter of the query"},
                },
            },
        },
    },
}


def _models(operations: Iterator[Operation]) -> list[type[BaseModel]]:
    found: dict[type[BaseModel], None] = {Tombstone: None}  # that of a problem
    for described in operations:
        found.update(dict.fromkeys(described.schemas))
        contents = [answer.content for answer in described.answers.values()]
        for content in [*contents, described.body or {}]:
            found.update({model: None for model in content.values() if isinstance(model, type)})
    return list(found)


def _path_item(rule: Rule, found: Operation, known: _Known) -> dict[str, Any]:
    item: dict[str, Any] = {
        "operationId": rule.endpoint.replace(".", "_"),
        "summary": found.summary,
        "tags": [found.tag],
        "parameters": [*_path_parameters(rule), *_query_parameters(found.query), *_header_parameters(found.headers)],
        "responses": _responses(found, known),
    }
    if found.description:
        item["description"] = found.description
    if found.body is not None:
        item["requestBody"] = {"required": found.body_required, "content": _content(found.body, known)}
    if found.scope is None:
        item["security"] = []
    else:
        item["security"] = [{"key": [found.scope]}]
    return item


def _path_parameters(rule: Rule) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": PATHS.get(name, f"Id of the {name}"),
            "schema": {"type": "string"},
        }
        for name in sorted(rule.arguments)
    ]


def _query_parameters(query: type[BaseModel] | None) -> Iterator[dict[str, Any]]:
    if query is None:
        return
    schema = query.model_json_schema(ref_template=_REFS)
    for name, field_schema in schema.get("properties", {}).items():
        described = {key: value for key, value in field_schema.items() if key != "title"}
        parameter: dict[str, Any] = {"name": name, "in": "query", "required": name in schema.get("required", ())}
        if text := described.pop("description", None) or QUERIES.get(name):
            parameter["description"] = text
        yield {**parameter, "schema": described}


def _header_parameters(headers: Sequence[Header]) -> list[dict[str, Any]]:
    return [
        {"name": header.name, "in": "header", "description": header.description, "schema": dict(header.schema)}
        for header in headers
    ]


def _responses(found: Operation, known: _Known) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    limited = () if found.scope is None else (RATE_LIMIT_POLICY, RATE_LIMIT)
    for status, answer in sorted(found.answers.items()):
        headers = (*answer.headers, *limited)
        responses[str(status)] = {
            "description": answer.description,
            **({"content": _content(answer.content, known)} if answer.content else {}),
            **({"headers": _answer_headers(headers)} if headers else {}),
        }
    by_status: dict[int, list[Kind]] = {}
    for kind in found.all_problems():
        by_status.setdefault(kind.status, []).append(kind)
    for status, kinds in sorted(by_status.items()):
        responses[str(status)] = {
            "description": "; ".join(f"`{kind.name}`: {kind.title}" for kind in kinds),
            "content": {
                problems.MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "examples": {
                        kind.name: {"summary": kind.title, "value": example_of_problem(kind, HERE)} for kind in kinds
                    },
                }
            },
            **({"headers": _answer_headers((*limited, RETRY_AFTER))} if status == _TOO_MANY else {}),
        }
    return responses


def _answer_headers(headers: Sequence[Header]) -> dict[str, Any]:
    return {header.name: {"description": header.description, "schema": dict(header.schema)} for header in headers}


def _content(content: Content, known: _Known) -> dict[str, Any]:
    return {media: _media(media, model, known) for media, model in content.items()}


def _media(media: str, model: type[BaseModel] | Mapping[str, Any], known: _Known) -> dict[str, Any]:
    schema = known.references[model] if isinstance(model, type) else dict(model)
    if is_opaque(media, schema):
        return {"schema": schema}
    return {"schema": schema, "example": example_of(schema, known.definitions)}


def is_opaque(media: str, schema: Mapping[str, Any]) -> bool:
    """Tell whether a body is a file, a picture or a page: nothing to show an example of."""
    return schema.get("format") == "binary" or media in ("text/html", "*/*")
