"""The doors: what comes in from outside becomes a commit, once, however often it is delivered.

`task` `{title, body?, …any key of TASK.md}` · `comment` `{task, text}` · `event` (anything). `prompt` and `approval`
are refused in words: nothing behind them is built yet.
"""

import os
from collections.abc import Mapping
from typing import Any

from ravi.app import App, clock
from ravi.bus.log import LogBus
from ravi.core import cloudevents, subjects, trailers
from ravi.core.cloudevents import Envelope
from ravi.core.event import Event
from ravi.core.ids import derive_id
from ravi.core.times import stamp
from ravi.errors import Malformed, NotFound, RaviError, Refused
from ravi.porcelain import task_changes
from ravi.store.history import MainLine

DEAD = "doors"  # the name under which what was refused is kept
_OURS = frozenset(
    ("task", "run", "agent", "session", "message", "callback", "approval", "timer", "problem", "ravi")
)  # what these words begin is said by ravi only
_LARGEST = 256 * 1024  # bytes of a raw event: it lies in a commit message


def enter(app: App, door: str, data: bytes, *, key: str = "") -> dict[str, Any]:
    """Take one message, and answer when it is committed: `id` is what was made, `event` is what it is known by.

    `key` is what a second delivery is told by where the message itself has no `id`. Raises a RaviError with the reason
    when it is not taken; then nothing was committed.
    """
    place = f"in.{door}"
    if door not in subjects.DOORS:
        raise NotFound(f"{place}: there is no such door", hint=f"there are: {', '.join(subjects.DOORS)}")
    envelope = cloudevents.parse(data, place)
    event = derive_id("in", door, envelope.id or key or os.urandom(16).hex())
    with app.view() as view:
        recorded = app.repository.recorded(event, view)
    if (commit := recorded(app.repository.tip())) is None:
        match door:
            case "task":
                _task(app, envelope, event, place)
            case "comment":
                _comment(app, envelope, event, place)
            case "event":
                _event(app, envelope, event, place, data)
            case _:
                raise Refused(f"{place}: not yet; this version keeps no sessions and asks for no approvals")
        commit = recorded(app.repository.tip())
    assert commit is not None, "it was just recorded"
    message = trailers.parse(app.repository.objects.commit(commit).message)
    task = message.trailers.get("Ravi-Task", "")
    return {
        "id": task if door == "task" else event,
        "event": event,
        "commit": commit,
        **({"task": task} if task else {}),
    }


def bury(app: App, door: str, data: bytes, reason: str, *, key: str) -> Event:
    """Keep what cannot be taken among the dead, durably, for a person to look at."""
    shown = data[:_LARGEST].decode("utf-8", "replace")
    event = Event(
        derive_id("in", door, key), "problem.refused", door, "door", stamp(app.now()), data={"data": shown, "key": key}
    )
    MainLine(app.repository).bury(DEAD, event, reason)
    return event


def buried(app: App) -> list[dict[str, Any]]:
    """What was not taken, and why, oldest first."""
    told = LogBus(MainLine(app.repository), DEAD, clock).dead()
    rows = [
        {"id": one.event.id, "door": one.event.subject, "time": one.event.time, "reason": one.reason, **one.event.data}
        for one in told
    ]
    return sorted(rows, key=lambda row: str(row["time"]))


def _task(app: App, envelope: Envelope, event: str, place: str) -> None:
    told = dict(_object(envelope, place))
    title = _text(told, "title", place)
    body = told.pop("body", "")
    if not isinstance(body, str):
        raise Malformed("is not text", path=place, key="body")
    told.pop("title")
    task_changes.new(app, title, body=body, keys=told, event=event)


def _comment(app: App, envelope: Envelope, event: str, place: str) -> None:
    told = _object(envelope, place)
    task_changes.comment(app, _text(told, "task", place), _text(told, "text", place), event=event)


def _event(app: App, envelope: Envelope, event: str, place: str, data: bytes) -> None:
    if len(data) > _LARGEST:
        raise Malformed(f"{len(data):,} bytes are too many; {_LARGEST:,} may come in", path=place)
    kind = envelope.type or "external"
    if not subjects.is_kind(kind):
        raise Malformed(f"{kind!r} is not a type: letters, digits, `_`, `-`, with dots between", path=place, key="type")
    if kind.partition(".")[0] in _OURS:
        raise Malformed(f"{kind!r} is a type of ravi's own", path=place, key="type")
    told = envelope.data if isinstance(envelope.data, dict) else {"data": envelope.data}
    MainLine(app.repository).record(
        Event(event, kind, envelope.subject, envelope.source or "outside", stamp(app.now()), data=told)
    )


def _object(envelope: Envelope, place: str) -> Mapping[str, Any]:
    if not isinstance(envelope.data, dict):
        raise Malformed("is not a JSON object", path=place, key="data")
    return envelope.data


def _text(told: Mapping[str, Any], key: str, place: str) -> str:
    value = told.get(key)
    if not isinstance(value, str) or not value.strip():
        raise Malformed("is missing, or is no text", path=place, key=key)
    return value


def is_final(fault: RaviError) -> bool:
    """True when trying the same message again cannot help."""
    return fault.exit_code != 7
