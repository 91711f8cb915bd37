"""Receipts: the signed list of a job's photos, and the keys to verify it with."""

from typing import Any, Final, Literal

import rfc8785
from flask import Blueprint, Response, json
from pydantic import Field

from shared import history, ids, receipts
from web.asking import Strict, read_query
from web.auth import caller
from web.operations import Answer, operation
from web.problems import CONFLICT, GONE, NOT_FOUND, Problem
from web.services import services

api = Blueprint("receipts", __name__)

_ASK_AGAIN: Final = 2
_DOCUMENT: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["payload", "signature"],
    "properties": {
        "payload": {"type": "object", "description": "What is signed, as canonical JSON (RFC 8785)"},
        "signature": {
            "type": "object",
            "required": ["alg", "kid", "value"],
            "properties": {"alg": {"const": "EdDSA"}, "kid": {"type": "string"}, "value": {"type": "string"}},
        },
    },
    "examples": [
        {
            "payload": {"stage": "closed", "job": "job_0192f0c1e5a07bd2a3c4d5e6f708192a", "total": 3},
            "signature": {"alg": "EdDSA", "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k", "value": "base64url"},
        }
    ],
}
_JWKS: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["keys"],
    "properties": {"keys": {"type": "array", "items": {"type": "object"}}},
    # The public key of RFC 8037, appendix A.
    "examples": [{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}],
}


class ReceiptQuery(Strict):
    """Which receipt."""

    stage: Literal["accepted", "closed"] | None = Field(default=None, description="Default: the latest there is")


@api.get("/v1/jobs/<job>/receipt")
@operation(
    "Read the receipt",
    {200: Answer("The signed receipt, canonical by RFC 8785.", {"application/json": _DOCUMENT})},
    tag="jobs",
    scope="jobs:read",
    description=receipts.STATEMENT,
    query=ReceiptQuery,
    problems=(NOT_FOUND, GONE, CONFLICT),
)
def receipt(job: str) -> Response:
    """Build the receipt anew: the same rows give the same bytes."""
    query = read_query(ReceiptQuery)
    job_id = ids.parse("job", job)
    keyring = services().keyring
    # Job and photos as of one moment: a retry in between would put its outcomes below the round before.
    with services().database.transaction(caller().tenant_id, of_one_moment=True) as session:
        view = history.job(session, job_id)
        stage = query.stage or ("closed" if view.is_closed else "accepted")
        if view.state == "receiving":
            wait = {"Retry-After": str(_ASK_AGAIN)}
            raise Problem(CONFLICT, "The job is still being received; its photos are not all known yet.", headers=wait)
        if stage == "closed" and not view.is_closed:
            raise Problem(CONFLICT, "The job is not closed yet.", headers={"Retry-After": str(_ASK_AGAIN)})
        rows = list(history.manifest(session, job_id))
    document = receipts.build("accepted", view, rows, keyring)
    if stage == "closed":
        document = receipts.build("closed", view, rows, keyring, view.receipt_digest or receipts.digest(document))
    answer = Response(rfc8785.dumps(document), mimetype="application/json")
    answer.headers["Content-Disposition"] = f'inline; filename="{job}-{stage}.json"'
    return answer


@api.get("/.well-known/poxvisio-keys.json")
@operation(
    "Keys of receipts",
    {200: Answer("The public keys as a JWK set (RFC 7517, RFC 8037).", {"application/json": _JWKS})},
    tag="service",
)
def keys() -> Response:
    """Return the public keys."""
    answer = Response(json.dumps(services().keyring.public_jwks()) + "\n", mimetype="application/json")
    answer.headers["Cache-Control"] = "public, max-age=300"
    return answer
