"""The outlet: every event of the main line, told on NATS in order, at least once, each under its own id.

What was told is a cursor on the main line, so what happens while NATS is away is told when it is back. How far the
stream had come is kept too: a stream that stands before its mark, or is another one, has lost something.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from ravi.bus.log import History, LogBus
from ravi.bus.nats import Link, StreamSpec, StreamState
from ravi.core import cloudevents
from ravi.core.event import Event
from ravi.core.subjects import Names
from ravi.errors import Deposed, RaviError

CONSUMER = "nats"  # whose cursor it is
KEPT = 7 * 24 * 3600.0  # seconds that the stream keeps events
_BATCH = 64
_PULSE = 2.0  # seconds between looks at the main line, whatever rings
_MARK_EVERY = 1.0  # seconds between marks, while there is something to mark
_POINTS = 64  # marks that are kept; the older, the sparser


class Note(Protocol):
    """A few bytes kept in git under a name; durable on return."""

    def read(self) -> bytes: ...

    def write(self, data: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Marks:
    """How far a stream had come when our cursor stood at a commit: (seq, commit), oldest first."""

    created: str = ""
    points: tuple[tuple[int, str], ...] = ()

    @classmethod
    def read(cls, data: bytes) -> "Marks":
        """The marks of a note; none of one that is empty, or of another make."""
        try:
            told = json.loads(data)
            return cls(str(told["created"]), tuple((int(seq), str(commit)) for seq, commit in told["points"]))
        except (ValueError, KeyError, TypeError):
            return cls()

    def render(self) -> bytes:
        return json.dumps({"created": self.created, "points": self.points}).encode()

    def reached(self, created: str, seq: int, commit: str) -> "Marks":
        """The same with one point more."""
        if created != self.created:
            return Marks(created, ((seq, commit),))
        points = [*self.points, (seq, commit)]
        if len(points) > _POINTS:
            half = len(points) // 2
            points = points[:half:2] + points[half:]
        return Marks(created, tuple(points))

    def lost(self, state: StreamState) -> str:
        """What the stream has lost, in words; "" when nothing."""
        if not self.points:
            return ""
        last = self.points[-1][0]
        if state.created != self.created:
            return f"stream {state.name} is a new one; it held {last:,} messages" if last else ""
        if state.last_seq < last:
            return f"stream {state.name} went back from message {last:,} to {state.last_seq:,}"
        return ""

    def before(self, state: StreamState) -> tuple[int, str]:
        """The newest mark up to which a stream holds everything, as far as we know."""
        held = [point for point in self.points if point[0] <= state.last_seq and state.created == self.created]
        return held[-1] if held else (0, self.points[0][1])


class Outlet:
    """One thread that tells. `ring` says that the main line may have moved."""

    def __init__(self, history: History, link: Link, names: Names, note: Note, *, say: Callable[[str], None]) -> None:
        self.told = 0  # events since the start
        self.fault = ""
        self._history = history
        self._link = link
        self._names = names
        self._note = note
        self._say = say
        self._marks = Marks.read(note.read())
        self._marked = 0.0
        self._life = 0  # of the link, when we looked at the stream last; 0: look
        self._created = ""  # of that stream
        self._seq = 0
        self._ring = threading.Event()
        self._is_closing = False
        self._thread = threading.Thread(target=self._work, name="ravi-outlet", daemon=True)

    def start(self) -> None:
        """Begin to tell."""
        self._thread.start()

    def ring(self) -> None:
        """Look at the main line, or at the link, now."""
        self._ring.set()

    def close(self) -> None:
        """End, after what is being told."""
        self._is_closing = True
        self._ring.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        bus = LogBus(self._history, CONSUMER, time.monotonic)
        while not self._is_closing:
            self._ring.wait(_PULSE)
            self._ring.clear()
            if not self._link.connected:
                continue
            try:
                self._look()
                while self._tell(bus) and not self._is_closing:
                    pass
                self.fault = ""
            except Deposed:
                return
            except RaviError as fault:  # the link went, or the disk is full: what was not told is told later
                self.fault = str(fault)
                self._life = 0
        try:
            bus.close()
            self._mark()
        except RaviError as fault:
            self.fault = str(fault)

    def _look(self) -> None:
        """Once after the link came: have the stream, and tell again what it has lost."""
        if self._life == (life := self._link.life):
            return
        self._mark()
        self._created = ""
        spec = StreamSpec(self._names.stream("EVENTS"), (self._names.event(">"),), max_age=KEPT)
        state = self._link.ensure(spec)
        lost = self._marks.lost(state)
        if lost or self._is_unmarked():
            seq, start = self._marks.before(state)
            self._seq = 0
            held = self._held(spec.name, seq)
            again = sum(self._send(event) for event in self._between(start) if event.id not in held)
            if lost or again:
                self._say(f"NATS: {lost or f'stream {spec.name} lacks the last'}; {again:,} events are told again")
            older = tuple(point for point in self._marks.points if seq and point[0] < seq)
            self._marks = Marks(state.created, (*older, (seq, start)))
        elif not self._marks.points and (start_here := self._history.cursor(CONSUMER)):
            self._marks = Marks(state.created, ((state.last_seq, start_here),))
        self._created, self._seq = state.created, max(state.last_seq, self._seq)
        self._life = life

    def _is_unmarked(self) -> bool:
        """True when we were killed after the last mark, and so do not know how far the stream had come."""
        return bool(self._marks.points) and self._marks.points[-1][1] != self._history.cursor(CONSUMER)

    def _held(self, stream: str, after: int) -> set[str]:
        """The ids that a stream holds after a number."""
        found = set()
        while message := self._link.read(stream, after):
            after = message.seq
            found.add(message.headers.get("Nats-Msg-Id", ""))
        return found

    def _between(self, start: str) -> Iterator[Event]:
        """What lies on the main line after a commit, as far as it was told already."""
        end = self._history.cursor(CONSUMER)
        while start != end and (commits := self._history.commits_after(start, _BATCH)):
            for commit, events in commits:
                yield from events
                start = commit
                if commit == end:
                    return

    def _tell(self, bus: LogBus) -> bool:
        """Tell what is next; False when there is nothing."""
        deliveries = bus.receive(_BATCH)
        for number, delivery in enumerate(deliveries):
            try:
                self._send(delivery.event)
            except RaviError:
                for rest in deliveries[number:]:
                    rest.nak(_PULSE)
                raise
            delivery.ack()
            self.told += 1
        if time.monotonic() >= self._marked + _MARK_EVERY:
            self._mark()
        return bool(deliveries)

    def _send(self, event: Event) -> int:
        data = cloudevents.render(event, self._names.name)
        ack = self._link.publish(self._names.event(event.type), data, id=event.id)
        self._seq = max(self._seq, ack.seq)
        return 1

    def _mark(self) -> None:
        commit = self._history.cursor(CONSUMER)
        if commit is None or not self._created:
            return
        marks = self._marks.reached(self._created, self._seq, commit)
        if marks.points[-1:] != self._marks.points[-1:]:
            self._note.write(marks.render())
            self._marks = marks
        self._marked = time.monotonic()


def replayed(events: Iterable[Event], link: Link, names: Names) -> int:
    """Tell past events again; returns how many. They have their ids in the envelope, and no message id, so that the
    stream takes them however young they are. Raises Unavailable.
    """
    count = 0
    for event in events:
        data = cloudevents.render(event, names.name)
        link.publish(names.event(event.type), data, headers={"Ravi-Replay": "true"})
        count += 1
    return count
