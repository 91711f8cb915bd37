"""Signatures: the published vector, an independent verifier, and every way a key or a seal can be wrong."""

import base64
import datetime as dt
import json
import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from joserfc.jwk import OKPKey
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from shared import signing
from shared.errors import Refused
from shared.settings import Settings
from shared.signing import Keyring

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"test": 2432232314}'


@pytest.fixture
def keyring() -> Keyring:
    return Keyring(b"a secret key of the tests, long enough")


def test_the_published_vector_of_standard_webhooks_is_met() -> None:
    headers = signing.webhook_headers([SECRET], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, BODY)
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_the_reference_library_accepts_what_we_sign_and_we_sign_what_it_signs() -> None:
    secret, now = signing.new_secret(), int(time.time())
    headers = signing.webhook_headers([secret], "evt_1", now, BODY)
    assert Webhook(secret).verify(BODY, headers) == {"test": 2432232314}
    moment = dt.datetime.fromtimestamp(now, dt.UTC)
    assert Webhook(secret).sign("evt_1", moment, BODY.decode()) == headers["webhook-signature"]
    with pytest.raises(WebhookVerificationError):
        Webhook(signing.new_secret()).verify(BODY, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(BODY + b" ", headers)


def test_both_secrets_sign_while_one_is_being_replaced() -> None:
    old, new = signing.new_secret(), signing.new_secret()
    headers = signing.webhook_headers([new, old], "evt_1", int(time.time()), BODY)
    assert len(headers["webhook-signature"].split(" ")) == 2
    Webhook(old).verify(BODY, headers)
    Webhook(new).verify(BODY, headers)


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "whsec_",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",  # no prefix
        "whsec_" + base64.b64encode(b"x" * 23).decode(),  # a byte short
        "whsec_" + base64.b64encode(b"x" * 65).decode(),  # a byte long
        "whsec_not base64 at all, really not!",
        "whsec_" + base64.b64encode(b"x" * 32).decode() + "\n",
    ],
)
def test_a_secret_of_the_wrong_form_is_refused(wrong: str) -> None:
    with pytest.raises(signing.BadSecret):
        signing.secret_bytes(wrong)


def test_a_fresh_secret_has_32_bytes_and_is_never_the_same() -> None:
    fresh = {signing.new_secret() for _ in range(50)}
    assert len(fresh) == 50
    assert {len(signing.secret_bytes(secret)) for secret in fresh} == {32}


def test_keys_depend_on_the_secret_alone(keyring: Keyring) -> None:
    same = Keyring(b"a secret key of the tests, long enough")
    other = Keyring(b"another secret key of the tests, long enough")
    assert same.public_jwks() == keyring.public_jwks()
    assert same.sign(BODY) == keyring.sign(BODY)
    assert same.unseal(keyring.seal(b"kept")) == b"kept"
    assert other.kid != keyring.kid
    with pytest.raises(signing.SealBroken):
        other.unseal(keyring.seal(b"kept"))


def test_the_keyring_comes_from_the_settings() -> None:
    settings = Settings.load(
        {
            "DATABASE_URL": "postgresql://localhost/none",
            "REDIS_URL": "redis://localhost/0",
            "STORAGE_URL": "file:///nowhere",
            "SECRET_KEY": "a secret key of the tests, long enough",
        }
    )
    assert Keyring.from_settings(settings).kid == Keyring(b"a secret key of the tests, long enough").kid


def test_an_independent_library_reads_the_key_set_and_agrees_on_the_thumbprint(keyring: Keyring) -> None:
    (key,) = keyring.public_jwks()["keys"]
    assert json.loads(json.dumps(key)) == key
    assert "d" not in key, "the private half must never be published"
    assert OKPKey.import_key({"kty": key["kty"], "crv": key["crv"], "x": key["x"]}).thumbprint() == key["kid"]
    public = base64.urlsafe_b64decode(key["x"] + "=")
    Ed25519PublicKey.from_public_bytes(public).verify(keyring.sign(BODY), BODY)


def test_the_thumbprint_of_rfc_8037_appendix_a3_is_met() -> None:
    public = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    assert signing.thumbprint(public) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_a_good_signature_passes_and_every_wrong_part_is_refused(keyring: Keyring) -> None:
    jwks, value = keyring.public_jwks(), signing.encode_signature(keyring.sign(BODY))
    signing.verify(jwks, keyring.kid, value, BODY)
    other = Keyring(b"another secret key of the tests, long enough")
    wrong: list[tuple[dict[str, object], str, str, bytes]] = [
        (jwks, keyring.kid, value, BODY + b" "),
        (jwks, keyring.kid, signing.encode_signature(other.sign(BODY)), BODY),
        (jwks, keyring.kid, value[:-2], BODY),
        (jwks, keyring.kid, "é", BODY),
        (jwks, keyring.kid, "", BODY),
        (jwks, other.kid, value, BODY),
        (jwks, "", value, BODY),
        (other.public_jwks(), keyring.kid, value, BODY),
        ({"keys": [{**jwks["keys"][0], "x": "AAAA"}]}, keyring.kid, value, BODY),
        ({"keys": [{**jwks["keys"][0], "kty": "EC"}]}, keyring.kid, value, BODY),
        ({}, keyring.kid, value, BODY),
    ]
    for key_set, kid, signature, data in wrong:
        with pytest.raises(signing.BadSignature):
            signing.verify(key_set, kid, signature, data)


def test_an_altered_seal_is_refused(keyring: Keyring) -> None:
    sealed = bytearray(keyring.seal(b"kept"))
    assert b"kept" not in bytes(sealed)
    sealed[20] ^= 1
    with pytest.raises(Refused):
        keyring.unseal(bytes(sealed))
