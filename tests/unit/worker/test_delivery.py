"""What follows from an answer, as a table."""

import pytest

from worker.delivery import judge
from worker.egress import Answer
from worker.endpoint_health import Verdict

SCHEDULE = (5.0, 300.0)
GONE = "the receiver answered 410 Gone"


def answer(
    status: int | None, *, error: str | None = None, retry_after: float | None = None, instruction: str | None = None
) -> Answer:
    return Answer(status, error, b"", retry_after, instruction, 0.1)


@pytest.mark.parametrize(
    ("given", "attempt", "verdict"),
    [
        (answer(200), 1, Verdict("delivered")),
        (answer(204), 3, Verdict("delivered")),  # also on the last attempt
        (answer(299, retry_after=9), 1, Verdict("delivered")),
        (answer(500), 1, Verdict("waiting", 5)),
        (answer(404), 2, Verdict("waiting", 300)),
        (answer(500), 3, Verdict("dead")),  # the schedule is exhausted
        (answer(302), 1, Verdict("waiting", 5)),  # not followed
        (answer(100), 1, Verdict("waiting", 5)),
        (answer(None, error="timeout"), 1, Verdict("waiting", 5)),
        (answer(None, error="address not allowed"), 3, Verdict("dead")),
        (answer(429, retry_after=60), 1, Verdict("waiting", 60, pause=60)),
        (answer(429, retry_after=2), 2, Verdict("waiting", 300, pause=2)),
        (answer(429), 1, Verdict("waiting", 5)),
        (answer(503, retry_after=1e9), 1, Verdict("waiting", 86_400, pause=3600)),  # bounded
        (answer(500, retry_after=60), 1, Verdict("waiting", 60)),  # this delivery waits, the endpoint does not
        (answer(410), 1, Verdict("waiting", 5, disable=GONE)),
        (answer(410), 3, Verdict("dead", disable=GONE)),
        (answer(500, instruction="disable"), 1, Verdict("waiting", 5, disable="the receiver asked to be disabled")),
        (answer(400, instruction="abort-message"), 1, Verdict("dead", 5)),
        (answer(400, instruction="something else"), 1, Verdict("waiting", 5)),
    ],
)
def test_the_answer_decides_what_follows(given: Answer, attempt: int, verdict: Verdict) -> None:
    assert judge(given, attempt, SCHEDULE, 0.5) == verdict
