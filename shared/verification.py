"""Holding a receipt to its word, offline: its signature, its tree, its counts, and a folder it is compared with."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import rfc8785

from shared import signing
from shared.receipts import VERSION, counts_of, root_of
from shared.signing import BadSignature
from shared.vocabulary import OUTCOMES


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
    if payload["root"] != root_of(entries):
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
        elif payload["counts"] != counts_of(entries):
            yield "the counts are not those of the entries"


def _report(payload: Mapping[str, Any], problems: list[str]) -> Report:
    entries, closed = payload["entries"], payload["stage"] == "closed"
    accounted = sum(entry.get("outcome") in OUTCOMES for entry in entries) if closed else len(entries)
    counts = dict(payload["counts"]) if closed else {}
    return Report(str(payload["job"]), str(payload["stage"]), int(payload["total"]), accounted, counts, tuple(problems))
