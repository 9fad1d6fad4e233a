"""Events: what happened, as a stream. From the git log always; from NATS and to it, where there is one."""

import json
import os
import queue
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from ravi.app import App
from ravi.core import cloudevents, subjects
from ravi.core.event import Event
from ravi.core.subjects import Names, named
from ravi.errors import NotFound, UsageError
from ravi.store.history import MainLine, commits

_LATELY = 2000  # commits that are looked through for a list
_PATIENCE = 10.0  # seconds for NATS to be there, and to answer
_PULSE = 2.0  # seconds between looks at the main line, whatever rings

Fits = Callable[[Event], bool]


def fitting(kinds: tuple[str, ...] = (), subject: str = "") -> Fits:
    """A test of events: one of these types (`task.*`, `run.>`), and about this (a task, a run, an agent)."""

    def fits(event: Event) -> bool:
        return (not kinds or any(subjects.matches(event.type, kind) for kind in kinds)) and (
            not subject or event.subject == subject or event.subject.startswith(f"{subject}.")
        )

    return fits


def listing(app: App, fits: Fits, *, limit: int = 50) -> list[dict[str, Any]]:
    """The newest events of the main line, oldest first."""
    app.permit_operator("events list")
    with app.view():  # a clone that was never worked in has its main line from here on
        pass
    found: list[Event] = []
    line = MainLine(app.repository)
    for oid in commits(app.root, limit=_LATELY):
        found += reversed([event for event in line.events_of(oid) if fits(event)])
        if len(found) >= limit:
            break
    return [as_json(app, event) for event in reversed(found[:limit])]


def tail(app: App, fits: Fits, *, since: str = "") -> Iterator[dict[str, Any]]:
    """Events as they are recorded, from now on or after a commit; it goes on until the caller stops."""
    from ravi.bus.doorbell import Doorbell

    app.permit_operator("events tail")
    at = _commit(app, since) if since else app.repository.tip()
    line = MainLine(app.repository)
    rings: queue.SimpleQueue[object] = queue.SimpleQueue()
    bell = Doorbell(app.root, rings.put)
    try:
        inside = os.path.relpath(app.repository.dirs.common_dir, app.root)
        if not inside.startswith(".."):
            bell.watch([f"{inside}/refs/ravi"])
        while True:
            for commit, events in line.commits_after(at, 64):
                yield from (as_json(app, event) for event in events if fits(event))
                at = commit
            if at == app.repository.tip():
                _wait(rings)
    finally:
        bell.close()


def stream(app: App, pattern: str) -> Iterator[dict[str, Any]]:
    """What is said on this workspace's subjects on NATS, as it is said. Raises Unavailable."""
    from ravi.porcelain.nats import linked

    app.permit_operator("events stream")
    heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with linked(app, _PATIENCE) as link:
        link.subscribe(_names(app).any(pattern), heard.put)
        while True:
            message = heard.get()
            yield {"on": message.subject, **_said(message.data)}


def replay(app: App, fits: Fits, *, since: str, limit: int | None = None) -> dict[str, Any]:
    """Tell past events on NATS again, those after a commit. Raises NotFound for a commit, Unavailable."""
    from ravi.bus.outlet import replayed
    from ravi.porcelain.nats import linked

    app.permit_operator("events replay")
    start = _commit(app, since)
    line = MainLine(app.repository)

    def past() -> Iterator[Event]:
        at = start
        while found := line.commits_after(at, 64):
            for commit, events in found:
                yield from filter(fits, events)
                at = commit

    with linked(app, _PATIENCE) as link:
        return {"replayed": replayed(islice(past(), limit), link, _names(app))}


def publish(app: App, subject: str, data: str, *, id: str = "") -> dict[str, Any]:
    """Say something on a subject of this workspace. What is for a door (`in.task`) goes through it, here and now.

    Raises UsageError for what is no JSON, and what the door raises; Unavailable where NATS is needed and away.
    """
    app.permit_operator("events publish")
    try:
        told = json.loads(data)
    except ValueError as fault:
        hint = 'quote it for the shell: --data \'{"title": "…"}\''
        raise UsageError(f"--data is not JSON: {fault}", hint=hint) from None
    if subject.startswith("in."):
        from ravi.porcelain import doors

        answer = doors.enter(app, subject.removeprefix("in."), json.dumps(told).encode(), key=id)
        app.publish()
        return answer
    if not subjects.is_kind(subject):
        raise UsageError(f"`{subject}` is no subject", hint="words with dots between: `in.task`, `event.build.done`")
    from ravi.porcelain.nats import linked

    with linked(app, _PATIENCE) as link:
        if subject.startswith("event."):
            ack = link.publish(_names(app).any(subject), json.dumps(told, ensure_ascii=False).encode(), id=id)
            return {"subject": _names(app).any(subject), "stream": ack.stream, "seq": ack.seq}
        link.send(_names(app).any(subject), json.dumps(told, ensure_ascii=False).encode())
        return {"subject": _names(app).any(subject)}


def dead(app: App) -> list[dict[str, Any]]:
    """What came in at a door and could not be taken, with the reason, oldest first."""
    from ravi.porcelain import doors

    app.permit_operator("events dead")
    return doors.buried(app)


def as_json(app: App, event: Event) -> dict[str, Any]:
    """An event as `--json` shows it: the envelope that NATS gets, and the depth of its chain of causes."""
    told: dict[str, Any] = json.loads(cloudevents.render(event, _names(app).name))
    return {**told, "depth": event.depth}


def _names(app: App) -> Names:
    return named(app.settings.name)


def _said(data: bytes) -> dict[str, Any]:
    try:
        told = json.loads(data)
    except ValueError:
        return {"data": data.decode("utf-8", "replace")}
    return told if isinstance(told, dict) else {"data": told}


def _commit(app: App, word: str) -> str:
    from ravi.store import git

    found = git.call(["rev-parse", "--verify", "--quiet", "--end-of-options", f"{word}^{{commit}}"], app.root)
    if found.code:
        raise NotFound(f"{word}: no commit is called so", hint="`ravi log` shows them")
    return found.out.decode().strip()


def _wait(rings: "queue.SimpleQueue[object]") -> None:
    try:
        rings.get(timeout=_PULSE)
        while True:
            rings.get_nowait()
    except queue.Empty:
        pass
