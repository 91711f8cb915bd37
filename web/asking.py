"""Reading what a request asks for: query, JSON and headers, checked by pydantic; every fault is told at once."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Final, TypeVar

from flask import request
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from web.auth import caller
from web.problems import (
    BAD_REQUEST,
    BROKEN_BODY,
    INVALID_OPTIONS,
    TOO_LARGE,
    TOO_MANY_UPLOADS,
    UNSUPPORTED_TYPE,
    Kind,
    Problem,
    retry_after,
)
from web.services import services

Model = TypeVar("Model", bound=BaseModel)

_MOST_JSON: Final = 1024 * 1024
_MOST_ERRORS: Final = 20
_WAIT: Final = re.compile(r"\s*wait\s*=\s*\"?([0-9]+)\"?\s*", re.IGNORECASE)
# More digits than any wait has, and few enough to be counted.
_LONG_WAIT: Final = 6
_KEY: Final = re.compile(r"[\x21\x23-\x7e](?:[\x20-\x21\x23-\x7e]*[\x21\x23-\x7e])?")
_LONGEST_KEY: Final = 255


def _without_controls(value: str) -> str:
    # PostgreSQL holds neither NUL nor lone surrogates; the other controls serve no honest purpose in names.
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise ValueError("must not contain control characters")
    return value


# Stands behind the bounds of a text: before them pydantic would speak of items where it means characters.
PLAIN: Final = AfterValidator(_without_controls)


class Strict(BaseModel):
    """A model of something asked for: unknown fields are refused, so that a typing error is no silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StrictJson(Strict):
    """A model of a JSON document, whose values say what they are: no number is taken for a time, no text for a rate."""

    model_config = ConfigDict(strict=True)


class NoQuery(Strict):
    """The query of a route that takes none."""


def read_query(model: type[Model]) -> Model:
    """Return the query as ``model``; raises ``Problem`` (422) that names each wrong parameter."""
    doubled = [name for name, values in request.args.lists() if len(values) > 1]
    if doubled:
        raise Problem(
            INVALID_OPTIONS,
            "A parameter is given twice.",
            errors=[{"detail": "is given twice", "parameter": name} for name in doubled[:_MOST_ERRORS]],
        )
    try:
        return model.model_validate(dict(request.args))
    except ValidationError as error:
        raise invalid(error, in_query=True) from None


def read_json(model: type[Model]) -> Model:
    """Return the JSON body as ``model``; raises ``Problem`` (400, 413, 415, 422 or 503)."""
    if request.mimetype != "application/json":
        raise Problem(UNSUPPORTED_TYPE, "Send the body as application/json.")
    if (request.content_length or 0) > _MOST_JSON:
        raise Problem(TOO_LARGE, "A JSON body may have 1 MiB at most.")
    place = services().documents.enter(caller().tenant_id, 0)
    if place is None:
        raise Problem(TOO_MANY_UPLOADS, "Too many bodies come in at once; try again soon.", headers=retry_after())
    try:
        data = request.stream.read(_MOST_JSON + 1)
    finally:
        services().documents.leave(place)
    if len(data) > _MOST_JSON:
        raise Problem(TOO_LARGE, "A JSON body may have 1 MiB at most.")
    return parse_json(model, data)


def parse_json(model: type[Model], data: bytes) -> Model:
    """Return JSON text as ``model``; raises ``Problem``: 400 where it is no JSON, 422 where it is the wrong JSON."""
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        if any(fault["type"] == "json_invalid" for fault in error.errors(include_url=False, include_input=False)):
            raise Problem(BROKEN_BODY, "The JSON cannot be read.") from None
        raise invalid(error) from None


# Where pydantic speaks to programmers.
_WORDS: Final = {"extra_forbidden": "is not known here"}


def invalid(error: ValidationError, *, in_query: bool = False) -> Problem:
    """Return the problem that names every fault pydantic found, twenty at most."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    entries = []
    for fault in faults[:_MOST_ERRORS]:
        detail = _WORDS.get(fault["type"]) or fault["msg"].removeprefix("Value error, ")
        if in_query:
            entries.append({"detail": detail, "parameter": str(fault["loc"][0]) if fault["loc"] else ""})
        else:
            entries.append({"detail": detail, "pointer": pointer(fault["loc"])})
    return Problem(
        INVALID_OPTIONS,
        "An option is wrong; see errors." if len(faults) == 1 else "Options are wrong; see errors.",
        errors=entries,
    )


def pointer(path: Sequence[int | str]) -> str:
    """Return a JSON pointer as a URI fragment (RFC 6901, section 6)."""
    return "#" + "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def idempotency_key() -> str | None:
    """Return the Idempotency-Key, quoted as the draft has it or bare; raises ``Problem`` (400) for a malformed one."""
    given = request.headers.get("Idempotency-Key")
    if given is None:
        return None
    given = given.strip()
    key = given[1:-1] if len(given) > 1 and given[0] == given[-1] == '"' else given
    if len(key) > _LONGEST_KEY or _KEY.fullmatch(key) is None:
        raise Problem(BAD_REQUEST, "The Idempotency-Key must be 1 to 255 printable ASCII characters.")
    return key


def prefers_async() -> bool:
    """Tell whether the client would rather not wait: ``Prefer: respond-async`` (RFC 7240, section 4.1)."""
    preferences = (part.partition(";")[0] for part in request.headers.get("Prefer", "").split(","))
    return any(preference.partition("=")[0].strip().lower() == "respond-async" for preference in preferences)


def preferred_wait(most: int) -> int | None:
    """Return the seconds of ``Prefer: wait=N``, ``most`` at most; None where there is no such preference (RFC 7240)."""
    for part in request.headers.get("Prefer", "").split(","):
        for preference in part.split(";"):
            if matched := _WAIT.fullmatch(preference):
                digits = matched[1].lstrip("0") or "0"
                return most if len(digits) > _LONG_WAIT else min(int(digits), most)
    return None


def wrong(parameter: str, detail: str, kind: Kind = INVALID_OPTIONS) -> Problem:
    """Return the problem of one wrong parameter of the query."""
    return Problem(kind, f"{kind.title}; see errors.", errors=[{"detail": detail, "parameter": parameter}])
