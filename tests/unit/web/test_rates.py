"""Buckets that fill with time, are shared out between processes, and say in headers what is left."""

import random
from uuid import UUID

import pytest

from web.auth import network_of
from web.rates import Level, Policy, Rates, header_fields

KEY, OTHER, TENANT = UUID(int=1), UUID(int=2), UUID(int=3)
PER_KEY, PER_TENANT = Policy("key", 10.0, 2), Policy("tenant", 15.0, 2)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def taken(rates: Rates, key: UUID, number: int) -> int:
    """Return how many of so many requests may go on."""
    return sum(rates.take({"key": key, "tenant": TENANT}).is_free for _ in range(number))


def test_a_burst_goes_through_and_then_the_rate() -> None:
    clock = Clock()
    rates = Rates([PER_KEY, PER_TENANT], clock)
    assert taken(rates, KEY, 100) == 20
    for _ in range(50):
        clock.now += 0.1
        assert taken(rates, KEY, 10) == 1
    clock.now += 3600
    assert taken(rates, KEY, 100) == 20


def test_the_keys_of_a_tenant_have_a_rate_together_and_who_is_refused_takes_nothing() -> None:
    clock = Clock()
    rates = Rates([PER_KEY, PER_TENANT], clock)
    assert taken(rates, KEY, 100) == 20
    assert taken(rates, OTHER, 100) == 10
    refused = rates.take({"key": OTHER, "tenant": TENANT})
    assert [(level.policy.name, level.left) for level in refused.levels] == [("key", 10), ("tenant", 0)]
    assert [level.policy.name for level in refused.violated] == ["tenant"]


def test_looking_takes_nothing() -> None:
    rates = Rates([Policy("address", 1.0, 3)], Clock())
    for _ in range(10):
        assert rates.look({"address": "192.0.2.1"}).is_free
    for _ in range(3):
        rates.take({"address": "192.0.2.1"})
    assert not rates.look({"address": "192.0.2.1"}).is_free
    assert rates.look({"address": "192.0.2.2"}).is_free


def test_without_a_rate_nothing_is_bounded_and_nothing_said() -> None:
    rates = Rates([Policy("key", 0.0, 5)], Clock())
    verdicts = [rates.take({"key": KEY}) for _ in range(1000)]
    assert all(verdict.is_free for verdict in verdicts)
    assert header_fields(verdicts[-1].levels) == {}


@pytest.mark.parametrize(
    ("left", "more_in", "said"),
    [
        (20, 0, '"key";r=20;t=0'),
        (3, 1, '"key";r=3;t=1'),
        (0, 7, '"key";r=0;t=7'),
    ],
)
def test_the_headers_say_the_policy_and_what_is_left(left: int, more_in: int, said: str) -> None:
    found = header_fields([Level(PER_KEY, left, more_in)])
    assert found == {"RateLimit-Policy": '"key";q=20;w=2', "RateLimit": said}


def test_there_is_more_when_the_headers_said_so() -> None:
    clock = Clock()
    seed = random.SystemRandom().randrange(1 << 31)
    chance = random.Random(seed)
    for _ in range(100):
        policy = Policy("key", chance.choice([0.1, 0.5, 3.0, 50.0]), chance.randint(1, 5))
        rates = Rates([policy], clock)
        while rates.take({"key": KEY}).is_free:
            clock.now += chance.random() * 0.01
        [level] = rates.look({"key": KEY}).levels
        assert level.more_in >= 1
        clock.now += level.more_in
        assert rates.take({"key": KEY}).is_free, f"seed {seed}"


def exchange(processes: list[Rates], totals: dict[tuple[str, object], int]) -> None:
    """Let every process tell and hear once, as ``web/exchange.py`` does through Valkey."""
    for rates in processes:
        for policy, whose, told in rates.to_tell():
            totals[policy.name, whose] = totals.get((policy.name, whose), 0) + told
            rates.hear(policy, whose, told, totals[policy.name, whose])


@pytest.mark.parametrize("number", [2, 5])
def test_processes_that_exchange_hold_the_rate_together(number: int) -> None:
    """One that asks all of them as fast as it can gets the rate, and one burst more for each further process."""
    clock = Clock()
    processes = [Rates([PER_KEY], clock) for _ in range(number)]
    totals: dict[tuple[str, object], int] = {}
    let_through, seconds = 0, 120.0
    for step in range(int(seconds * 20)):
        let_through += sum(rates.take({"key": KEY}).is_free for rates in processes for _ in range(3))
        clock.now += 0.05
        if step % 10 == 0:
            exchange(processes, totals)
    assert let_through <= PER_KEY.rate * seconds + number * PER_KEY.burst * 1.5
    assert let_through >= 0.7 * PER_KEY.rate * seconds
    alone = number * (PER_KEY.rate * seconds + PER_KEY.burst)
    assert let_through < 0.75 * alone


def test_a_sum_that_was_wiped_takes_nothing_twice() -> None:
    clock = Clock()
    one, other = Rates([PER_KEY], clock), Rates([PER_KEY], clock)
    totals: dict[tuple[str, object], int] = {}
    for _ in range(5):
        one.take({"key": KEY})
        other.take({"key": KEY})
    exchange([one, other, one], totals)
    assert one.look({"key": KEY}).levels[0].left == 10
    totals.clear()
    exchange([one, other, one, other], totals)
    assert one.look({"key": KEY}).levels[0].left == 10
    other.take({"key": KEY})
    exchange([other, one], totals)
    assert one.look({"key": KEY}).levels[0].left == 9


def test_full_buckets_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.rates._MOST", 100)
    clock = Clock()
    rates = Rates([Policy("address", 1.0, 60)], clock)
    for number in range(1000):
        rates.take({"address": f"192.0.2.{number}"})
        clock.now += 0.1
    assert len(rates._buckets) <= 100


def test_more_addresses_than_there_are_buckets_are_looked_through_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.rates._MOST", 160)

    class Watched(Rates):
        looked = 0

        def _forget(self, now: float, *, untold: bool = False) -> None:
            self.looked += 1
            super()._forget(now, untold=untold)

    rates = Watched([Policy("address", 0.001, 60_000)], Clock())
    for number in range(1160):
        rates.take({"address": f"network {number}"})
    assert len(rates._buckets) <= 160
    assert rates.looked <= 1000 // 10 + 1


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("192.0.2.7:4711", "192.0.2.7"),
        ("[2001:db8::1]:4711", "2001:db8::/64"),
        ("[2001:db8::1]", "2001:db8::/64"),
        ("", ""),
    ],
)
def test_what_counts_as_one_address(address: str, counted: str) -> None:
    assert network_of(address) == counted
