import json
import time
from typing import Any

import httpx

from cli.receiver import Receiver
from shared import signing

SECRET = signing.new_secret()
BODY = json.dumps({"type": "job.completed", "data": {"job": "job_1"}}).encode()


def _deliver(receiver: Receiver, body: bytes = BODY, secret: str = SECRET) -> int:
    headers = signing.webhook_headers([secret], "evt_1", int(time.time()), body)
    return httpx.post(receiver.url, content=body, headers=headers, trust_env=False).status_code


def _wait(receiver: Receiver, job: str = "job_1", timeout: float = 5) -> dict[str, Any] | None:
    return receiver.wait_for("job.completed", job, SECRET, timeout)


def test_a_signed_webhook_is_received_and_verified() -> None:
    with Receiver() as receiver:
        assert _deliver(receiver) == 204
        assert _wait(receiver) == json.loads(BODY)


def test_a_webhook_with_another_signature_is_none() -> None:
    with Receiver() as receiver:
        _deliver(receiver, secret=signing.new_secret())
        assert _wait(receiver, timeout=0.1) is None


def test_a_webhook_of_another_job_is_not_the_one_waited_for() -> None:
    with Receiver() as receiver:
        _deliver(receiver)
        assert _wait(receiver, job="job_2", timeout=0.1) is None
