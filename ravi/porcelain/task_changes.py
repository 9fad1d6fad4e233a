"""Tasks made and changed, as people and agents ask for it."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ravi.app import App
from ravi.core import document
from ravi.core import task as tasks
from ravi.core.ids import derive_id, is_valid, new_id, slug
from ravi.core.task import Task
from ravi.core.times import stamp
from ravi.core.trailers import Message
from ravi.errors import Conflict, Malformed, NotFound, Refused, UsageError
from ravi.porcelain.shipped import template
from ravi.porcelain.tasks import file_of, find
from ravi.store.repository import Reading
from ravi.store.writer import Draft, Tip

_LONGEST = 8000  # characters of a summary or a blocker: it lies in front matter, where people read it


def new(
    app: App,
    title: str,
    *,
    body: str = "",
    keys: Mapping[str, Any] | None = None,
    event: str = "",
) -> dict[str, Any]:
    """Write a new task and return it. Raises NotFound for a parent or upstream that does not exist.

    A run's child gets an id from its cause, so a retried run that creates it again gets the same task back; so does who
    delivers the same `event` (an idempotency key) again.
    """
    title = " ".join(title.split())
    if not title:
        raise UsageError("a task needs a title")
    front = {key: value for key, value in (keys or {}).items() if value not in (None, "", (), [])}
    app.repository.objects.start()  # git gets ready while we ask who is asking
    run = app.run
    with app.view() as view:
        if run is not None:
            front.setdefault("parent", run.task)
        _name_whole(front, view)
        parent = str(front.get("parent") or "")
        app.permit("tasks.new", view.task(parent) if parent else None, view)
        now = app.now()
        if run is not None:
            event = derive_id("child", run.task, str(run.first), title, str(front.get("assignee") or ""))
            id = f"{slug(title)}-{event[:6]}"
            if existing := view.task(id):
                return app.task_json(existing, view)
        else:
            suffixed = f"{slug(title)}-{event[:6]}" if event else new_id(title, os.urandom(4))
            id = str(front.pop("id", "") or suffixed)
            event = event or derive_id("task.created", id, stamp(now))
        if not is_valid(id):
            raise UsageError(f"`{id}` is not an id", hint="ids are a-z, 0-9, `.`, `_` and `-`, at most 64 letters")
        path = f"tasks/{now.strftime('%Y/%m/%d')}/{id}/TASK.md"
        whole = {
            "id": id,
            "title": title,
            "status": front.pop("status", tasks.OPEN),
            **front,
            "created": stamp(now),
            "updated": stamp(now),
            "created_by": app.actor.name,
        }
        data = document.edit(template("TASK.md"), whole, f"\n{body.rstrip()}\n" if body.strip() else "", path=path)
        task = tasks.parse(path, data)
        app.refuse_problems(task, view)

        recorded = app.repository.recorded(event, view)

        def propose(tip: Tip) -> Draft | None:
            if recorded(tip.commit):
                return None
            if tip.read(path) is not None or app.repository.task_path(id):
                raise Conflict(f"there is a task `{id}` already")
            return Draft(
                Message(f"task {id}: created by {app.actor.name}", "", app.trailers(task, event, parent=parent)),
                {path: data},
                app.signature(),
            )

        app.repository.writer.record(propose)
        app.publish(task)
        _look_at_assignee(app, task, view)
        return app.task_json(task, view)


def edit(app: App, id: str, changes: Mapping[str, Any], *, body: str | None = None) -> dict[str, Any]:
    """Change keys of a task (None removes one), and its body when given; nothing else in the file is touched."""
    if "id" in changes:
        raise UsageError("ids never change", hint="make a new task, or copy the folder: a copy is given an id")
    for key in ("title", "status"):
        if changes.get(key) is not None and not str(changes[key]).strip():
            raise UsageError(f"the {key} of a task cannot be empty")
    return _change(app, id, "tasks.edit", changes, "edited", body=body)


def comment(app: App, id: str, text: str, *, event: str = "") -> dict[str, Any]:
    """Say something about a task; it is a file of its own in the task's comments/.

    What is delivered again under the same `event` (an idempotency key) is said once.
    """
    from ravi.core import comment as comments

    if not text.strip():
        raise UsageError("there is nothing to say")
    with app.view() as view:
        task = find(view, id)
        app.permit("tasks.comment", task, view)
        now = app.now()
        key = event or os.urandom(6).hex()
        event = event or derive_id("comment", task.id, key)
        path = comments.place(task.folder, now, key)
        data = document.render(comments.front(app.actor.name, now), text.rstrip() + "\n")
        message = Message(f"task {task.id}: comment by {app.actor.name}", text, app.trailers(task, event))
        draft = Draft(message, {path: data}, app.signature())
        recorded = app.repository.recorded(event, view)
        app.repository.writer.record(lambda tip: None if recorded(tip.commit) else draft)
        app.publish()
    return {"task": task.id, "author": app.actor.name, "created": stamp(now), "text": text.strip(), "path": path}


def progress(app: App, id: str, text: str) -> dict[str, Any]:
    """Tell how far it is. From a run this is a sign of life, not a commit; the run's end writes it into the task."""
    with app.view() as view:
        task = find(view, id)
        app.permit("tasks.progress", task, view)
        run = app.run
        if run is not None:
            app.repository.live_note(run.id, {"progress": " ".join(text.split()), "seen": stamp(app.now())})
            return app.task_json(replace(task, progress=text), view)
    return _change(app, id, "tasks.progress", {"progress": " ".join(text.split())}, "progress told")


