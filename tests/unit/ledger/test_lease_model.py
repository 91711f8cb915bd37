"""The lease protocol as a model, small enough to look at in every order of its steps.

Two workers and the sweep over two units of one photo. Each step is one transaction of the ledger, so it is one step
here; what a worker knows is only what its claims told it, however long it slept since.

===========  ===============================  ========================================================================
step         function and statement           what the model does
===========  ===============================  ========================================================================
claim        ``claim.claim``, ``_CLAIM``      a ready unit is leased under a higher fence; only where several are ready
                                              does the ledger choose, here each may be chosen
expire       the database's clock             the end of a lease passes; nothing is written
heartbeat    ``claim.heartbeat``,             a lease that has not expired goes on; the worker forgets every other
             ``_HEARTBEAT``
reap         ``reap.reap``, ``_EXPIRED``      an expired lease ends: the unit is ready with a crash more, or dead, with
                                              its answer ``failed: quarantined``
complete     ``complete.complete``,           where unit, fence and state hold, the unit is done, with a result; else
             ``_FINISH``                      nothing is written. The answer may be lost, so that it is done again
sleep, wake  SIGSTOP, SIGCONT                 between them the worker takes no step, and forgets nothing
===========  ===============================  ========================================================================

The ledger draws fences from one sequence; they are only ever compared within a unit, so the model counts by unit. Two
crashes are enough to quarantine here (three there). With that the states are finite, and no depth is left out.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

WORKERS = (0, 1)
CRASHES = 2


class Unit(NamedTuple):
    state: str = "ready"
    fence: int = 0
    crashes: int = 0
    results: tuple[int, ...] = ()  #: the fences under which answers were written


class World(NamedTuple):
    units: tuple[Unit, ...] = (Unit(), Unit())
    #: For each worker, the leases (unit, fence) that it believes to hold.
    beliefs: tuple[frozenset[tuple[int, int]], ...] = (frozenset(), frozenset())
    asleep: frozenset[int] = frozenset()

    def but_unit(self, at: int, unit: Unit) -> "World":
        return self._replace(units=(*self.units[:at], unit, *self.units[at + 1 :]))

    def but_beliefs(self, worker: int, beliefs: frozenset[tuple[int, int]]) -> "World":
        return self._replace(beliefs=(*self.beliefs[:worker], beliefs, *self.beliefs[worker + 1 :]))


Step = tuple[str, World]
LEASED = ("leased", "expired")  # a lease whose end has passed counts until somebody reaps it
CLOSED = ("done", "dead")


def steps(world: World, *, fenced: bool) -> Iterator[Step]:
    """Yield everything that can happen next."""
    for at, unit in enumerate(world.units):
        if unit.state == "leased":
            yield f"the lease of unit {at} expires", world.but_unit(at, unit._replace(state="expired"))
        if unit.state == "expired":
            yield f"the sweep reaps unit {at}", world.but_unit(at, reaped(unit))
    for worker in WORKERS:
        if worker in world.asleep:
            yield f"worker {worker} wakes up", world._replace(asleep=world.asleep - {worker})
        else:
            yield f"worker {worker} falls asleep", world._replace(asleep=world.asleep | {worker})
            yield from steps_of(worker, world, fenced=fenced)


def reaped(unit: Unit) -> Unit:
    crashes = unit.crashes + 1
    if crashes < CRASHES:
        return unit._replace(state="ready", crashes=crashes)
    return unit._replace(state="dead", crashes=crashes, results=(*unit.results, unit.fence))


def steps_of(worker: int, world: World, *, fenced: bool) -> Iterator[Step]:
    """Yield what a worker that is awake can do."""
    mine = world.beliefs[worker]
    for at, unit in enumerate(world.units):
        if unit.state == "ready":
            claimed = world.but_unit(at, unit._replace(state="leased", fence=unit.fence + 1))
            yield f"worker {worker} claims unit {at}", claimed.but_beliefs(worker, mine | {(at, unit.fence + 1)})
    if mine:
        kept = {(at, fence) for at, fence in mine if world.units[at][:2] == ("leased", fence)}
        yield f"worker {worker} beats", world.but_beliefs(worker, frozenset(kept))
    for at, fence in sorted(mine):
        unit, after = world.units[at], world
        if unit.state in LEASED and (unit.fence == fence or not fenced):
            after = world.but_unit(at, unit._replace(state="done", results=(*unit.results, fence)))
            yield f"worker {worker} completes unit {at} under fence {fence}, the answer is lost", after
        yield (
            f"worker {worker} completes unit {at} under fence {fence}",
            after.but_beliefs(worker, mine - {(at, fence)}),
        )


def fault(before: World, after: World) -> str | None:
    """Return what must never happen and just did."""
    for at, (old, new) in enumerate(zip(before.units, after.units, strict=True)):
        if len(new.results) > 1:
            return f"unit {at} was completed twice"
        if any(fence != new.fence for fence in new.results):
            return f"unit {at} has a result under fence {new.results[0]}, which fence {new.fence} superseded"
        if old.state in CLOSED and new != old:
            return f"unit {at} was {old.state} and did not stay so"
        if (new.state in CLOSED) != bool(new.results):
            return f"unit {at} is {new.state} with {len(new.results)} results"
    return None


@dataclass
class Explored:
    """Every state in reach, how each was reached first, and where each can come from; or the first fault."""

    came_by: dict[World, tuple[World, str] | None] = field(default_factory=dict)
    before: dict[World, list[World]] = field(default_factory=dict)
    counterexample: list[str] = field(default_factory=list)


def explore(*, fenced: bool) -> Explored:
    """Walk breadth first, so that the first fault comes with as few steps as any."""
    start = World()
    explored = Explored(came_by={start: None})
    queue = deque([start])
    while queue:
        world = queue.popleft()
        for step, after in steps(world, fenced=fenced):
            wrong = fault(world, after)
            if wrong:
                explored.counterexample = [*way_to(world, explored), step, wrong]
                return explored
            explored.before.setdefault(after, []).append(world)
            if after not in explored.came_by:
                explored.came_by[after] = (world, step)
                queue.append(after)
    return explored


def way_to(world: World, explored: Explored) -> list[str]:
    way = []
    came_by = explored.came_by[world]
    while came_by:
        world, step = came_by
        way.append(step)
        came_by = explored.came_by[world]
    return way[::-1]


def test_no_order_of_steps_completes_a_unit_twice_or_under_an_old_fence_or_leaves_it_stuck() -> None:
    explored = explore(fenced=True)
    assert explored.counterexample == []
    assert len(explored.came_by) >= 8_000, "the model has shrunk: is a step missing?"
    ends = [world for world in explored.came_by if all(unit.state in CLOSED for unit in world.units)]
    assert {tuple(unit.state for unit in world.units) for world in ends} == {(a, b) for a in CLOSED for b in CLOSED}

    hopeful, queue = set(ends), deque(ends)
    while queue:
        for world in explored.before.get(queue.popleft(), []):
            if world not in hopeful:
                hopeful.add(world)
                queue.append(world)
    stuck = next((world for world in explored.came_by if world not in hopeful), None)
    assert stuck is None, way_to(stuck, explored)


def test_without_the_fence_the_shortest_way_to_harm_is_a_zombie() -> None:
    counterexample = explore(fenced=False).counterexample
    print(*counterexample, sep="\n")
    assert counterexample == [
        "worker 0 claims unit 0",
        "the lease of unit 0 expires",
        "the sweep reaps unit 0",
        "worker 0 claims unit 0",
        "worker 0 completes unit 0 under fence 1, the answer is lost",
        "unit 0 has a result under fence 1, which fence 2 superseded",
    ]
