"""Keys and signatures: what is derived from the secret key, and how receipts and webhooks are signed with it.

One secret, several keys: HKDF (RFC 5869) with a label of its own gives each purpose a key from which no other can be
computed. Receipts are signed with ed25519 (RFC 8032), whose public half goes out as a JWK set (RFC 8037); the secrets
of webhook endpoints lie in the database sealed with Fernet; webhooks themselves are signed with HMAC-SHA256 as Standard
Webhooks 1.0.0 has it.
"""

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.errors import Refused
from shared.settings import Settings

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - the public prefix of every secret, not a secret
_SHORTEST, _LONGEST, _FRESH = 24, 64, 32


class BadSignature(Refused):
    """A signature does not fit what it is said to sign. Do not retry."""


class BadSecret(Refused):
    """A webhook secret is not ``whsec_`` and 24 to 64 bytes in base64. Do not retry."""


class SealBroken(Refused):
    """A sealed value was not sealed with this secret key. Do not retry."""


class Keyring:
    """The keys that one secret stands for."""

    def __init__(self, secret: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(_derive(secret, b"poxvisio receipts ed25519 1"))
        self._fernet = Fernet(base64.urlsafe_b64encode(_derive(secret, b"poxvisio sealing fernet 1")))
        self._links = _derive(secret, b"poxvisio links hmac 1")
        self._public = _base64url(self._private.public_key().public_bytes_raw())
        self.kid = thumbprint(self._public)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Derive the keys from the settings' secret key."""
        return cls(settings.secret_key.get_secret_value().encode())

    def sign(self, data: bytes) -> bytes:
        """Return the 64 bytes of the ed25519 signature: the same for the same data."""
        return self._private.sign(data)

    def public_jwks(self) -> dict[str, Any]:
        """Return the JWK set (RFC 7517) that receipts are verified with."""
        key = {"kty": "OKP", "crv": "Ed25519", "x": self._public, "kid": self.kid, "use": "sig", "alg": "EdDSA"}
        return {"keys": [key]}

    def link_code(self, data: bytes) -> bytes:
        """Return the 32 bytes of HMAC-SHA256 that let an address in without a key."""
        return hmac.digest(self._links, data, "sha256")

    def seal(self, data: bytes) -> bytes:
        """Encrypt and authenticate a value for the database."""
        return self._fernet.encrypt(data)

    def unseal(self, data: bytes) -> bytes:
        """Return what was sealed; ``SealBroken`` if it was altered or sealed with another secret key."""
        try:
            return self._fernet.decrypt(data)
        except InvalidToken:
            raise SealBroken("the value was sealed with another SECRET_KEY, or altered") from None


def thumbprint(public: str) -> str:
    """Return the RFC 7638 thumbprint of an ed25519 key, given as its JWK's ``x``."""
    canonical = json.dumps({"crv": "Ed25519", "kty": "OKP", "x": public}, separators=(",", ":"))
    return _base64url(hashlib.sha256(canonical.encode()).digest())


def encode_signature(signature: bytes) -> str:
    """Return a signature as it stands in JSON: base64url without padding."""
    return _base64url(signature)


def verify(jwks: Mapping[str, Any], kid: str, signature: str, data: bytes) -> None:
    """Raise ``BadSignature`` unless the key ``kid`` of the set signed this data."""
    for key in jwks.get("keys", ()):
        if key.get("kid") == kid and key.get("kty") == "OKP" and key.get("crv") == "Ed25519":
            try:
                public = Ed25519PublicKey.from_public_bytes(_from_base64url(key["x"]))
                public.verify(_from_base64url(signature), data)
            except (InvalidSignature, ValueError, KeyError):
                raise BadSignature("the signature does not fit the contents") from None
            return
    raise BadSignature("it is signed with a key that is not in the key set")


def new_secret() -> str:
    """Return a fresh webhook secret: ``whsec_`` and 32 random bytes in base64."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_FRESH)).decode()


def secret_bytes(secret: str) -> bytes:
    """Return the HMAC key a webhook secret stands for: its decoded bytes, not its text. Raises ``BadSecret``."""
    encoded = secret.removeprefix(SECRET_PREFIX)
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if encoded == secret or not _SHORTEST <= len(key) <= _LONGEST:
        raise BadSecret("a webhook secret is 'whsec_' followed by 24 to 64 bytes in base64")
    return key


def webhook_headers(signing_secrets: Sequence[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the three headers of Standard Webhooks 1.0.0; every secret given signs, so that secrets can rotate.

    ``timestamp`` is the attempt's, in Unix seconds; ``body`` the very bytes that are sent.
    """
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    codes = (hmac.digest(secret_bytes(secret), signed, "sha256") for secret in signing_secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join("v1," + base64.b64encode(code).decode() for code in codes),
    }


def _derive(secret: bytes, label: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=label).derive(secret)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _from_base64url(value: str) -> bytes:
    return base64.b64decode(value.replace("-", "+").replace("_", "/") + "=" * (-len(value) % 4), validate=True)
