"""The schedule of kills is its seed's, kills every kind, and knows the processes by their command lines."""

import itertools
from collections import Counter

import pytest

from cli.programs import programs
from shared.crash_points import POINTS
from tests.chaos.victims import WEIGHTS, kind_of, schedule

ENVIRONMENTS: dict[str, dict[str, str]] = {"web": {}, "worker": {}, "deliverer": {}, "sweep": {}}


def test_a_seed_draws_the_same_kills_and_another_seed_others() -> None:
    first, again, other = (list(itertools.islice(schedule(seed, 0.5), 50)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_every_kind_and_every_point_is_drawn() -> None:
    draws = list(itertools.islice(schedule(3, 0.5), 2000))
    firsts = Counter(draw.wanted[0][0] for draw in draws)
    assert set(firsts) == set(WEIGHTS)
    assert firsts["point"] > firsts["postgres"]
    assert {draw.point for draw in draws} == set(POINTS)
    assert all(sorted(kind for kind, _ in draw.wanted) == sorted(WEIGHTS) for draw in draws)


def test_the_programs_of_an_instance_are_known() -> None:
    found = [kind_of(list(program.command), is_leader=True) for program in programs(ENVIRONMENTS, "127.0.0.1", 1, 2)]
    assert found == ["web", "worker", "worker", "deliverer", "sweep"]


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("python -B -c from billiard.spawn import spawn_main; spawn_main(tracker_fd=13)", "pool child"),
        ("python -B -c from billiard.semaphore_tracker import main;main(12)", None),
        ("python -P -m worker.decoding.child {} 12", "decoder"),
        ("/site-packages/pginstall/bin/postgres -D /proc/self/cwd -c port=1", "postgres"),
        ("postgres: poxvisio_web_login poxvisio 127.0.0.1(50086) idle", "backend"),
        ("postgres: checkpointer", None),
        ("/wheel/valkey-server 127.0.0.1:40259", "valkey"),
        ("python -I /here/cli/guard.py ready.json", "guard"),
    ],
)
def test_children_and_servers_are_known(command: str, kind: str | None) -> None:
    assert kind_of(command.split(" "), is_leader=False) == kind
