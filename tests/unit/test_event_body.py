"""The body of an event as a pure rule: thin, the same bytes every time, and nobody else's."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest

from shared import event_body
from shared.views import ResultView
from shared.webhooks import Recorded

EVENT = UUID("018f3c5e-7d2a-7abc-8def-0123456789ab")
BEFORE = UUID("018f3c5e-7d2a-7abc-8def-0123456789aa")
JOB = UUID("018f3c5e-0000-7abc-8def-0123456789ab")
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
ANSWER = ResultView(
    image_id=EVENT,
    job_id=JOB,
    ordinal=0,
    client_name=None,
    custom_id=None,
    storage_key="",
    sha256="",
    bytes=0,
    duplicate_of=None,
    outcome="classified",
    label=None,
    answer=None,
    reasons=(),
    model_id=None,
    model_digest=None,
    attempts=1,
    has_copy=False,
    timings=None,
    finished_at=None,
)
LINK = "https://pox.example/v1/jobs/job_018f3c5e00007abc8def0123456789ab"


def test_a_body_is_thin_and_leads_to_the_rest() -> None:
    told = json.loads(event_body.render(COMPLETED, "https://pox.example", BEFORE))
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
    first = event_body.render(COMPLETED, "https://pox.example", BEFORE)
    assert event_body.render(shuffled, "https://pox.example", BEFORE) == first


def test_the_first_event_of_an_endpoint_has_none_before_it() -> None:
    assert json.loads(event_body.render(COMPLETED, "https://pox.example", None))["data"]["previous_id"] is None


def test_a_body_cannot_pass_itself_off_as_another_event() -> None:
    forged = replace(COMPLETED, body={"id": "evt_0", "sequence": 1, "job": "job_0", "use": "clinical", "links": {}})
    data = json.loads(event_body.render(forged, "https://pox.example", None))["data"]
    assert (data["sequence"], data["use"]) == (42, "research-only")
    assert data["job"] == "job_018f3c5e00007abc8def0123456789ab"
    assert data["links"]["job"] == LINK


def test_an_overlong_body_gives_way_to_its_links() -> None:
    long = replace(COMPLETED, body={"reasons": ["because " * 10] * 1000})
    body = event_body.render(long, "https://pox.example", BEFORE)
    data = json.loads(body)["data"]
    assert len(body) < 20_000
    assert data["truncated"] is True
    assert data["links"]["job"] == LINK
    assert "reasons" not in data


@pytest.mark.parametrize(("length", "is_told"), [(50, True), (300, False)])
def test_a_full_body_of_one_photo_stays_under_20_kb_whatever_its_labels_are_called(length: int, is_told: bool) -> None:
    labels = [f"{place:02}{'ü' * length}" for place in range(64)]
    answer = replace(ANSWER, answer={"probabilities": dict.fromkeys(labels, 1 / 64), "prediction_set": labels[:1]})
    of_image = replace(COMPLETED, kind="image.completed", body={"image": "img_1", "outcome": "classified"})
    body = event_body.render(of_image, "https://pox.example", BEFORE, "cloudevents", [answer])
    data = json.loads(body)["data"]
    assert len(body) < 20_000
    assert ("result" in data, "truncated" in data) == (is_told, not is_told)
    assert (data["image"], data["outcome"]) == ("img_1", "classified")


def test_events_of_images_and_endpoints_link_to_them() -> None:
    of_image = replace(COMPLETED, kind="image.completed", body={"image": "img_1"})
    assert event_body.document(of_image, "https://pox.example")["data"]["links"]["image"].endswith("/v1/images/img_1")
    disabled = replace(COMPLETED, kind="endpoint.disabled", job_id=None, body={"endpoint": "whk_1", "reason": "410"})
    data = event_body.document(disabled, "https://pox.example")["data"]
    assert data["links"] == {"endpoint": "https://pox.example/v1/webhooks/whk_1"}
    assert "use" not in data


def test_a_body_that_is_no_text_at_all_is_never_sent() -> None:
    wrong: dict[str, Any] = {"p": float("nan")}
    with pytest.raises(ValueError, match="JSON"):
        event_body.render(replace(COMPLETED, body=wrong), "https://pox.example", None)
