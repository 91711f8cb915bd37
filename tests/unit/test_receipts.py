"""Receipts: the tree against an independent one, the same bytes every time, and no alteration that goes unseen."""

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from shared import receipts, signing, verification
from shared.errors import Conflict
from shared.signing import Keyring

KEYRING = Keyring(b"a secret key of the tests, long enough")
JOB = UUID("018f3c5e-7d2a-7abc-8def-0123456789ab")
OUTCOMES = ("classified", "abstained", "rejected", "failed", "cancelled", "expired")


@dataclass(frozen=True)
class SomeJob:
    total: int
    id: UUID = JOB
    state: str = "completed"
    round: int = 0
    created_at: datetime = datetime(2026, 11, 23, 3, 0, 0, 120, tzinfo=UTC)
    closed_at: datetime | None = datetime(2026, 11, 23, 3, 1, tzinfo=UTC)


@dataclass(frozen=True)
class SomeRow:
    ordinal: int
    name: str | None
    sha256: str
    image_id: UUID
    outcome: str | None = None


def rows(n: int, *, closed: bool = True) -> list[SomeRow]:
    return [
        SomeRow(
            i,
            f"ward é/{i:03d}.jpg",
            hashlib.sha256(b"photo %d" % i).hexdigest(),
            UUID(int=(0x018F << 112) | i),
            OUTCOMES[i % len(OUTCOMES)] if closed else None,
        )
        for i in range(n)
    ]


def tree_of_the_rfc(leaves: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, word by word: MTH(D[n]) = H(0x01 || MTH(D[0:k]) || MTH(D[k:n])), k < n <= 2k."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + tree_of_the_rfc(leaves[:k]) + tree_of_the_rfc(leaves[k:])).digest()


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 32, 33, 100])
def test_the_tree_is_the_one_of_rfc_9162(n: int) -> None:
    leaves = [b"leaf %d" % i for i in range(n)]
    assert receipts.root(leaves) == tree_of_the_rfc(leaves)


def test_small_trees_written_out_by_hand() -> None:
    def h(data: bytes) -> bytes:
        return hashlib.sha256(data).digest()

    a, b, c, d, e, f, g = (h(b"\x00" + letter.encode()) for letter in "abcdefg")

    def node(left: bytes, right: bytes) -> bytes:
        return h(b"\x01" + left + right)

    assert receipts.root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert receipts.root([b""]).hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert receipts.root([b"a"]) == a
    assert receipts.root([b"a", b"b"]) == node(a, b)
    assert receipts.root([b"a", b"b", b"c"]) == node(node(a, b), c)
    assert receipts.root([b"a", b"b", b"c", b"d", b"e"]) == node(node(node(a, b), node(c, d)), e)
    seven = [b"a", b"b", b"c", b"d", b"e", b"f", b"g"]
    assert receipts.root(seven) == node(node(node(a, b), node(c, d)), node(node(e, f), g))


