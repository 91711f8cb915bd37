"""What a process keeps from Python's collector."""

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from shared import heap


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """Leave the collector going. What was settled may stay so: other tests are the quicker for it."""
    yield
    gc.enable()


def collected_anew(thing: object) -> bool:
    """Whether the collector would still look at a thing."""
    return any(one is thing for one in gc.get_objects())


def test_what_is_there_is_not_looked_at_again_and_what_comes_later_is() -> None:
    before: list[Any] = [[]]
    assert collected_anew(before)
    heap.settle()
    after: list[Any] = [[]]
    assert not collected_anew(before)
    assert collected_anew(after)


def test_imports_run_without_the_collector_and_are_settled() -> None:
    with heap.loading():
        assert not gc.isenabled()
        loaded: list[Any] = [[]]
    assert gc.isenabled()
    assert not collected_anew(loaded)


def test_the_collector_goes_on_where_an_import_fails() -> None:
    with pytest.raises(ImportError), heap.loading():
        raise ImportError("no such module")
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    with heap.loading():
        pass
    assert not gc.isenabled()
