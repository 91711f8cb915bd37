"""Receipts: the signed list of every photo of a job, on acceptance and again when each has its one outcome.

A receipt is ``{"payload": {...}, "signature": {...}}``. The payload is signed detached, over its canonical JSON (RFC
8785), with the keyring's ed25519 key; the photos are the leaves of a Merkle tree (RFC 9162, section 2.1), so that its
root alone stands for all of them. The same rows give the same bytes, whenever and wherever a receipt is built again;
the key's name is kept out of the payload, so that a receipt names its predecessor across a change of keys. Everything
here works offline.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol
from uuid import UUID

import rfc8785

from shared import ids, signing
from shared.errors import Conflict
from shared.signing import Keyring
from shared.vocabulary import OUTCOMES

VERSION: Final = 1
STATEMENT: Final = (
    "This receipt proves accounting: which photos were accepted and, once the job is closed, that each has exactly one "
    "outcome. It does not prove that an answer is right."
)
Stage = Literal["accepted", "closed"]


class ReceiptJob(Protocol):
    """What a receipt says about its job."""

    @property
    def id(self) -> UUID:
        """Its id."""

    @property
    def state(self) -> str:
        """Its state."""

    @property
    def round(self) -> int:
        """How often it was retried."""

    @property
    def total(self) -> int:
        """Number of its photos."""

    @property
    def created_at(self) -> datetime:
        """When it was accepted."""

    @property
    def closed_at(self) -> datetime | None:
        """When it closed last; None while it is open."""


class ReceiptRow(Protocol):
    """One photo of the job."""

    @property
    def ordinal(self) -> int:
        """Its place in the job."""

    @property
    def name(self) -> str | None:
        """The name it was sent under."""

    @property
    def sha256(self) -> str:
        """Hash of its bytes, in hex."""

    @property
    def image_id(self) -> UUID:
        """Its id."""

    @property
    def outcome(self) -> str | None:
        """Its one outcome; None while there is none."""


def root(leaves: Iterable[bytes]) -> bytes:
    """Return the Merkle tree hash of RFC 9162, section 2.1.1, over leaf data given in order.

    Works in one pass and logarithmic memory: complete subtrees are joined as soon as two of one size stand side by
    side, which is the RFC's split at the largest power of two.
    """
    done: list[tuple[int, bytes]] = []
    for leaf in leaves:
        size, node = 1, hashlib.sha256(b"\x00" + leaf).digest()
        while done and done[-1][0] == size:
            node = _join(done.pop()[1], node)
            size *= 2
        done.append((size, node))
    if not done:
        return hashlib.sha256(b"").digest()
    node = done.pop()[1]
    while done:
        node = _join(done.pop()[1], node)
    return node


def build(
    stage: Stage, job: ReceiptJob, rows: Iterable[ReceiptRow], keyring: Keyring, previous: str | None = None
) -> dict[str, Any]:
    """Build and sign a job's receipt from its rows in order of ordinal.

    ``previous`` is the ``digest`` of the receipt before: none on acceptance; the accepted one's when a job closes for
    the first time, and the one of the round before after a retry. Raises ``Conflict`` where the rows do not account
    for every photo: such a receipt is never signed.
    """
    payload = _payload(stage, job, rows, previous)
    value = signing.encode_signature(keyring.sign(rfc8785.dumps(payload)))
    return {"payload": payload, "signature": {"alg": "EdDSA", "kid": keyring.kid, "value": value}}


def digest(document: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hex, of the canonical payload: what the next receipt names as ``previous``."""
    return _digest(document["payload"])


def closed_digest(job: ReceiptJob, rows: Iterable[ReceiptRow], previous: str | None = None) -> str:
    """Return the ``digest`` of a closed job's receipt without signing it, for when its rows are about to change.

    ``previous`` is that of the round before; without one the job is in its first, which follows the accepted receipt.
    Raises ``Conflict`` as ``build`` does.
    """
    found = list(rows)
    if previous is None:
        previous = _digest(_payload("accepted", job, found, None))
    return _digest(_payload("closed", job, found, previous))


def _digest(payload: Mapping[str, Any]) -> str:
    return hashlib.sha256(rfc8785.dumps(payload)).hexdigest()


def _payload(stage: Stage, job: ReceiptJob, rows: Iterable[ReceiptRow], previous: str | None) -> dict[str, Any]:
    entries = list(_entries(stage, rows))
    if len(entries) != job.total:
        raise Conflict(f"a receipt needs all {job.total} photos and there are {len(entries)}")
    payload: dict[str, Any] = {
        "version": VERSION,
        "stage": stage,
        "job": ids.text("job", job.id),
        "round": job.round if stage == "closed" else 0,
        "total": job.total,
        "times": {"accepted": _time(job.created_at)},
        "tree": "RFC 9162, SHA-256",
        "root": root_of(entries),
        "entries": entries,
        "previous": previous,
        "statement": STATEMENT,
        "use": "research-only",
    }
    if stage == "closed":
        if job.closed_at is None:
            raise Conflict("the job is still open; its closing receipt comes when the last photo has its outcome")
        payload["state"] = job.state
        payload["counts"] = counts_of(entries)
        payload["times"]["closed"] = _time(job.closed_at)
    return payload


def _entries(stage: Stage, rows: Iterable[ReceiptRow]) -> Iterator[dict[str, Any]]:
    for row in rows:
        entry = {
            "ordinal": row.ordinal,
            "name": row.name,
            "sha256": row.sha256,
            "image": ids.text("image", row.image_id),
        }
        if stage == "closed":
            if row.outcome is None:
                raise Conflict(f"photo {row.ordinal} has no outcome yet")
            entry["outcome"] = row.outcome
        yield entry


def _join(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(entries: Iterable[Mapping[str, Any]]) -> str:
    """Return the Merkle root over a receipt's entries in order, in hex."""
    return root(rfc8785.dumps(entry) for entry in entries).hex()


def counts_of(entries: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many entries of a closed receipt have each outcome."""
    found = Counter(entry["outcome"] for entry in entries)
    return {outcome: found[outcome] for outcome in OUTCOMES}


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
