"""The contract of the bus: publish, receive, ack, nak, term. Memory and the git log keep it alike."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ravi.core.event import Event


@dataclass(frozen=True, slots=True)
class Dead:
    """An event given up with `term`, kept for a person."""

    event: Event
    reason: str


class Bus(Protocol):
    """One stream, read by one durable consumer whose name outlives the process. At least once, in order.

    What was received and neither acknowledged nor given up comes again when the consumer is opened again (after a
    crash), never before. An event put back with `nak` does not hold up the younger ones; when its delay is over it
    comes before those that were not yet handed out.
    """

    def publish(self, event: Event) -> bool:
        """Add an event; durable on return. False when one with this id is there already: nothing happens then."""

    def receive(self, limit: int = 1) -> list["Delivery"]:
        """What is next, oldest first, at most `limit`; empty when there is nothing. Does not wait."""

    def due(self) -> float | None:
        """The moment, by the bus's clock, when the next event that was put back comes again."""

    def dead(self) -> tuple[Dead, ...]:
        """Every event this consumer gave up, oldest first."""

    def close(self) -> None:
        """Write down how far this consumer has come; what is still out comes again at the next opening."""


class Settle(Protocol):
    """Where a delivery reports how it ended: the side of the bus that keeps the consumer's position."""

    def acked(self, entry: "Entry") -> None: ...

    def put_back(self, entry: "Entry", delay: float) -> None: ...

    def given_up(self, entry: "Entry", reason: str) -> None: ...


@dataclass(slots=True, eq=False)
class Entry:
    """One event on its way through the consumer."""

    event: Event
    place: int  # in the order of the stream
    attempt: int = 0
    again_at: float | None = None  # put back, until then


@dataclass(slots=True, eq=False)
class Delivery:
    """One handing-over of an event. The first verb counts; what is said after it is ignored."""

    event: Event
    attempt: int  # which handing-over this is within this process, from 1
    _entry: Entry
    _bus: Settle
    _settled: bool = field(default=False)

    def ack(self) -> None:
        """Done: it never comes again."""
        if self._first():
            self._bus.acked(self._entry)

    def nak(self, delay: float = 0.0) -> None:
        """Not now: it comes again after `delay` seconds of the bus's clock."""
        if self._first():
            self._bus.put_back(self._entry, delay)

    def term(self, reason: str) -> None:
        """Never again: it is kept among the dead, with the reason."""
        if self._first():
            self._bus.given_up(self._entry, reason)

    def _first(self) -> bool:
        first, self._settled = not self._settled, True
        return first


class Queue:
    """The order in which one consumer is served: what is due again first, then what is new. Not thread-safe."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._new: deque[Entry] = deque()
        self._back: list[Entry] = []  # put back; few, so a scan is enough
        self._out = 0

    def add(self, entry: Entry) -> None:
        """Put a new event at the end."""
        self._new.append(entry)

    def take(self, limit: int) -> list[Entry]:
        """Hand out at most `limit`, and count them as out."""
        now = self._now()
        ready = sorted((e for e in self._back if e.again_at is not None and e.again_at <= now), key=lambda e: e.place)
        taken = ready[:limit]
        for entry in taken:
            self._back.remove(entry)
            entry.again_at = None
        while self._new and len(taken) < limit:
            taken.append(self._new.popleft())
        for entry in taken:
            entry.attempt += 1
        self._out += len(taken)
        return taken

    def ended(self) -> None:
        """One that was out is settled for good."""
        self._out -= 1

    def put_back(self, entry: Entry, delay: float) -> None:
        """One that was out comes again after `delay` seconds."""
        self._out -= 1
        entry.again_at = self._now() + max(0.0, delay)
        self._back.append(entry)

    def due(self) -> float | None:
        """When the next one that was put back comes again."""
        return min((e.again_at for e in self._back if e.again_at is not None), default=None)

    @property
    def new(self) -> int:
        """How many were never handed out."""
        return len(self._new)

    @property
    def out(self) -> int:
        """How many are handed out and not settled."""
        return self._out
