"""The entrance: what comes in at the doors over NATS, and the answers that go back.

A stream does not keep where its senders wait for an answer. So the doors are listened at as well, and questions and
answers are brought together by what was said. JetStream itself is told not to answer while we do: who publishes here
hears that it is committed, not only that it lies in a stream.
"""

import contextlib
import json
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Generic, TypeVar

from ravi.app import App
from ravi.bus.nats import Link, Message, StreamSpec, Subscription
from ravi.bus.outlet import Marks
from ravi.core import cloudevents
from ravi.core.ids import derive_id
from ravi.core.subjects import Names
from ravi.errors import RaviError, Unavailable
from ravi.porcelain import doors
from ravi.store.history import Note

_T = TypeVar("_T")
_HANDS = 8  # messages that are taken at the same time: their commits share one sync
_AHEAD = 64  # messages that are fetched and not answered yet
_TRIES = 5  # deliveries of one message that breaks us, until it is put aside
_KEPT = 60.0  # seconds that an answer waits for its question, and the other way round
_LONGEST = 1000  # characters of a reason; it may quote what came in
_TOLD = 64 * 1024  # characters of what came in that are told with it, so that it is no larger than NATS takes
_REMEMBERED = 90 * 24 * 3600.0  # seconds that dead letters stay in their stream; git keeps them for ever


class Entrance:
    """Takes what lies in the stream, several messages at once; each is committed, then acknowledged, then answered."""

    def __init__(self, app: App, link: Link, names: Names, note: Note, say: Callable[[str], None]) -> None:
        self.taken = 0
        self.refused = 0
        self._app = app
        self._link = link
        self._names = names
        self._note = note
        self._say = say
        self._marks = Marks.read(note.read())
        self._life = 0  # of the link, when the doors were opened last
        self._created = ""
        self._seq = 0
        self._hands = ThreadPoolExecutor(_HANDS, thread_name_prefix="ravi-door")
        self._post = _Post(link)
        self._open: list[Subscription] = []
        self._lock = threading.Lock()
        self._in_hand: set[str] = set()

    def look(self) -> None:
        """Open the doors once the link is there; keep how far they have come. Called again and again."""
        try:
            if self._link.connected and self._life != (life := self._link.life):
                self._begin()
                self._life = life
            self._mark()
        except RaviError as fault:
            self._say(f"NATS: the doors are closed: {fault}")

    def close(self) -> None:
        """Take nothing more, finish what is in hand, and let JetStream answer for us from now on."""
        for one in self._open:
            one.close()
        self._hands.shutdown(wait=True)
        with contextlib.suppress(RaviError):
            self._mark()
            if self._link.connected:
                self._link.ensure(self._spec(no_ack=False))

    def _spec(self, *, no_ack: bool) -> StreamSpec:
        # Whoever sends the same again must reach us to be answered: doubles are our ledger's business, not the server's
        return StreamSpec(
            self._names.stream("IN"), (self._names.door(">"),), "workqueue", duplicate_window=0.1, no_ack=no_ack
        )

    def _begin(self) -> None:
        dead = StreamSpec(self._names.stream("DEAD"), (self._names.dead(">"),), max_age=_REMEMBERED)
        self._link.ensure(dead)
        spec = self._spec(no_ack=True)
        state = self._link.ensure(spec)
        if lost := self._marks.lost(state):
            self._say(f"NATS: {lost}; what waited there and was not answered is gone")
            self._marks = Marks()
        self._seq = state.last_seq
        self._created = state.created
        if not self._open:
            self._open = [
                self._link.subscribe(self._names.door(">"), self._post.asked),
                self._link.consume(
                    spec.name,
                    "ravi-doors",
                    self._hand_over,
                    ack_wait=60.0,
                    max_ack_pending=_AHEAD,
                    ahead=_AHEAD - 1,
                    alone=True,  # else what a killed daemon had in hand would hold up the doors of the next
                ),
            ]
        self._say("NATS: the doors are open")

    def _mark(self) -> None:
        if self._created and self._marks.points[-1:] != ((self._seq, ""),):
            marks = Marks(self._created, ((self._seq, ""),))
            self._note.write(marks.render())
            self._marks = marks

    def _hand_over(self, message: Message) -> None:
        self._hands.submit(self._take, message)

    def _take(self, message: Message) -> None:
        """Take one message: committed, then acknowledged, then answered. Nothing gets out of here."""
        self._seq = max(self._seq, message.seq)
        key = _key(message) or f"{message.stream}:{message.seq}:{message.when}"  # a lost stream gives numbers again
        with self._lock:
            if key in self._in_hand:  # a second delivery; the first will say
                message.nak(1.0)
                return
            self._in_hand.add(key)
        try:
            answer = self._entered(message, key)
            if answer is not None:
                message.ack()
                told = {**answer, "stream": message.stream, "seq": message.seq}
                self._post.answer(message, json.dumps(told, ensure_ascii=False).encode())
        except RaviError as fault:  # NATS, or the disk: it comes again
            self._say(f"NATS: {message.subject}: {fault}")
        finally:
            with self._lock:
                self._in_hand.discard(key)

    def _entered(self, message: Message, key: str) -> dict[str, Any] | None:
        """The answer to a message that is settled; None when it comes again."""
        door = message.subject.removeprefix(self._names.door(""))
        try:
            answer = doors.enter(self._app, door, message.data, key=key)
        except RaviError as fault:
            if not doors.is_final(fault):
                message.nak(2.0)
                return None
            return self._refused(message, door, key, str(fault), fault.code, fault.hint)
        except Exception as fault:  # noqa: BLE001 - one poisonous message must not hold up the others
            if message.attempt < _TRIES:
                message.nak(min(0.2 * 2**message.attempt, 5.0))
                return None
            return self._refused(message, door, key, f"it breaks ravi: {fault!r}", "failed", "")
        self.taken += 1
        return answer

    def _refused(self, message: Message, door: str, key: str, reason: str, code: str, hint: str) -> dict[str, Any]:
        reason = reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]}…"
        event = doors.bury(self._app, door, message.data, reason, key=key)
        self.refused += 1
        self._say(f"NATS: {message.subject}: refused: {reason}")
        told = replace(event, data={name: text[:_TOLD] for name, text in event.data.items()})
        self._link.publish(
            self._names.dead(f"in.{door}"), cloudevents.render(told, self._names.name), id=f"{event.id}.dead"
        )
        return {"error": reason, "code": code, "hint": hint}


