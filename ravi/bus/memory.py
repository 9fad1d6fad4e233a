"""A bus in memory: for tests, for dry runs, and for what may be lost with the process."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from ravi.bus.base import Dead, Delivery, Entry, Queue
from ravi.core.event import Event


@dataclass(slots=True, eq=False)
class Stream:
    """What was published, and how far each consumer has come. It stands for the disk: consumers come and go."""

    events: list[Event] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    done: dict[str, set[int]] = field(default_factory=dict)
    dead: dict[str, list[Dead]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


class MemoryBus:
    """One consumer of a stream. Opening a second one under the same name hands out again what was not settled."""

    def __init__(self, stream: Stream, name: str, now: Callable[[], float]) -> None:
        self._stream = stream
        self._queue = Queue(now)
        self._read = 0
        self._done = stream.done.setdefault(name, set())
        self._dead = stream.dead.setdefault(name, [])

    def publish(self, event: Event) -> bool:
        with self._stream.lock:
            if event.id in self._stream.known:
                return False
            self._stream.known.add(event.id)
            self._stream.events.append(event)
            return True

    def receive(self, limit: int = 1) -> list[Delivery]:
        with self._stream.lock:
            for place in range(self._read, len(self._stream.events)):
                if place not in self._done:
                    self._queue.add(Entry(self._stream.events[place], place))
            self._read = len(self._stream.events)
            return [Delivery(entry.event, entry.attempt, entry, self) for entry in self._queue.take(limit)]

    def due(self) -> float | None:
        with self._stream.lock:
            return self._queue.due()

    def dead(self) -> tuple[Dead, ...]:
        with self._stream.lock:
            return tuple(self._dead)

    def close(self) -> None:
        """Nothing to do: the stream knows."""

    def acked(self, entry: Entry) -> None:
        with self._stream.lock:
            self._queue.ended()
            self._done.add(entry.place)

    def put_back(self, entry: Entry, delay: float) -> None:
        with self._stream.lock:
            self._queue.put_back(entry, delay)

    def given_up(self, entry: Entry, reason: str) -> None:
        with self._stream.lock:
            self._queue.ended()
            self._done.add(entry.place)
            self._dead.append(Dead(entry.event, reason))
