"""A fingerprint is the same for the same meaning, and for nothing else."""

import dataclasses
import hashlib
from datetime import UTC, datetime

from web.intake import fingerprint
from web.intake.options import JobOptions
from web.intake.reception import Received

A = Received(0, "a.jpg", "incoming/x/00000", hashlib.sha256(b"a").digest(), 1)
B = Received(1, "b.jpg", "incoming/x/00001", hashlib.sha256(b"b").digest(), 1)


def of(options: str = "{}", photos: tuple[Received, ...] = (A, B)) -> bytes:
    return fingerprint.of_job(photos, JobOptions.model_validate_json(options).canonical())


def test_where_the_bytes_lie_does_not_matter() -> None:
    assert of(photos=(dataclasses.replace(A, storage_key="incoming/y/00000"), B)) == of()


def test_names_order_bytes_and_options_matter() -> None:
    variants = [
        of(),
        of(photos=(B, A)),
        of(photos=(A,)),
        of(photos=(dataclasses.replace(A, name="c.jpg"), B)),
        of(photos=(dataclasses.replace(A, name=None), B)),
        of(photos=(dataclasses.replace(A, sha256=bytes(32)), B)),
        of('{"priority": "bulk"}'),
        of('{"photos": [{"custom_id": "1"}]}'),
        of('{"metadata": {"a": "b"}}'),
    ]
    assert len(set(variants)) == len(variants)


def test_the_spelling_of_options_does_not_matter() -> None:
    assert of('{"metadata": {"a": "1", "b": "2"}}') == of('{"metadata": {"b": "2", "a": "1"}, "priority": null}')
    assert of('{"deadline": "2099-01-01T00:00:00Z"}') == of('{"deadline": "2099-01-01T02:00:00+02:00"}')
    assert of('{"max_failure_rate": 1}') == of('{"max_failure_rate": 1.0}')
    deadline = JobOptions.model_validate_json('{"deadline": "2099-01-01T02:00:00+02:00"}').deadline
    assert deadline == datetime(2099, 1, 1, tzinfo=UTC)