def test_the_trees_of_certificate_transparency_s_test_data_come_out() -> None:
    leaves = [bytes.fromhex(x) for x in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")]
    leaves.append(bytes.fromhex("606162636465666768696a6b6c6d6e6f"))
    assert receipts.root(leaves[:3]).hex() == "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"
    assert receipts.root(leaves).hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


@given(st.lists(st.binary(max_size=8), max_size=70))
def test_the_tree_is_the_one_of_rfc_9162_for_any_leaves(leaves: list[bytes]) -> None:
    assert receipts.root(leaves) == tree_of_the_rfc(leaves)


def test_a_closed_receipt_accounts_for_every_photo() -> None:
    document = receipts.build("closed", SomeJob(13), rows(13), KEYRING, "ab" * 32)
    report = verification.verify(document, KEYRING.public_jwks())
    assert report.ok
    (line,) = report.lines()
    assert line.startswith("job_018f3c5e7d2a7abc8def0123456789ab: 13 of 13 accounted for (3 classified, 2 abstained,")
    payload = document["payload"]
    assert payload["use"] == "research-only"
    assert payload["previous"] == "ab" * 32
    assert "does not prove that an answer is right" in payload["statement"]
    assert payload["times"] == {"accepted": "2026-11-23T03:00:00.000120Z", "closed": "2026-11-23T03:01:00.000000Z"}
    assert payload["entries"][1] == {
        "ordinal": 1,
        "name": "ward é/001.jpg",
        "sha256": hashlib.sha256(b"photo 1").hexdigest(),
        "image": "img_018f0000000000000000000000000001",
        "outcome": "abstained",
    }
    assert sum(payload["counts"].values()) == payload["total"] == 13


def test_an_accepted_receipt_lists_photos_without_outcomes() -> None:
    document = receipts.build("accepted", SomeJob(3, closed_at=None), rows(3, closed=False), KEYRING)
    assert verification.verify(document, KEYRING.public_jwks()).lines()[0].endswith("3 of 3 accounted for")
    assert "counts" not in document["payload"]
    assert all("outcome" not in entry for entry in document["payload"]["entries"])


def test_the_accepted_receipt_stays_the_same_after_the_job_has_closed() -> None:
    before = receipts.build("accepted", SomeJob(5, state="queued", closed_at=None), rows(5, closed=False), KEYRING)
    after = receipts.build("accepted", SomeJob(5, round=2), rows(5), KEYRING)
    assert rfc8785.dumps(before) == rfc8785.dumps(after)


def test_the_root_can_be_recomputed_from_the_json_alone() -> None:
    document = json.loads(json.dumps(receipts.build("closed", SomeJob(7), rows(7), KEYRING)))
    leaves = [
        json.dumps(entry, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
        for entry in document["payload"]["entries"]
    ]
    assert document["payload"]["root"] == tree_of_the_rfc(leaves).hex()


def test_the_same_rows_give_the_same_bytes_whatever_the_time_zone() -> None:
    east = timezone(timedelta(hours=5))
    job = SomeJob(4)
    assert job.closed_at is not None
    moved = SomeJob(4, created_at=job.created_at.astimezone(east), closed_at=job.closed_at.astimezone(east))
    first = receipts.build("closed", job, rows(4), KEYRING)
    assert rfc8785.dumps(first) == rfc8785.dumps(receipts.build("closed", moved, iter(rows(4)), KEYRING))


def test_a_receipt_names_the_one_before_even_after_a_change_of_keys() -> None:
    accepted = receipts.build("accepted", SomeJob(2), rows(2), KEYRING)
    again = receipts.build("accepted", SomeJob(2), rows(2), Keyring(b"the key that came after the first one"))
    assert receipts.digest(accepted) == receipts.digest(again)
    closed = receipts.build("closed", SomeJob(2), rows(2), KEYRING, receipts.digest(accepted))
    assert closed["payload"]["previous"] == hashlib.sha256(rfc8785.dumps(accepted["payload"])).hexdigest()


def test_nothing_is_signed_that_does_not_account_for_every_photo() -> None:
    with pytest.raises(Conflict):
        receipts.build("accepted", SomeJob(4), rows(3), KEYRING)
    with pytest.raises(Conflict):
        receipts.build("closed", SomeJob(3), rows(3, closed=False), KEYRING)
    with pytest.raises(Conflict):
        receipts.build("closed", SomeJob(3, closed_at=None), rows(3), KEYRING)


def _swap_outcomes(payload: dict[str, Any]) -> None:
    first, second = payload["entries"][:2]
    first["outcome"], second["outcome"] = second["outcome"], first["outcome"]


@pytest.mark.parametrize(
    "alter",
    [
        lambda p: p.update(version=2),
        lambda p: p.update(stage="accepted"),
        lambda p: p.update(job="job_" + "0" * 32),
        lambda p: p.update(round=1),
        lambda p: p.update(state="cancelled"),
        lambda p: p.update(total=8),
        lambda p: p["counts"].update(classified=3),
        lambda p: p["times"].update(closed="2026-11-23T03:02:00.000000Z"),
        lambda p: p.update(tree="other"),
        lambda p: p.update(root="00" * 32),
        lambda p: p.update(previous=None),
        lambda p: p.update(statement="It proves everything."),
        lambda p: p.update(use="clinical"),
        lambda p: p.update(more=1),
        lambda p: p["entries"].pop(),
        lambda p: p["entries"].append(p["entries"][0]),
        lambda p: p["entries"].reverse(),
        lambda p: p["entries"][3].update(ordinal=9),
        lambda p: p["entries"][3].update(name="other.jpg"),
        lambda p: p["entries"][3].update(sha256="00" * 32),
        lambda p: p["entries"][3].update(image="img_" + "0" * 32),
        lambda p: p["entries"][3].update(outcome="classified"),
        lambda p: p["entries"][3].update(outcome="lost"),
        lambda p: p["entries"][3].pop("outcome"),
        _swap_outcomes,
    ],
)
def test_every_alteration_of_the_payload_is_seen(alter: Callable[[dict[str, Any]], object]) -> None:
    document = receipts.build("closed", SomeJob(7), rows(7), KEYRING, "ab" * 32)
    altered = copy.deepcopy(document)
    alter(altered["payload"])
    report = verification.verify(altered, KEYRING.public_jwks())
    assert "the signature does not fit the contents" in report.problems
    assert verification.verify(document, KEYRING.public_jwks()).ok


@pytest.mark.parametrize(
    ("alter", "problem"),
    [
        (lambda p: p["entries"][3].update(name="other.jpg"), "the root is not the root of the entries"),
        (lambda p: p["entries"].pop(), "it lists 6 photos and says 7"),
        (lambda p: p["entries"][3].update(ordinal=9), "the ordinals have gaps or repeat"),
        (lambda p: p["entries"].append({**p["entries"][0], "ordinal": 7}), "a photo is listed twice"),
        (lambda p: p["entries"][3].pop("outcome"), "1 photos have no outcome"),
        (lambda p: p["counts"].update(classified=3), "the counts are not those of the entries"),
    ],
)
def test_the_contents_are_checked_even_where_the_signature_holds(
    alter: Callable[[dict[str, Any]], object], problem: str
) -> None:
    document = receipts.build("closed", SomeJob(7), rows(7), KEYRING)
    alter(document["payload"])
    signature = KEYRING.sign(rfc8785.dumps(document["payload"]))
    document["signature"]["value"] = signing.encode_signature(signature)
    assert problem in verification.verify(document, KEYRING.public_jwks()).problems


@pytest.mark.parametrize(
    "alter",
    [
        lambda s: s.update(alg="none"),
        lambda s: s.update(kid="another"),
        lambda s: s.update(value="A" * 86),
        lambda s: s.update(value=""),
        lambda s: s.update(value=None),
        lambda s: s.pop("value"),
    ],
)
def test_every_alteration_of_the_signature_is_seen(alter: Callable[[dict[str, Any]], object]) -> None:
    document = receipts.build("closed", SomeJob(2), rows(2), KEYRING)
    alter(document["signature"])
    assert not verification.verify(document, KEYRING.public_jwks()).ok


def test_keys_of_somebody_else_do_not_verify() -> None:
    document = receipts.build("closed", SomeJob(2), rows(2), KEYRING)
    stranger = Keyring(b"a secret key of somebody else entirely")
    report = verification.verify(document, stranger.public_jwks())
    assert report.problems == ("it is signed with a key that is not in the key set",)


@pytest.mark.parametrize(
    "rubbish", [{}, {"payload": None}, {"payload": {}, "signature": {}}, {"payload": [1], "signature": 2}]
)
def test_rubbish_is_reported_and_raises_nothing(rubbish: dict[str, Any]) -> None:
    assert not verification.verify(rubbish, KEYRING.public_jwks()).ok


def test_a_folder_that_holds_the_photos_agrees_with_the_receipt() -> None:
    document = receipts.build("accepted", SomeJob(4), rows(4), KEYRING)
    folder = {row.name: row.sha256 for row in rows(4) if row.name}
    comparison = verification.compare(document, folder)
    assert comparison.ok
    assert comparison.lines() == ["4 of 4 photos of the receipt are in the folder, byte for byte"]


def test_missing_extra_and_changed_files_are_named() -> None:
    document = receipts.build("accepted", SomeJob(4), rows(4), KEYRING)
    folder = {row.name: row.sha256 for row in rows(4) if row.name}
    del folder["ward é/001.jpg"]
    folder["ward é/002.jpg"] = "00" * 32
    folder["notes.txt"] = "11" * 32
    comparison = verification.compare(document, folder)
    assert not comparison.ok
    assert (comparison.found, comparison.total) == (2, 4)
    assert comparison.missing == ("ward é/001.jpg",)
    assert comparison.extra == ("notes.txt",)
    assert comparison.changed == ("ward é/002.jpg",)
    assert comparison.lines()[1:] == [
        "not in the folder: ward é/001.jpg",
        "not in the receipt: notes.txt",
        "other bytes than were sent: ward é/002.jpg",
    ]


def test_a_photo_sent_without_a_name_is_found_by_its_bytes() -> None:
    nameless = [SomeRow(0, None, "ab" * 32, JOB), SomeRow(1, None, "cd" * 32, UUID(int=1))]
    document = receipts.build("accepted", SomeJob(2), nameless, KEYRING)
    comparison = verification.compare(document, {"any name.jpg": "ab" * 32})
    assert comparison.found == 1
    assert comparison.missing == ("img_" + "0" * 31 + "1",)
    assert comparison.extra == ()