class _Post:
    """Brings answers to those who wait for one, whichever comes first.

    What is said again under its id has the same answer, also while the server itself still knows the id and passes the
    second one on to nobody but us. Without an id, each time is another one.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._waiting = _Shelf[str]()  # who asked
        self._ready = _Shelf[bytes]()  # what is answered

    def asked(self, message: Message) -> None:
        """Somebody has said something at a door."""
        if not message.reply:
            return
        name, is_known = _print(message), bool(_key(message))
        with self._lock:
            answer = self._ready.peek(name) if is_known else self._ready.take(name)
            if answer is None:
                self._waiting.put(name, message.reply)
        if answer is not None:
            self._send(message.reply, answer)

    def answer(self, message: Message, data: bytes) -> None:
        """A message that came from the stream is settled."""
        name, is_known = _print(message), bool(_key(message))
        with self._lock:
            replies = [self._waiting.take(name)]
            while is_known and replies[-1] is not None:
                replies.append(self._waiting.take(name))
            if is_known:
                self._ready.drop(name)
            if is_known or replies[0] is None:
                self._ready.put(name, data)
        for reply in replies:
            if reply is not None:
                self._send(reply, data)

    def _send(self, reply: str, data: bytes) -> None:
        with contextlib.suppress(Unavailable):  # whoever asked asks again
            self._link.send(reply, data)


class _Shelf(Generic[_T]):
    """Things under names, the first put there taken first; what nobody takes is thrown away after a while."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, deque[tuple[_T, float]]] = OrderedDict()

    def peek(self, name: str) -> _T | None:
        queue = self._held.get(name)
        return queue[0][0] if queue is not None and queue[0][1] > time.monotonic() - _KEPT else None

    def take(self, name: str) -> _T | None:
        value = self.peek(name)
        queue = self._held.get(name)
        if queue is not None:
            queue.popleft()
            if not queue:
                del self._held[name]
        return value

    def drop(self, name: str) -> None:
        self._held.pop(name, None)

    def put(self, name: str, value: _T) -> None:
        now = time.monotonic()
        while self._held and next(iter(self._held.values()))[0][1] < now - _KEPT:
            self._held.popitem(last=False)
        self._held.setdefault(name, deque()).append((value, now))


def _key(message: Message) -> str:
    return next((text for name, text in message.headers.items() if name.lower() == "nats-msg-id"), "")


def _print(message: Message) -> str:
    """What is the same of a message as it was said and as the stream tells it: its id, where it has one, else all."""
    key = _key(message)
    return derive_id(message.subject, key) if key else derive_id(message.subject, "", message.data.decode("latin-1"))
