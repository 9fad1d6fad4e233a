"""From differences to events: what a commit on the main line changed, told in the words of `ravi.core.event`."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from ravi.core import event as ev
from ravi.core import run as runs
from ravi.core.agent import Agent
from ravi.core.comment import Comment
from ravi.core.event import Event
from ravi.core.ids import derive_id
from ravi.core.places import Noun, Problem
from ravi.core.run import Run
from ravi.core.task import Task
from ravi.core.trailers import Message

Document = Noun


@dataclass(frozen=True, slots=True)
class Change:
    """One document before and after a commit; None where there was, or is, none."""

    path: str
    old: Document | None
    new: Document | None


_ENDED = {
    runs.SUCCEEDED: ev.RUN_COMPLETED,
    runs.FAILED: ev.RUN_FAILED,
    runs.INTERRUPTED: ev.RUN_FAILED,
    runs.DEAD: ev.RUN_DEAD,
    runs.CANCELLED: ev.RUN_CANCELLED,
}
# Causes before what follows from them: an agent is there before the task it takes, a run ends before its task closes.
_ORDER = (
    ev.AGENT_CHANGED, ev.RUN_COMPLETED, ev.RUN_FAILED, ev.RUN_DEAD, ev.RUN_CANCELLED, ev.RUN_REVERTED,
    ev.TASK_CREATED, ev.TASK_EDITED, ev.TASK_CLOSED, ev.TASK_COMMENTED, ev.PROBLEM_FOUND,
)  # fmt: skip
_Told = tuple[str, tuple[str, ...], dict[str, Any]]  # type, the parts of the id with the subject first, data
_TASK_FIELDS = tuple(f.name for f in fields(Task) if f.name != "updated")


def events_of(commit: str, message: Message, changes: Iterable[Change], *, time: str = "") -> tuple[Event, ...]:
    """The events of one commit, in a fixed order; ids come from (commit, type, subject), so reading twice is once.

    An event that `message_of` spelled into the commit comes first, under the id it was published with.
    """
    depth = _depth(message)
    told = {"callbacks": list(message.callbacks)} if message.callbacks else {}
    found = [
        Event(derive_id(commit, kind, *key), kind, key[0], time=time, commit=commit, depth=depth, data={**data, **told})
        for kind, key, data in _told(_moves(changes))
    ]
    found.sort(key=lambda e: (_ORDER.index(e.type), e.subject, e.data.get("path", "")))
    published = event_in(commit, message)
    return (published, *found) if published else tuple(found)


def message_of(event: Event) -> Message:
    """The commit message that records an event from elsewhere (a timer, a door) without changing a document."""
    told = {k: v for k, v in asdict(event).items() if k != "commit" and v not in ("", {}, 0)}
    return Message(
        f"event {event.id}: {event.type} {event.subject}",
        json.dumps(told, sort_keys=True),
        {"Ravi-Event": event.id, "Ravi-Depth": str(event.depth)},
    )


def event_in(commit: str, message: Message) -> Event | None:
    """The event that `message_of` spelled, if this message is one of those."""
    if not message.subject.startswith("event ") or "Ravi-Event" not in message.trailers:
        return None
    try:
        told = json.loads(message.body)
        event = Event(**{"subject": "", **told, "commit": commit})
    except (ValueError, TypeError):
        return None
    is_sound = isinstance(event.depth, int) and isinstance(event.data, dict)
    return event if is_sound and event.id == message.trailers["Ravi-Event"] else None


def _moves(changes: Iterable[Change]) -> Iterable[Change]:
    """The same changes, with a document that left one path and came back at another as one: a move changes nothing."""
    listed = [(change, _identity(change.old), _identity(change.new)) for change in changes]
    left = {was: change.old for change, was, now in listed if was and was != now}
    moved = left.keys() & {now for _, was, now in listed if was != now}
    for change, was, now in listed:
        if was == now or (was not in moved and now not in moved):
            yield change
            continue
        if was not in moved:  # its place was taken
            yield Change(change.path, change.old, None)
        if change.new is not None:
            yield Change(change.path, left[now] if now in moved else None, change.new)


def _identity(noun: Document | None) -> tuple[str, ...]:
    """What stays the same when a document moves; () for one that has nothing of the kind."""
    match noun:
        case Task() | Run() if noun.id:
            return (type(noun).__name__, noun.id)
        case Comment() if noun.task:
            return ("Comment", noun.task, noun.path.rpartition("/")[2])
    return ()


def _told(changes: Iterable[Change]) -> Iterable[_Told]:
    for change in changes:
        match change.old, change.new:
            case _, Problem() as new if new != change.old:
                yield ev.PROBLEM_FOUND, (new.path,), _problem(new)
            case old, Task() as new:
                yield from _task(old, new)
            case Task() as old, None:
                yield from _removed(old)
            case old, Run() as new if new.status in _ENDED and not (isinstance(old, Run) and old.status == new.status):
                yield _ENDED[new.status], (new.id,), _run(new)
            case Run() as old, None if old.status in _ENDED:
                yield ev.RUN_REVERTED, (old.id,), _run(old)
            case old, Agent() as new if new != old:
                yield ev.AGENT_CHANGED, (new.name,), {"path": new.path}
            case Agent() as old, None:
                yield ev.AGENT_CHANGED, (old.name,), {"path": old.path, "removed": True}
            case old, Comment() as new if not isinstance(old, Comment):
                data = {"path": new.path, "author": new.author, "kind": new.kind}
                yield ev.TASK_COMMENTED, (new.task, new.path), data


def _task(old: Document | None, new: Task) -> Iterable[_Told]:
    if isinstance(old, Task) and old.id != new.id:  # another task lay here
        yield from _removed(old)
        old = None
    if old is None:
        yield ev.TASK_CREATED, (new.id,), {"path": new.path, "status": new.status}
    elif not isinstance(old, Task):  # it was not readable
        yield ev.TASK_EDITED, (new.id,), {"path": new.path, "was": "", "status": new.status, "changed": []}
    else:
        changed = [name for name in _TASK_FIELDS if getattr(old, name) != getattr(new, name)]
        data = {"path": new.path, "was": old.status, "status": new.status, "changed": changed}
        if new.is_closed and not old.is_closed:
            yield ev.TASK_CLOSED, (new.id,), data
        elif changed:
            yield ev.TASK_EDITED, (new.id,), data


def _removed(old: Task) -> Iterable[_Told]:
    if not old.is_closed:  # nobody will close it any more, so who waits for it must hear of it here
        yield ev.TASK_CLOSED, (old.id,), {"path": old.path, "was": old.status, "status": "", "removed": True}


def _run(run: Run) -> dict[str, Any]:
    return {"path": run.path, "task": run.task, "agent": run.agent, "status": run.status, "reason": run.reason}


def _problem(problem: Problem) -> dict[str, Any]:
    return {"path": problem.path, "line": problem.line, "key": problem.key, "message": problem.message}


def _depth(message: Message) -> int:
    told = message.trailers.get("Ravi-Depth", "")
    return int(told) if told.isascii() and told.isdigit() else 0
