"""The git log as a bus: a commit on the main line is the record, a ref is the durable consumer's cursor."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ravi.bus.base import Dead, Delivery, Entry, Queue
from ravi.core.event import Event
from ravi.errors import Unavailable

_LAG = 64  # commits: how far the cursor's ref may fall behind while deliveries are out


class History(Protocol):
    """What the bus needs of the main line; whoever builds the bus hands it in. Writes are durable on return."""

    def commits_after(self, commit: str | None, limit: int) -> Sequence[tuple[str, tuple[Event, ...]]]:
        """The next commits of the main line, oldest first, at most `limit`, each with its events; None: from the root.

        The first after a commit that is no longer on the main line holds everything that differs from it.
        """

    def cursor(self, name: str) -> str | None:
        """The commit a consumer has come to."""

    def move(self, name: str, to: str, was: str | None) -> None:
        """Move a cursor. Raises Conflict when it is not at `was`: somebody else reads under this name."""

    def record(self, event: Event) -> bool:
        """Commit an event to the main line; False when a commit there records it already."""

    def bury(self, name: str, event: Event, reason: str) -> None:
        """Keep an event that a consumer gave up."""

    def buried(self, name: str) -> Sequence[tuple[Event, str]]:
        """What `bury` kept, oldest first."""


@dataclass(slots=True, eq=False)
class _Commit:
    oid: str
    unsettled: int


class LogBus:
    """One consumer of the main line. After a crash everything past the cursor comes again.

    The cursor passes a commit when all its events, and all before them, are settled. Its ref is written when nothing
    is out any more, so a batch costs one write.
    """

    def __init__(self, history: History, name: str, now: Callable[[], float]) -> None:
        self._history = history
        self._name = name
        self._queue = Queue(now)
        self._cursor = history.cursor(name)  # as the ref says
        self._passed = self._cursor  # as it should say
        self._read = self._cursor
        self._line: deque[_Commit] = deque()  # read and not passed
        self._commits: dict[int, _Commit] = {}  # place of an unsettled event -> its commit
        self._places = 0
        self._behind = 0
        self._lock = threading.Lock()

    def publish(self, event: Event) -> bool:
        return self._history.record(event)

    def receive(self, limit: int = 1) -> list[Delivery]:
        with self._lock:
            while self._queue.new < limit and (batch := self._history.commits_after(self._read, max(limit, 64))):
                for oid, events in batch:
                    self._append(oid, events)
                self._prune()
            self._pass()
            return [Delivery(entry.event, entry.attempt, entry, self) for entry in self._queue.take(limit)]

    def due(self) -> float | None:
        with self._lock:
            return self._queue.due()

    def dead(self) -> tuple[Dead, ...]:
        return tuple(Dead(event, reason) for event, reason in self._history.buried(self._name))

    def close(self) -> None:
        """Write the cursor where it belongs, so that less comes again."""
        with self._lock:
            self._write()

    def acked(self, entry: Entry) -> None:
        with self._lock:
            self._ended(entry)

    def put_back(self, entry: Entry, delay: float) -> None:
        with self._lock:
            self._queue.put_back(entry, delay)
            self._pass()

    def given_up(self, entry: Entry, reason: str) -> None:
        self._history.bury(self._name, entry.event, reason)  # durable before the cursor can pass it
        with self._lock:
            self._ended(entry)

    def _append(self, oid: str, events: tuple[Event, ...]) -> None:
        commit = _Commit(oid, len(events))
        self._line.append(commit)
        for event in events:
            self._commits[self._places] = commit
            self._queue.add(Entry(event, self._places))
            self._places += 1
        self._read = oid

    def _ended(self, entry: Entry) -> None:
        self._queue.ended()
        self._commits.pop(entry.place).unsettled -= 1
        self._pass()

    def _prune(self) -> None:
        while self._line and not self._line[0].unsettled:
            self._passed = self._line.popleft().oid
            self._behind += 1

    def _pass(self) -> None:
        self._prune()
        if not self._queue.out or self._behind >= _LAG:
            self._write()

    def _write(self) -> None:
        if self._passed is not None and self._passed != self._cursor:
            try:
                self._history.move(self._name, self._passed, self._cursor)
            except Unavailable:  # a disk that fails may have moved it all the same
                self._cursor = self._history.cursor(self._name)
                raise
            self._cursor, self._behind = self._passed, 0
