"""Sending photos and following a job, through the real database and storage."""

from collections.abc import Callable
from pathlib import Path

from tests.integration.web.conftest import JPEG, Caller


def test_photos_become_a_job_that_names_its_links(clinic: Caller, objects: Callable[[], list[Path]]) -> None:
    answer = clinic.send([("a.jpg", JPEG), ("b.jpg", b"x")], {"metadata": {"ward": "7"}})
    assert answer.status_code == 202
    job = answer.json
    assert job is not None
    assert answer.headers["Location"] == answer.headers["Content-Location"] == job["links"]["self"]
    assert job["links"]["receipt"] == job["links"]["self"] + "/receipt"
    assert (job["state"], job["priority"], job["total"], job["use"]) == ("queued", "normal", 2, "research-only")
    assert job["counts"]["waiting"] == sum(job["counts"].values()) == 2
    assert job["metadata"] == {"ward": "7"}
    assert [path.read_bytes() for path in objects()] == [JPEG, b"x"]
    assert clinic.get(f"/v1/jobs/{job['id']}").json == {**job, "eta": None}
