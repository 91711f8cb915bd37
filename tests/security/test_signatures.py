"""What is signed here is verified by the reference libraries of Standard Webhooks, for Python and for JavaScript."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from shared import signing

HERE = Path(__file__).parent / "node"
BUILT = Path(__file__).parents[2] / "build" / "node"
INSTALL_SECONDS = 150
BODY = '{"type":"job.completed","data":{"name":"größe \u2014 \U0001f9ea"}}'.encode()

Case = tuple[str, bytes, dict[str, str]]
Verify = Callable[[list[Case]], list[bool]]


def in_python(cases: list[Case]) -> list[bool]:
    return [_is_taken(*case) for case in cases]


def _is_taken(secret: str, body: bytes, headers: dict[str, str]) -> bool:
    try:
        Webhook(secret).verify(body, headers)
    except WebhookVerificationError:
        return False
    return True


def in_javascript(cases: list[Case]) -> list[bool]:
    said = [
        {"secret": secret, "body": base64.b64encode(body).decode(), "headers": headers}
        for secret, body, headers in cases
    ]
    done = subprocess.run(
        ["node", str(BUILT / "verify.mjs")],
        input=json.dumps(said).encode(),
        capture_output=True,
        timeout=60,
        check=True,
    )
    return [taken is True for taken in json.loads(done.stdout)]


def _install_node() -> None:
    """Install Debian's Node where this user may, and the library as the lock beside the script has it; else skip."""
    apt = shutil.which("apt-get")
    if shutil.which("node") is None:
        if os.geteuid() != 0 or apt is None:
            pytest.skip("no Node here, and only root can install Debian's")
        words = [apt, "-qq", "install", "--yes", "--no-install-recommends", "nodejs", "npm"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
        if done.returncode != 0:
            pytest.skip(f"Node could not be installed: {done.stderr.strip()[-200:]}")
    if shutil.which("npm") is None:
        pytest.skip("no npm here, which fetches the reference library")
    BUILT.mkdir(parents=True, exist_ok=True)
    for file in HERE.iterdir():
        shutil.copy(file, BUILT)
    words = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(words, cwd=BUILT, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    if done.returncode != 0:
        pytest.skip(f"the reference library for JavaScript could not be fetched: {done.stderr.strip()[-200:]}")


@pytest.fixture(params=["Python", "JavaScript"])
def verify(request: pytest.FixtureRequest) -> Verify:
    if request.param == "Python":
        return in_python
    _install_node()
    return in_javascript


def test_what_is_signed_is_taken_and_what_was_altered_is_not(verify: Verify) -> None:
    old, new, other = (signing.new_secret() for _ in range(3))
    now = int(time.time())
    headers = signing.webhook_headers([new, old], "evt_1", now, BODY)
    cases: list[tuple[Case, bool]] = [
        ((new, BODY, headers), True),
        ((old, BODY, headers), True),
        ((other, BODY, headers), False),
        ((new, BODY + b" ", headers), False),
        ((new, BODY, headers | {"webhook-id": "evt_2"}), False),
        ((new, BODY, headers | {"webhook-timestamp": str(now + 1)}), False),
        ((new, BODY, signing.webhook_headers([new], "evt_1", now - 600, BODY)), False),
        ((new, BODY, signing.webhook_headers([new], "evt_1", now + 600, BODY)), False),
        ((new, BODY, signing.webhook_headers([new], "evt_1", now - 200, BODY)), True),
    ]
    assert verify([case for case, _ in cases]) == [is_good for _, is_good in cases]
