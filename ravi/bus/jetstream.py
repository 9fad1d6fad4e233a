"""JetStream as a bus: a stream is the record, a key of a bucket is the durable consumer's cursor."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ravi.bus.log import LogBus
from ravi.bus.nats import Link, StreamSpec
from ravi.core.event import Event
from ravi.errors import Conflict


@dataclass(frozen=True, slots=True)
class Names:
    """Where a bus lives. Both streams take one subject that ends in `.>`; `cursors` is a bucket.

    An event is one for as long as the stream remembers its id: give `events` a duplicate window as long as its age.
    """

    events: StreamSpec
    dead: StreamSpec
    cursors: str


class JetStreamBus(LogBus):
    """One consumer of a stream, with the promises of the git log's: after a crash all past the cursor comes again."""

    def __init__(self, link: Link, names: Names, name: str, now: Callable[[], float]) -> None:
        super().__init__(_Stream(link, names), name, now)


class _Stream:
    """What the bus needs of JetStream. A position is `CREATED/SEQ`: in a stream that was made anew it means nothing."""

    def __init__(self, link: Link, names: Names) -> None:
        self._link = link
        self._names = names
        self._cursors = link.bucket(names.cursors)
        link.ensure(names.events)
        link.ensure(names.dead)

    def commits_after(self, commit: str | None, limit: int) -> Sequence[tuple[str, tuple[Event, ...]]]:
        stream = self._names.events.name
        state = self._link.state(stream) or self._link.ensure(self._names.events)
        created, _, seq = (commit or "").partition("/")
        after = int(seq) if created == state.created else 0
        found: list[tuple[str, tuple[Event, ...]]] = []
        while after < state.last_seq and len(found) < limit and (message := self._link.read(stream, after)):
            after = message.seq
            found.append((f"{state.created}/{after}", (decode(message.data),)))
        return found

    def cursor(self, name: str) -> str | None:
        held = self._cursors.get(name)
        return held.value.decode() if held else None

    def move(self, name: str, to: str, was: str | None) -> None:
        held = self._cursors.get(name)
        if (held.value.decode() if held else None) != was:
            raise Conflict(f"cursor {name}: somebody else reads under this name")
        self._cursors.update(name, to.encode(), held.revision if held else 0)

    def record(self, event: Event) -> bool:
        subject = f"{self._names.events.subjects[0].removesuffix('.>')}.{event.type}"
        return not self._link.publish(subject, encode(event), id=event.id).duplicate

    def bury(self, name: str, event: Event, reason: str) -> None:
        body = json.dumps({"reason": reason, "event": json.loads(encode(event))}).encode()
        self._link.publish(self._grave(name), body, id=f"{name}/{event.id}")

    def buried(self, name: str) -> Sequence[tuple[Event, str]]:
        found, after = [], 0
        while message := self._link.read(self._names.dead.name, after, subject=self._grave(name)):
            after, body = message.seq, json.loads(message.data)
            found.append((_event(body["event"]), body["reason"]))
        return found

    def _grave(self, name: str) -> str:
        return f"{self._names.dead.subjects[0].removesuffix('.>')}.{name}"


def encode(event: Event) -> bytes:
    """An event as CloudEvents 1.0 JSON; `commit` and `depth` are extension attributes."""
    words = {
        "specversion": "1.0",
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "subject": event.subject,
        "time": event.time,
        "commit": event.commit,
        "depth": event.depth,
        "data": dict(event.data),
    }
    return json.dumps({key: value for key, value in words.items() if value != ""}, ensure_ascii=False).encode()


def decode(data: bytes) -> Event:
    """The event that `encode` wrote."""
    return _event(json.loads(data))


def _event(words: dict[str, Any]) -> Event:
    return Event(
        words["id"], words["type"], words.get("subject", ""), words["source"], words.get("time", ""),
        words.get("commit", ""), words.get("depth", 0), words.get("data", {}),
    )  # fmt: skip