def done(app: App, id: str, summary: str = "") -> dict[str, Any]:
    """Close a task as done. From its own run this is declared now and becomes true when the run ends well."""
    return _close(app, id, tasks.DONE, summary)


def block(app: App, id: str, reason: str) -> dict[str, Any]:
    """Say that a person is needed. From its own run this is declared now and becomes true when the run ends."""
    return _close(app, id, tasks.BLOCKED, reason)


def cancel(app: App, id: str, reason: str = "") -> dict[str, Any]:
    """Close a task that shall not be done; a live run of it is stopped."""
    changes = {"status": tasks.CANCELLED, "blocker": None, **({"summary": reason} if reason else {})}
    return _change(app, id, "tasks.cancel", changes, "cancelled", refuse=tasks.CLOSED)


def retry(app: App, id: str) -> dict[str, Any]:
    """Open a task again, however it ended; its attempts count from one."""
    changes = {"status": tasks.OPEN, "blocker": None, "summary": None}
    return _change(app, id, "tasks.retry", changes, "opened again", refuse=frozenset({tasks.OPEN}))


def _close(app: App, id: str, status: str, text: str) -> dict[str, Any]:
    if len(text) > _LONGEST:
        raise UsageError(f"{len(text)} characters are too many for a summary", hint="put them into a comment or a file")
    with app.view() as view:
        task = find(view, id)
        app.permit(f"tasks.{'done' if status == tasks.DONE else 'block'}", task, view)
        if task.is_closed:
            raise Refused(
                f"task {task.id} is {task.status} already", hint=f"`ravi tasks retry {task.id}` opens it again"
            )
        run = app.run
        if run is not None:
            app.repository.declare(run.id, status, text, app.signature())
            return app.task_json(replace(task, summary=text), view)
    if status == tasks.DONE:  # nobody has to do anything any more
        changes = {"status": status, "blocker": None, **({"summary": text} if text else {})}
        return _change(app, id, "tasks.done", changes, "done", refuse=tasks.CLOSED)
    changes = {"status": status, **({"blocker": text} if text else {})}
    return _change(app, id, "tasks.blocked", changes, "blocked", refuse=tasks.CLOSED)


def _change(
    app: App,
    id: str,
    verb: str,
    changes: Mapping[str, Any],
    said: str,
    *,
    body: str | None = None,
    refuse: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    app.repository.objects.start()
    with app.view() as view:
        task = find(view, id)
        app.permit(verb, task, view)
        changes = dict(changes)
        _name_whole(changes, view)
        app.look(task.path)
        now = app.now()
        result: list[Task] = []

        def propose(tip: Tip) -> Draft:
            data = tip.read(task.path)
            if data is None:
                raise NotFound(f"task {task.id} was deleted")
            current = tasks.parse(task.path, data)
            if current.status in refuse:
                raise Refused(
                    f"task {task.id} is {current.status} already", hint=f"`ravi tasks show {task.id}` tells more"
                )
            edited = document.edit(data, {**changes, "updated": stamp(now)}, body=body)
            after = tasks.parse(task.path, edited)
            app.refuse_problems(after, view)
            result.append(after)
            event = derive_id("task.edited", task.id, stamp(now), os.urandom(4).hex())
            return Draft(
                Message(f"task {task.id}: {said} by {app.actor.name}", "", app.trailers(after, event)),
                {task.path: edited},
                app.signature(),
            )

        app.repository.writer.record(propose)
        app.publish(result[-1])
        if "assignee" in changes:
            _look_at_assignee(app, result[-1], view)
        return app.task_json(result[-1], view)


def _look_at_assignee(app: App, task: Task, view: Reading) -> None:
    """Warn when the name is almost that of an agent: it may be a person's, and it may be a mistake."""
    if os.path.exists(
        os.path.join(app.root, "agents", task.assignee or ".", "AGENT.md")
    ):  # saved, and not recorded yet
        return
    names = [agent.name for agent in view.agents()] if task.assignee else []
    if names and task.assignee not in names and (near := app.near(task.assignee, names)):
        app.notices.append(f"no agent `{task.assignee}`; {near} a person has it then")


def _name_whole(keys: dict[str, Any], view: Reading) -> None:
    """Replace shortened ids of other tasks by whole ones. Raises NotFound for those that do not exist."""
    if parent := keys.get("parent"):
        keys["parent"] = find(view, parent).id
    if depends := keys.get("depends_on"):
        keys["depends_on"] = [find(view, id).id for id in depends]


def taken(app: App, id: str) -> dict[str, Any]:
    """Take what a person just saved in a task's file, and return the task. Raises Malformed for a mistake in it."""
    path = os.path.relpath(file_of(app, id), app.root)
    recorded = app.repository.settle((path,), 0.0, 0.0)
    app.publish()
    with app.view() as view:
        wrong = [(p.message, p.line, p.key) for p in recorded.problems if p.path == path]
        wrong += [
            (row["message"], row["line"], row["key"])
            for row in view.problems()
            if row["path"] == path and row["severity"] == "error"
        ]
        for message, line, key in wrong:
            hint = f"what you wrote is kept as it is; mend it with `ravi tasks edit {id}`"
            raise Malformed(message, path=path, line=line, key=key, hint=hint)
        task = find(view, id)
        _look_at_assignee(app, task, view)
        return app.task_json(task, view)
