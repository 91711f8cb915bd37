"""Keys: their form, who they let in, and that every way to be wrong looks the same."""

import hashlib
import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from shared import accounts
from shared.accounts import SCOPES, Caller, KeyUnknown, Proof, ScopeUnknown
from shared.database import Database, new_id
from shared.errors import Conflict, NotFound, Refused
from tests.conftest import make_tenant
from tests.integration.ledger.factories import change, rows


def make_key(owner_db: Database, tenant: UUID, expires_at: datetime | None = None) -> str:
    with owner_db.transaction() as session:
        return accounts.create_key(session, tenant, "ward 7", ["jobs:read", "jobs:write"], expires_at)


def key_id(token: str) -> UUID:
    return UUID(hex=token.split("_")[1])


def caller(app_db: Database, token: str) -> Caller:
    with app_db.transaction() as session:
        return accounts.authenticate(session, token)


def test_a_token_names_its_key_and_holds_192_random_bits(owner_db: Database, tenant: UUID) -> None:
    tokens = {make_key(owner_db, tenant) for _ in range(5)}
    assert len({token.split("_")[2] for token in tokens}) == 5
    for token in tokens:
        assert re.fullmatch(r"pxv_[0-9a-f]{32}_[0-9a-f]{48}", token)


def test_of_the_secret_only_a_hash_is_kept(owner_db: Database, tenant: UUID) -> None:
    secret = make_key(owner_db, tenant).split("_")[2]
    [row] = rows(owner_db, "SELECT * FROM api_key")
    assert len(bytes(row.secret_hash)) == 32
    assert secret not in str([bytes(value) if isinstance(value, memoryview) else value for value in row])


