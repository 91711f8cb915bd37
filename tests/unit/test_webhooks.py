"""Webhooks as pure rules: the schedule, and which URLs are let through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import webhooks

SCHEDULE = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)


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
    webhooks.check_kinds(["job.completed", "image.completed", "model.activated", "model.drift", "ping"])
    # What nothing sends cannot be asked for.
    for unknown in ("job.exploded", "image.accepted"):
        with pytest.raises(webhooks.KindUnknown):
            webhooks.check_kinds(["job.completed", unknown])
