"""Who is asking, and how often: every route is guarded by the scope its operation names, before its view runs.

A key that was good a moment ago hears of its limits before the database is asked, and any other one after: so a request
costs no statement more than before, and one over its limit costs none. An address that sent too many unknown keys is
refused without a look into the database, unless with a key that was good a moment ago: strangers behind one proxy shut
nobody out. What needs no key is counted by address, but for probes: a balancer must hear of a process whoever floods
it.
"""

import ipaddress
import math
import random
import re
import time
from typing import Final

from flask import Flask, current_app, g, request
from werkzeug.middleware.proxy_fix import ProxyFix

from shared import accounts
from shared.accounts import Caller, KeyUnknown
from web.known_keys import Known
from web.operations import operation_of
from web.problems import (
    MISSING_SCOPE,
    RATE_LIMITED,
    TOO_MANY_REFUSED,
    UNAUTHORIZED,
    Kind,
    Problem,
    challenge,
)
from web.rates import Verdict
from web.services import services

_BEARER: Final = re.compile(r"bearer +(pxv_[0-9A-Za-z-]{1,64}_[0-9A-Za-z_-]{1,256}) *", re.IGNORECASE)
# A household or a machine has a network of this size to itself, and would else be as many addresses as it likes.
_V6_PREFIX: Final = 64
_JITTER: Final = 0.2
# Half of what the database rounds the last use of a key to.
_NOTE_SECONDS: Final = 30.0


def caller() -> Caller:
    """Return who sends the present request; only for views behind a scope."""
    found: Caller = g.caller
    return found


def require(asking: Caller, scope: str, what: str = "This") -> None:
    """Raise ``Problem`` (403) unless the caller's key has this scope; ``what`` begins the sentence that says so."""
    if scope not in asking.scopes:
        raise Problem(MISSING_SCOPE, f"{what} needs a key with the scope {scope!r}.")


def install(app: Flask) -> None:
    """Authenticate and count before every view whose operation names a scope; the others are counted by address."""
    if proxies := app.extensions["poxvisio"].settings.proxies:
        # Of what proxies say, where a request comes from is believed, and nothing else.
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=0, x_host=0)  # type: ignore[method-assign]  # Flask's own way

    @app.before_request
    def authenticate() -> None:
        found = operation_of(current_app, request.endpoint)
        if found is None or found.scope is None:
            if found is None or not found.is_probe:
                _count_address()
            return
        g.caller = _authenticated()
        require(g.caller, found.scope)


def _authenticated() -> Caller:
    matched = _BEARER.fullmatch(request.headers.get("Authorization", ""))
    if matched is None:
        raise Problem(UNAUTHORIZED, "Send an API key: `Authorization: Bearer pxv_<id>_<secret>`.", headers=challenge())
    here, token = services(), matched[1]
    address = {"address": network_of(request.remote_addr or "")}
    known = here.known_keys.recall(token)
    if known is not None:
        _count(known)
    elif not (verdict := here.refused.look(address)).is_free:
        raise too_many(TOO_MANY_REFUSED, "Too many unknown API keys came from your address.", verdict)
    now = time.monotonic()
    is_due = known is None or now - known.noted_at > _NOTE_SECONDS
    try:
        with here.database.transaction(lasting=False) if is_due else here.database.looking() as session:
            found = accounts.authenticate(session, token, touch=is_due)
    except KeyUnknown:
        here.known_keys.forget(token)
        here.refused.take(address)
        raise
    if is_due:
        here.known_keys.remember(token, noted := Known(found.key_id, found.tenant_id, now))
        if known is None:
            _count(noted)
    return found


def _count_address() -> None:
    """Take a request without a key from what its address may send; raises ``Problem`` (429) where nothing is left."""
    verdict = services().open_doors.take({"address": network_of(request.remote_addr or "")})
    if not verdict.is_free:
        raise too_many(RATE_LIMITED, "Your address sent too many requests that need no key.", verdict)


def _count(known: Known) -> None:
    """Take a request from what the key and its tenant may send; raises ``Problem`` (429) where nothing is left."""
    here = services()
    g.tenant = known.tenant_id
    here.exchange.begin()
    verdict = here.rates.take({"key": known.key_id, "tenant": known.tenant_id})
    g.levels = verdict.levels
    if not verdict.is_free:
        whose = " and ".join(level.policy.name for level in verdict.violated)
        raise too_many(RATE_LIMITED, f"The {whose} sent too many requests.", verdict)


def too_many(kind: Kind, what: str, verdict: Verdict) -> Problem:
    """Return the problem of one request too many, ``what`` in a sentence, and when to come back."""
    violated = verdict.violated
    # Not all at once, and never before there is more.
    spread = 1 + _JITTER * random.random()  # noqa: S311  # spreads load, guards nothing
    after = math.ceil(max(level.more_in for level in violated) * spread)
    names = [level.policy.name for level in violated]
    return Problem(
        kind,
        f"{what} Try again in {after} seconds.",
        headers={"Retry-After": str(after)},
        members={"violated-policies": names},
    )


def network_of(address: str) -> str:
    """Return what counts as one address: an IPv4 address, or an IPv6 network of 64 bits.

    Some proxies add the port, which every connection has another of.
    """
    if address.startswith("["):
        address = address[1:].partition("]")[0]
    elif address.count(":") == 1:
        address = address.partition(":")[0]
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address  # a Unix socket has none
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.IPv6Network((ip, _V6_PREFIX), strict=False))
    return str(ip)
