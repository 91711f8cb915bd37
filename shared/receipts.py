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
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol
from uuid import UUID

import rfc8785

from shared import ids, signing
from shared.errors import Conflict
from shared.signing import BadSignature, Keyring
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
        "root": _root_of(entries),
        "entries": entries,
        "previous": previous,
        "statement": STATEMENT,
        "use": "research-only",
    }
    if stage == "closed":
        if job.closed_at is None:
            raise Conflict("the job is still open; its closing receipt comes when the last photo has its outcome")
        payload["state"] = job.state
        payload["counts"] = _counts(entries)
        payload["times"]["closed"] = _time(job.closed_at)
    return payload


@dataclass(frozen=True)
class Report:
    """What a receipt was found to say; ``problems`` is empty where all of it holds."""

    job: str
    stage: str
    total: int
    accounted: int
    counts: Mapping[str, int]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the receipt holds."""
        return not self.problems

    def lines(self) -> list[str]:
        """Return the report for people, the verdict first."""
        outcomes = ", ".join(f"{n} {outcome}" for outcome, n in self.counts.items() if n)
        told = [f"{self.job}: {self.accounted} of {self.total} accounted for" + (f" ({outcomes})" if outcomes else "")]
        return told + [f"problem: {problem}" for problem in self.problems]


def verify(document: Mapping[str, Any], jwks: Mapping[str, Any]) -> Report:
    """Check a receipt offline against a JWK set: signature, root, total, and one outcome each once closed.

    Never raises for a bad receipt, however mangled: the report lists what is wrong with it.
    """
    try:
        payload = document["payload"]
        return _report(payload, [*_signature_problems(document, jwks), *_payload_problems(payload)])
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        return Report("unknown", "unknown", 0, 0, {}, (f"this is no receipt ({type(error).__name__}: {error})",))


@dataclass(frozen=True)
class Comparison:
    """A receipt held against a folder: names in order, each in one list at most."""

    total: int
    found: int
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the folder holds exactly the photos of the receipt, byte for byte."""
        return not (self.missing or self.extra or self.changed)

    def lines(self) -> list[str]:
        """Return the comparison for people."""
        told = [f"{self.found} of {self.total} photos of the receipt are in the folder, byte for byte"]
        parts = (
            ("not in the folder", self.missing),
            ("not in the receipt", self.extra),
            ("other bytes than were sent", self.changed),
        )
        return told + [f"{why}: {name}" for why, names in parts for name in names]


def compare(document: Mapping[str, Any], folder: Mapping[str, str]) -> Comparison:
    """Compare a verified receipt with a folder, given as name to SHA-256 in hex.

    A photo sent without a name is looked for by its bytes. Several photos of one name count as found where the file
    has the bytes of one of them for that one, and as changed for the others.
    """
    found, missing, changed, seen = 0, [], [], set()
    names_of = {sha256: name for name, sha256 in folder.items()}
    for entry in document["payload"]["entries"]:
        name = names_of.get(entry["sha256"]) if entry["name"] is None else entry["name"]
        if name is None or name not in folder:
            missing.append(name or entry["image"])
        elif folder[name] == entry["sha256"]:
            found += 1
        else:
            changed.append(name)
        seen.add(name)
    extra = tuple(sorted(name for name in folder if name not in seen))
    return Comparison(len(document["payload"]["entries"]), found, tuple(missing), extra, tuple(changed))


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


def _root_of(entries: Iterable[Mapping[str, Any]]) -> str:
    return root(rfc8785.dumps(entry) for entry in entries).hex()


def _counts(entries: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    found = Counter(entry["outcome"] for entry in entries)
    return {outcome: found[outcome] for outcome in OUTCOMES}


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _signature_problems(document: Mapping[str, Any], jwks: Mapping[str, Any]) -> Iterator[str]:
    signature = document["signature"]
    if signature["alg"] != "EdDSA":
        yield f"signed with {signature['alg']}, not with EdDSA"
    try:
        signing.verify(jwks, signature["kid"], signature["value"], rfc8785.dumps(document["payload"]))
    except BadSignature as error:
        yield str(error)


def _payload_problems(payload: Mapping[str, Any]) -> Iterator[str]:
    entries = payload["entries"]
    if payload["version"] != VERSION:
        yield f"version {payload['version']} is not known to this program"
    if payload["stage"] not in ("accepted", "closed"):
        yield f"there is no stage {payload['stage']}"
    if payload["root"] != _root_of(entries):
        yield "the root is not the root of the entries"
    if payload["total"] != len(entries):
        yield f"it lists {len(entries)} photos and says {payload['total']}"
    if [entry["ordinal"] for entry in entries] != list(range(len(entries))):
        yield "the ordinals have gaps or repeat"
    if len({entry["image"] for entry in entries}) != len(entries):
        yield "a photo is listed twice"
    if payload["stage"] == "closed":
        without = sum(entry.get("outcome") not in OUTCOMES for entry in entries)
        if without:
            yield f"{without} photos have no outcome"
        elif payload["counts"] != _counts(entries):
            yield "the counts are not those of the entries"


def _report(payload: Mapping[str, Any], problems: list[str]) -> Report:
    entries, closed = payload["entries"], payload["stage"] == "closed"
    accounted = sum(entry.get("outcome") in OUTCOMES for entry in entries) if closed else len(entries)
    counts = dict(payload["counts"]) if closed else {}
    return Report(str(payload["job"]), str(payload["stage"]), int(payload["total"]), accounted, counts, tuple(problems))
