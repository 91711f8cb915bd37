"""The page ``/docs``: what ``/openapi.json`` says, laid out for people, with nothing fetched from anywhere."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from markupsafe import Markup, escape

from web.problems import KINDS, MEDIA_TYPE, Kind

Document = Mapping[str, Any]

_CODE: Final = re.compile(r"`([^`]+)`")
# An example longer than this is told in part: numbers of a heat map, mostly.
_LONG_LIST: Final = re.compile(r"\[\s+((?:-?[\d.]+,\s+){3})(?:-?[\d.]+,\s+)+(-?[\d.]+)\s+\]")
_FIRST: Final = (
    'curl -H "Authorization: Bearer $POXVISIO_KEY" -H "Prefer: wait=30" \\\n  -F photos=@IMG_2041.jpg {}/v1/jobs'
)
_BINARY: Final = {"multipart/form-data": "-F photos=@IMG_2041.jpg", "image/*": "--data-binary @IMG_2041.jpg"}


def inline(text: str) -> Markup:
    """Return text with what stands in backticks as code; everything else is escaped."""
    return Markup(_CODE.sub(lambda found: f"<code>{found[1]}</code>", str(escape(text))))  # noqa: S704 - escaped first


def breakable(path: str) -> Markup:
    """Return a path that a narrow screen may break behind its slashes."""
    return Markup(str(escape(path)).replace("/", "/<wbr>"))  # noqa: S704 - escaped first


def pretty(value: Any) -> str:
    """Return an example as people read JSON; a long row of numbers is told in part."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return _LONG_LIST.sub(lambda found: f"[{' '.join(found[1].split())} …, {found[2]}]", text)


def reference(document: Document) -> dict[str, Any]:
    """Return what the page's template shows of a document."""
    routes = list(_routes(document))
    tags = {tag["name"]: tag["description"] for tag in document["tags"]}
    server = document["servers"][0]["url"]
    return {
        "server": server,
        "about": document["info"]["summary"],
        "first_call": _FIRST.format(server),
        "groups": [
            {"name": tag, "description": told, "routes": [route for route in routes if route["tag"] == tag]}
            for tag, told in tags.items()
        ],
        "webhooks": [
            {"kind": kind, "examples": list(_sent(item["post"]["requestBody"]["content"]))}
            for kind, item in document["webhooks"].items()
        ],
        "shapes": [_shape(name, schema) for name, schema in sorted(document["components"]["schemas"].items())],
        "kinds": sorted(KINDS.values(), key=lambda kind: (kind.status, kind.name)),
    }


def _sent(content: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Return the bodies of a webhook, by media type and by how much they tell."""
    for media, body in content.items():
        for name, example in body["examples"].items():
            yield {"name": f"{name}, {media}", "body": pretty(example["value"])}


def used_by(document: Document, kind: Kind) -> list[dict[str, str]]:
    """Return the routes that may answer with a kind of problem; none where most of them may."""
    found = [route for route in _routes(document) if kind in route["problems"]]
    return found if len(found) <= len(document["paths"]) // 2 else []


def _routes(document: Document) -> Iterator[dict[str, Any]]:
    server = document["servers"][0]["url"]
    for path, item in document["paths"].items():
        for method, told in item.items():
            body = told.get("requestBody", {}).get("content", {})
            yield {
                "anchor": told["operationId"],
                "tag": told["tags"][0],
                "method": method.upper(),
                "path": path,
                "summary": told["summary"],
                "description": told.get("description", ""),
                "scope": next((scope for entry in told["security"] for scope in entry["key"]), None),
                "parameters": [_field(each["name"], each["schema"], each) for each in told["parameters"]],
                "curl": _curl(server, method.upper(), path, told, body),
                "bodies": [_body(media, content) for media, content in body.items()],
                "answers": [_answer(status, said) for status, said in told["responses"].items() if status < "400"],
                "problems": [
                    KINDS[name]
                    for said in told["responses"].values()
                    for name in said.get("content", {}).get(MEDIA_TYPE, {}).get("examples", {})
                ],
            }


def _answer(status: str, said: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "status": status,
        "description": said["description"],
        "headers": [_field(name, header["schema"], header) for name, header in said.get("headers", {}).items()],
        "bodies": [_body(media, content) for media, content in said.get("content", {}).items()],
    }


def _body(media: str, content: Mapping[str, Any]) -> dict[str, Any]:
    schema, example = content["schema"], content.get("example")
    shape = schema.get("$ref", "").rpartition("/")[2]
    shown = example if example is None or isinstance(example, str) else pretty(example)
    return {"media": media, "shape": shape, "note": schema.get("description", ""), "example": shown}


def _curl(server: str, method: str, path: str, told: Mapping[str, Any], body: Mapping[str, Any]) -> str:
    words = ["curl"] + ([] if method == "GET" else ["-X", method])
    lines = [] if told["security"] == [] else ['-H "Authorization: Bearer $POXVISIO_KEY"']
    if method == "POST":
        lines.append('-H "Idempotency-Key: $(uuidgen)"')
    media = next(iter(body), None)
    if media in _BINARY:
        lines.append(_BINARY[media])
    elif media == "application/json":
        lines.append(
            f"-H 'Content-Type: application/json' -d '{json.dumps(body[media]['example'], ensure_ascii=False)}'"
        )
    lines.append(server + re.sub(r"\{(\w+)\}", lambda found: "$" + found[1].upper(), path))
    return " ".join([*words, " \\\n  ".join(lines)])


def _shape(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    required = schema.get("required", ())
    return {
        "name": name,
        "description": schema.get("description", ""),
        "fields": [
            _field(each, part, {**part, "required": each in required})
            for each, part in schema.get("properties", {}).items()
        ],
    }


def _field(name: str, schema: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "type": _type(schema),
        "required": told.get("required", False),
        "description": told.get("description") or schema.get("description", ""),
    }


def _type(schema: Mapping[str, Any]) -> str:
    values = [schema["const"]] if "const" in schema else schema.get("enum", ())
    choices = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    kinds = schema.get("type", "anything")
    word = " or ".join(kinds) if isinstance(kinds, list) else str(kinds)
    if "$ref" in schema:
        word = str(schema["$ref"]).rpartition("/")[2]
    elif values:
        word = " or ".join(json.dumps(value) for value in values)
    elif choices:
        word = " or ".join(dict.fromkeys(_type(choice) for choice in choices))
    elif word == "array":
        word = f"list of {_type(schema.get('items', {}))}"
    elif isinstance(schema.get("additionalProperties"), Mapping):
        word = f"object of {_type(schema['additionalProperties'])}"
    return word + (f" ({schema['format']})" if "format" in schema else "") + _bounds(schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    return f" from {low}" if low is not None else f" to {high}" if high is not None else ""
