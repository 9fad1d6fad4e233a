"""Tasks, as people and agents look at them. What they change is in `task_changes`."""

import json
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ravi.app import App
from ravi.errors import UsageError
from ravi.store.index_view import SHOWN
from ravi.store.repository import Reading

if TYPE_CHECKING:
    from ravi.core.task import Task


def listing(app: App, **wanted: Any) -> list[dict[str, Any]]:
    """Tasks that are not closed (all with `all=True`), most urgent first. `fields` names the keys that are wanted."""
    _look_at_status(app, wanted)
    with app.view() as view:
        rows = view.list_tasks(**wanted)
        if app.run is None:
            return rows
        from ravi.engine.policy import given

        mine = given(app.run, view)
        return [row for row in rows if row["id"] in mine]


def listing_json(app: App, **wanted: Any) -> str:
    """What `listing` gives, as the text of one JSON array: with many tasks, many times faster."""
    if app.run is not None:
        return json.dumps(listing(app, **wanted), ensure_ascii=False)
    _look_at_status(app, wanted)
    with app.view() as view:
        return view.tasks_json(**wanted)


def show(app: App, id: str) -> dict[str, Any]:
    """One task with its body, comments and runs."""
    with app.view() as view:
        task = find(view, id)
        app.permit("tasks.show", task, view)
        said = view.comments(task.id)
        return {
            **app.task_json(task, view),
            "body": task.body,
            "comments": [{"author": c.author, "created": c.created, "text": c.text, "kind": c.kind} for c in said],
            "why_not_running": app.explain(task, view) if not task.is_closed else "",
        }


def tree(app: App, id: str = "") -> list[dict[str, Any]]:
    """Tasks with their children, as nested lists, and the runs of each."""
    with app.view() as view:
        if id:
            task = find(view, id)
            app.permit("tasks.tree", task, view)
            return [_branch(app, task, view, frozenset())]
        app.permit("tasks.tree", None, view)
        roots = [t for t in view.tasks() if not t.parent or view.task(t.parent) is None]
        return [_branch(app, task, view, frozenset()) for task in roots]


def find(view: Reading, id: str) -> "Task":
    """A task by its id, or by the beginning of it. Raises NotFound."""
    task = view.task(id) or view.task(view.resolve(id))
    assert task is not None, "resolve answers ids that are there"
    return task


def file_of(app: App, id: str) -> str:
    """Where a task's TASK.md lies in the person's tree, for an editor."""
    with app.view() as view:
        task = find(view, id)
        app.permit("tasks.edit", task, view)
    return os.path.join(app.root, task.path)


def refuse_unknown(app: App, words: str, known: Iterable[str]) -> None:
    """Raise UsageError when one of `words`, with commas between them, is no status there is."""
    for word in map(str.strip, words.split(",") if words else ()):
        if word not in known:
            raise UsageError(f"no status `{word}`", hint=app.near(word, known) or f"there are: {', '.join(known)}")


def _look_at_status(app: App, wanted: Mapping[str, Any]) -> None:
    if wanted.get("status") is not None:
        refuse_unknown(app, wanted["status"] or " ", SHOWN)


def _branch(app: App, task: "Task", view: Reading, above: frozenset[str]) -> dict[str, Any]:
    children = [c for c in view.children(task.id) if c.id not in above]
    below = above | {task.id}
    return {
        **app.task_json(task, view),
        "run_list": [app.run_json(run) for run in view.runs(task.id)],
        "children": [_branch(app, child, view, below) for child in children],
    }
