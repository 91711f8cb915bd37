"""Answering people's photos while thousands of others are under way: a drain of its own beside the main one.

Whoever waits for a photo would wait for the micro-batches that are in the network already, and for processors that bulk
keeps busy. So this drain has a thread, a decoding child and a place in the network of its own, and the kernel prefers
them (``shared/priority.py``). It listens while the main drain holds more than people's photos; otherwise that one
answers them itself.
"""

import threading
from collections.abc import Callable
from typing import Final, Protocol

from shared.announcing import Announced
from shared.database import Database
from shared.errors import DatabaseAway
from shared.ledger.claim import people_wait
from shared.logs import logger

log = logger(__name__)

_LOOK_SECONDS: Final = 0.1
_AGAIN_SECONDS: Final = 1.0


class Drain(Protocol):
    """What answers people's photos until none is ready."""

    @property
    def answered(self) -> int:
        """How many photos it has answered so far."""

    @property
    def needs_help(self) -> bool:
        """Whether more may wait than it can answer at once, or it cannot read what does."""

    def look_ahead(self, photo: Announced) -> None:
        """Begin with a photo whose job is still being written."""

    def forget(self) -> None:
        """Keep nothing of such a photo."""

    def drain(self, goes_on: Callable[[], bool]) -> int:
        """Answer what is ready, claiming no more once that is so, and return how many photos that were."""

    def warm_up(self) -> None:
        """Start what takes long to start."""

    def stop(self) -> None:
        """Ask for an end after the present photo."""

    def close(self) -> None:
        """Give everything back."""


class Listening(Protocol):
    """Where news of people's photos come from."""

    @property
    def is_listening(self) -> bool:
        """Whether it has any to tell now."""

    def take(self, hear: Callable[[Announced], None]) -> bool:
        """Return whether there was a token; at once, or within a part of a second. ``hear`` is told of photos."""

    def stop(self) -> None:
        """Wait no longer."""

    def close(self) -> None:
        """Give the connection back."""


class People:
    """The thread; begins with ``start``. ``attend`` and ``rest`` are the main drain's, the others its owner's.

    Tokens make it look at once. It also looks by itself, since they may be lost, and another broker has none to take.
    One that was not about people, as of a larger job of their lane, is passed on to whoever listens once it rests.
    """

    def __init__(self, database: Database, drain: Drain, tokens: Listening, pass_on: Callable[[], object]) -> None:
        self._database, self._drain, self._tokens, self._pass_on = database, drain, tokens, pass_on
        self._attending = threading.Event()
        self._closing = threading.Event()
        self._is_well = True
        self._took_in_vain = False
        self._serving = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="people", daemon=True)

    @property
    def takes_people(self) -> bool:
        """Whether people's photos are left to this drain: not where it needs help, nor right after a fault."""
        return self._attending.is_set() and self._is_well and not self._drain.needs_help

    @property
    def answered(self) -> int:
        """How many photos were answered here so far."""
        return self._drain.answered

    def start(self) -> None:
        """Begin to wait for the main drain's word."""
        self._thread.start()

    def attend(self) -> None:
        """Answer people's photos from now on."""
        self._drain.warm_up()
        self._attending.set()

    def rest(self) -> None:
        """Leave them to the main drain again; returns when what was claimed is answered, whatever else waits."""
        self._attending.clear()
        with self._serving:
            self._return_token()

    def stop(self) -> None:
        """Ask for an end; called from a signal handler, so it only sets flags.

        And none that the interrupted thread sets as well, as ``attend`` does: that holds the flag's lock meanwhile.
        """
        self._closing.set()
        self._tokens.stop()
        self._drain.stop()

    def close(self) -> None:
        """End the thread, and what it drains with."""
        self.stop()
        self._attending.set()  # whoever rests hears of it
        if self._thread.is_alive():
            self._thread.join()
        self._drain.close()
        self._tokens.close()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._attending.wait()
            try:
                self._serve()
                self._is_well = True
            except DatabaseAway as error:
                log.warning("people_wait", error=str(error))
                self._closing.wait(_AGAIN_SECONDS)
            except Exception:  # the edge of a thread: a fault here must not be the last that is heard of people
                self._is_well = False
                log.exception("people_drain_failed")
                self._closing.wait(_AGAIN_SECONDS)

    def _serve(self) -> None:
        """Wait a moment for a token; answer what waits."""
        is_told = self._tokens.take(self._drain.look_ahead)
        if not is_told:
            self._drain.forget()
            if not self._tokens.is_listening:
                self._closing.wait(_LOOK_SECONDS)  # there was none to wait for
        with self._serving:
            if not self._attending.is_set():
                self._took_in_vain |= is_told
                self._return_token()
            elif (is_told or self._somebody_waits()) and not self._drain.drain(self._attending.is_set):
                self._took_in_vain |= is_told

    def _return_token(self) -> None:
        """Pass on a token that brought nothing; where this listens itself it would come back for ever."""
        took, self._took_in_vain = self._took_in_vain, False
        if took:
            self._pass_on()

    def _somebody_waits(self) -> bool:
        with self._database.looking() as session:
            return people_wait(session)
