"""Webhooks as pure rules: the body's bytes, the schedule, and which URLs are let through."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import webhooks
from shared.webhooks import Recorded

EVENT = UUID("018f3c5e-7d2a-7abc-8def-0123456789ab")
BEFORE = UUID("018f3c5e-7d2a-7abc-8def-0123456789aa")
JOB = UUID("018f3c5e-0000-7abc-8def-0123456789ab")
SCHEDULE = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
COMPLETED = Recorded(
    tenant_id=UUID(int=7),
    seq=42,
    id=EVENT,
    kind="job.completed",
    job_id=JOB,
    round=0,
    body={"state": "completed", "total": 3, "counts": {"classified": 2, "rejected": 1}},
    created_at=datetime(2026, 11, 23, 3, 0, 0, 5, tzinfo=UTC),
)
LINK = "https://pox.example/v1/jobs/job_018f3c5e00007abc8def0123456789ab"


def test_a_body_is_thin_and_leads_to_the_rest() -> None:
    told = json.loads(webhooks.render(COMPLETED, "https://pox.example", BEFORE))
    assert list(told) == ["type", "timestamp", "data"]
    assert told["type"] == "job.completed"
    assert told["timestamp"] == "2026-11-23T03:00:00.000005Z"
    assert told["data"] == {
        "id": "evt_018f3c5e7d2a7abc8def0123456789ab",
        "sequence": 42,
        "previous_id": "evt_018f3c5e7d2a7abc8def0123456789aa",
        "job": "job_018f3c5e00007abc8def0123456789ab",
        "round": 0,
        "state": "completed",
        "total": 3,
        "counts": {"classified": 2, "rejected": 1},
        "links": {"job": LINK, "results": LINK + "/results", "receipt": LINK + "/receipt"},
        "use": "research-only",
    }


def test_the_bytes_are_the_same_whatever_order_the_row_comes_back_in() -> None:
    shuffled = replace(
        COMPLETED,
        body=dict(reversed(COMPLETED.body.items())),
        created_at=COMPLETED.created_at.astimezone(timezone(timedelta(hours=-7))),
    )
    first = webhooks.render(COMPLETED, "https://pox.example", BEFORE)
    assert webhooks.render(shuffled, "https://pox.example", BEFORE) == first


def test_the_first_event_of_an_endpoint_has_none_before_it() -> None:
    assert json.loads(webhooks.render(COMPLETED, "https://pox.example", None))["data"]["previous_id"] is None


def test_a_body_cannot_pass_itself_off_as_another_event() -> None:
    forged = replace(COMPLETED, body={"id": "evt_0", "sequence": 1, "job": "job_0", "use": "clinical", "links": {}})
    data = json.loads(webhooks.render(forged, "https://pox.example", None))["data"]
    assert (data["sequence"], data["use"]) == (42, "research-only")
    assert data["job"] == "job_018f3c5e00007abc8def0123456789ab"
    assert data["links"]["job"] == LINK


def test_an_overlong_body_gives_way_to_its_links() -> None:
    long = replace(COMPLETED, body={"reasons": ["because " * 10] * 1000})
    body = webhooks.render(long, "https://pox.example", BEFORE)
    data = json.loads(body)["data"]
    assert len(body) < 20_000
    assert data["truncated"] is True
    assert data["links"]["job"] == LINK
    assert "reasons" not in data


def test_events_of_images_and_endpoints_link_to_them() -> None:
    of_image = replace(COMPLETED, kind="image.completed", body={"image": "img_1"})
    assert webhooks.document(of_image, "https://pox.example")["data"]["links"]["image"].endswith("/v1/images/img_1")
    disabled = replace(COMPLETED, kind="endpoint.disabled", job_id=None, body={"endpoint": "whk_1", "reason": "410"})
    data = webhooks.document(disabled, "https://pox.example")["data"]
    assert data["links"] == {"endpoint": "https://pox.example/v1/webhooks/whk_1"}
    assert "use" not in data


@pytest.mark.parametrize(
    ("attempt", "chance", "retry_after", "delay"),
    [
        (1, 0.5, None, 5),  # in the middle: the schedule itself
        (1, 0.0, None, 4),  # 20 % sooner
        (2, 1.0, None, 360),  # 20 % later
        (9, 0.5, None, 86400),  # the last wait
        (10, 0.5, None, None),  # ten attempts in all
        (11, 0.5, 60.0, None),
        (1, 0.5, 60.0, 60),  # the receiver asks for more
        (2, 0.5, 60.0, 300),  # the receiver asks for less
        (1, 0.5, 1e12, 86400),  # no more than a day
        (1, 0.5, -5.0, 5),
    ],
)
def test_the_next_attempt_comes_after(
    attempt: int, chance: float, retry_after: float | None, delay: float | None
) -> None:
    found = webhooks.next_delay(attempt, SCHEDULE, chance, retry_after)
    assert found == (None if delay is None else pytest.approx(delay))


@given(st.integers(1, 9), st.floats(0, 1, exclude_max=True))
def test_delays_stay_within_a_fifth_of_the_schedule(attempt: int, chance: float) -> None:
    delay = webhooks.next_delay(attempt, SCHEDULE, chance)
    assert delay is not None
    assert 0.8 * SCHEDULE[attempt - 1] <= delay <= 1.2 * SCHEDULE[attempt - 1] + 1e-6


@pytest.mark.parametrize(
    "url",
    [
        "https://clinic.example/hooks",
        "https://clinic.example:443/hooks?key=1",
        "https://clinic.example:8443/",
        "https://1.1.1.1/hooks",
        "https://localhost.clinic.example/",
        "https://127.0.0.1.clinic.example./",
        "https://0x7f.clinic.example/",
        "https://[2606:4700:4700::1111]/hooks",
        "http://127.0.0.1:9000/hooks",
        "https://127.0.0.1:9000/hooks",
        "http://LOCALHOST:9001/hooks",
        "http://[::1]:9002/hooks",
    ],
)
def test_good_urls_pass(url: str) -> None:
    webhooks.check_url(url, ("127.0.0.1:9000", "localhost:9001", "[::1]:9002"))


@pytest.mark.parametrize(
    "url",
    [
        "https://a..b.com/",  # an empty label
        f"https://{'a' * 64}.com/",  # a label of 64 characters
        "",
        "clinic.example/hooks",
        "http://clinic.example/hooks",
        "ftp://clinic.example/hooks",
        "file:///etc/passwd",
        "ftp://127.0.0.1:9000/",
        "https:///hooks",
        "https://user@clinic.example/",
        "https://user:password@clinic.example/",
        "https://@clinic.example/",
        "https://clinic.example@127.0.0.1:9000/",
        "https://clinic.example:80/",
        "https://clinic.example:0/",
        "https://clinic.example:99999/",
        "https://clinic.example:x/",
        "https://clinic.example/#part",
        "https://clinic.example/a b",
        "https://clinic.example/\r\nx: y",
        "https://clinic.example\\@127.0.0.1/",
        "https://clinic.exämple/",
        "https://\uff11\uff12\uff17.0.0.1/",
        "https://clinic.example/" + "a" * 2048,
        "https://127.0.0.1/",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://localhost/",
        "https://LOCALHOST./hooks",
        "https://clinic.localhost/",
        "https://clinic.localhost.:8443/",
        "https://127.1/",
        "https://127.0.0.1./",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://0X7F000001/",
        "https://0x/",
        "https://0177.0.0.1/",
        "https://1.1.257/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[fe80::1%25eth0]/",
        "https://[",
        "http://127.0.0.1:9001/",
        "http://127.0.0.2:9000/",
        "http://localhost:9000/",
        "http://127.0.0.1/",
    ],
)
def test_bad_urls_are_refused(url: str) -> None:
    with pytest.raises(webhooks.UrlRefused):
        webhooks.check_url(url, ("127.0.0.1:9000",))


def test_kinds_are_known_or_refused() -> None:
    webhooks.check_kinds(["job.completed", "ping"])
    # What nothing sends cannot be asked for.
    for unknown in ("job.exploded", "job.progress", "image.completed", "model.drift"):
        with pytest.raises(webhooks.KindUnknown):
            webhooks.check_kinds(["job.completed", unknown])


def test_a_body_that_is_no_text_at_all_is_never_sent() -> None:
    wrong: dict[str, Any] = {"p": float("nan")}
    with pytest.raises(ValueError, match="JSON"):
        webhooks.render(replace(COMPLETED, body=wrong), "https://pox.example", None)