def test_the_right_token_says_who_calls(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    token = make_key(owner_db, tenant)
    change(owner_db, "UPDATE tenant SET weight = 2.5, keep_originals = true")
    found = caller(app_db, token)
    proof = Proof(key_id(token), hashlib.sha256(token.rpartition("_")[2].encode()).digest())
    assert found == Caller(tenant, key_id(token), frozenset({"jobs:read", "jobs:write"}), 2.5, True, proof)
    assert found.proof == proof
    assert proof.secret_hash.hex() not in repr(found)


@pytest.mark.parametrize(
    "bend",
    [
        lambda token: token[:-1] + ("0" if token[-1] != "0" else "1"),
        lambda token: token[:-1],
        lambda token: token + "0",
        lambda token: "_".join(token.split("_")[:2]) + "_",
        lambda token: "_".join(["pxv", new_id().hex, token.split("_")[2]]),
        lambda token: token.replace("pxv_", "pxw_"),
        lambda token: token.upper(),
        lambda token: f" {token}",
        lambda token: token.replace("_", "-"),
        lambda token: token + "_",
        lambda _: "",
        lambda _: "pxv__",
        lambda _: "pxv_x_y",
        lambda _: "nonsense",
        lambda _: "pxv_" + "0" * 32 + "_\udcff\x00ü",
        lambda token: "_".join([*token.split("_")[:2], "\ud800"]),
        lambda _: "pxv_" + "9" * 100_000 + "_x",
        lambda _: "'; DROP TABLE api_key; --",
    ],
)
def test_every_wrong_token_is_refused_alike(owner_db: Database, app_db: Database, tenant: UUID, bend) -> None:  # type: ignore[no-untyped-def]
    token = make_key(owner_db, tenant)
    with pytest.raises(KeyUnknown, match=r"^the API key is unknown, expired or revoked$"):
        caller(app_db, bend(token))
    assert rows(owner_db, "SELECT last_used_at FROM api_key")[0].last_used_at is None


def test_an_expired_key_is_refused(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    now = datetime.now(UTC)
    caller(app_db, make_key(owner_db, tenant, now + timedelta(hours=1)))
    with pytest.raises(KeyUnknown):
        caller(app_db, make_key(owner_db, tenant, now - timedelta(seconds=1)))


def test_a_revoked_key_is_refused_at_once(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    token = make_key(owner_db, tenant)
    caller(app_db, token)
    with app_db.transaction(tenant) as session:
        accounts.revoke_key(session, tenant, key_id(token))
    with pytest.raises(KeyUnknown):
        caller(app_db, token)
    [first] = rows(owner_db, "SELECT revoked_at FROM api_key")
    with app_db.transaction(tenant) as session:
        accounts.revoke_key(session, tenant, key_id(token))
    assert rows(owner_db, "SELECT revoked_at FROM api_key") == [first]


def rotate(app_db: Database, tenant: UUID, token: str, grace: timedelta, expires_at: datetime | None = None) -> str:
    with app_db.transaction(tenant) as session:
        return accounts.rotate_key(session, tenant, key_id(token), grace, expires_at)


def test_after_a_rotation_both_tokens_are_good_until_the_grace_is_over(
    owner_db: Database, app_db: Database, tenant: UUID
) -> None:
    old = make_key(owner_db, tenant)
    new = rotate(app_db, tenant, old, timedelta(hours=1))
    assert new.split("_")[1] == old.split("_")[1]
    assert caller(app_db, old) == caller(app_db, new)
    change(owner_db, "UPDATE api_key SET previous_until = now() - interval '1 second'")
    caller(app_db, new)
    with pytest.raises(KeyUnknown):
        caller(app_db, old)


def test_without_grace_the_old_token_ends_at_once(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    old = make_key(owner_db, tenant)
    new = rotate(app_db, tenant, old, timedelta(0))
    caller(app_db, new)
    with pytest.raises(KeyUnknown):
        caller(app_db, old)


def test_two_tokens_are_good_at_most(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    tokens = [make_key(owner_db, tenant)]
    for _ in range(2):
        tokens.append(rotate(app_db, tenant, tokens[-1], timedelta(days=1)))
    with pytest.raises(KeyUnknown):
        caller(app_db, tokens[0])
    assert caller(app_db, tokens[1]) == caller(app_db, tokens[2])


def test_what_ends_a_key_ends_both_of_its_tokens(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    ends = {
        "revoked": "UPDATE api_key SET revoked_at = now()",
        "expired": "UPDATE api_key SET expires_at = now() - interval '1 second'",
    }
    for end in ends.values():
        old = make_key(owner_db, tenant)
        new = rotate(app_db, tenant, old, timedelta(days=1))
        change(owner_db, end)
        for token in (old, new):
            with pytest.raises(KeyUnknown):
                caller(app_db, token)
        # Nor does a rotation make it good again.
        with pytest.raises(Conflict, match="make a new one"):
            rotate(app_db, tenant, new, timedelta(0), datetime.now(UTC) + timedelta(days=1))


def test_a_rotation_may_move_the_end_of_a_key(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    soon, later = (datetime.now(UTC) + timedelta(hours=hours) for hours in (1, 2))
    token = make_key(owner_db, tenant, soon)
    rotate(app_db, tenant, token, timedelta(hours=1))
    assert rows(owner_db, "SELECT expires_at FROM api_key")[0].expires_at == soon
    rotate(app_db, tenant, token, timedelta(hours=1), later)
    assert rows(owner_db, "SELECT expires_at FROM api_key")[0].expires_at == later


def test_another_tenants_key_cannot_be_rotated(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    token = make_key(owner_db, make_tenant(owner_db, "other clinic"))
    for stranger in (key_id(token), new_id()):
        with pytest.raises(NotFound), app_db.transaction(tenant) as session:
            accounts.rotate_key(session, tenant, stranger, timedelta(0))
    caller(app_db, token)


def test_another_tenants_key_cannot_be_revoked(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    token = make_key(owner_db, make_tenant(owner_db, "other clinic"))
    for stranger in (key_id(token), new_id()):
        with pytest.raises(NotFound), app_db.transaction(tenant) as session:
            accounts.revoke_key(session, tenant, stranger)
    caller(app_db, token)


def test_the_last_use_is_written_once_a_minute_at_most(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    token = make_key(owner_db, tenant)

    def last_use() -> datetime:
        caller(app_db, token)
        [row] = rows(owner_db, "SELECT last_used_at FROM api_key")
        assert isinstance(row.last_used_at, datetime)
        return row.last_used_at

    first = last_use()
    assert last_use() == first
    change(owner_db, "UPDATE api_key SET last_used_at = now() - interval '59 seconds'")
    [before] = rows(owner_db, "SELECT last_used_at FROM api_key")
    assert last_use() == before.last_used_at
    change(owner_db, "UPDATE api_key SET last_used_at = now() - interval '61 seconds'")
    assert last_use() > first


def test_an_unknown_scope_is_refused_by_name(owner_db: Database, tenant: UUID) -> None:
    with pytest.raises(ScopeUnknown, match="'jobs:delete'"), owner_db.transaction() as session:
        accounts.create_key(session, tenant, "k", ["jobs:read", "jobs:delete"])
    assert rows(owner_db, "SELECT 1 FROM api_key") == []
    with owner_db.transaction() as session:
        accounts.create_key(session, tenant, "k", SCOPES)


def test_a_tenant_makes_and_lists_its_own_keys(owner_db: Database, app_db: Database, tenant: UUID) -> None:
    other = make_tenant(owner_db, "other clinic")
    make_key(owner_db, other)
    with app_db.transaction(tenant) as session:
        tokens = [accounts.create_key(session, tenant, name, ["admin"]) for name in ("first", "second")]
    with app_db.transaction(tenant) as session:
        assert [(key.id, key.name) for key in accounts.keys(session, tenant)] == [
            (key_id(tokens[0]), "first"),
            (key_id(tokens[1]), "second"),
        ]
        assert accounts.keys(session, other) == []


def test_a_tenants_name_is_taken_once(owner_db: Database) -> None:
    with owner_db.transaction() as session:
        made = accounts.create_tenant(session, "clinic", keep_originals=True)
    with pytest.raises(Refused, match="'clinic'"), owner_db.transaction() as session:
        accounts.create_tenant(session, "clinic")
    with owner_db.transaction() as session:
        found = accounts.tenant_named(session, "clinic")
        assert (found.id, found.keep_originals, found.weight) == (made.id, True, 1.0)
    with pytest.raises(NotFound, match="'ward'"), owner_db.transaction() as session:
        accounts.tenant_named(session, "ward")
