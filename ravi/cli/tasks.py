"""`ravi tasks`: work with a status and an assignee."""

import sys
from collections.abc import Mapping
from typing import Any

import click

from ravi.cli.main import Face, Noun
from ravi.errors import UsageError
from ravi.porcelain import tasks as porcelain

SHOWN = ("id", "status", "assignee", "title")  # what a list shows


@click.group(cls=Noun)
def tasks() -> None:
    """Work with a status and an assignee; the bare noun lists."""


def _keys(
    assignee: str | None,
    parent: str | None,
    depends_on: tuple[str, ...],
    priority: int | None,
    labels: tuple[str, ...],
    due: str | None,
    report_to: tuple[str, ...],
    sets: tuple[str, ...],
) -> dict[str, Any]:
    """The options of `new` and `edit` as front matter, what is empty as None; `--set KEY=VALUE` is for other keys."""
    keys: dict[str, Any] = {
        "assignee": assignee,
        "parent": parent,
        "depends_on": depends_on or None,
        "priority": priority,
        "labels": labels or None,
        "due": due,
        "report_to": report_to or None,
    }
    chosen = {key: _given(value) for key, value in keys.items() if value is not None}
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {text!r}: write KEY=VALUE")
        chosen[key] = int(value) if value.isdigit() and str(int(value)) == value else value or None
    return chosen


def _given(value: Any) -> Any:
    if isinstance(value, tuple):
        return [word for word in value if word.strip()] or None
    return (value.strip() or None) if isinstance(value, str) else value


def _key_options(command: Any) -> Any:
    for option in reversed(
        [
            click.option("--assignee", "-a", help="Agent or contact that takes it."),
            click.option("--parent", "-p", help="Task that this one is part of."),
            click.option(
                "--depends-on", "-d", multiple=True, metavar="ID", help="Task that must end first; repeatable."
            ),
            click.option("--priority", type=int, help="Higher is more urgent."),
            click.option("--label", "-l", "labels", multiple=True, help="Repeatable."),
            click.option("--due", help="A day or a moment, ISO 8601."),
            click.option(
                "--report-to", multiple=True, metavar="TARGET", help="Who is told the end, such as task:ID; repeatable."
            ),
            click.option(
                "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Any other key of TASK.md; repeatable."
            ),
        ]
    ):
        command = option(command)
    return command


def _text(body: str | None) -> str:
    if body != "-":
        return body or ""
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as fault:
        raise UsageError(f"what comes from stdin is not UTF-8: {fault}") from None


@tasks.command()
@click.argument("title")
@click.option("--body", "-b", help="The work order; `-` reads it from stdin.")
@click.option("--status", type=click.Choice(["draft", "open"]), help="`open` unless said.")
@click.option("--id", "id_", help="An id of your own.")
@_key_options
@click.pass_obj
def new(face: Face, /, title: str, body: str | None, status: str | None, id_: str | None, **options: Any) -> None:
    """Write a new task."""
    from ravi.porcelain import task_changes

    keys = {**_keys(**options), **({"status": status} if status else {}), **({"id": id_} if id_ else {})}
    made = task_changes.new(face.app, title, body=_text(body), keys=keys)
    face.output.show(made, lambda t: f"{t['id']}  {t['path']}")


@tasks.command("list")
@click.option("--all", "all_", is_flag=True, help="Closed ones too.")
@click.option("--status", "-s", help="Only these: a status, or several with commas.")
@click.option("--assignee", "-a", help="Only an agent's or a contact's.")
@click.option("--label", "-l", help="Only with this label.")
@click.option("--parent", "-p", help="Only the children of a task.")
@click.option("--search", "-q", "text", help="Only with this text in title or body.")
@click.option("--limit", "-n", type=click.IntRange(min=1), help="At most so many.")
@click.pass_obj
def list_(face: Face, /, all_: bool = False, **wanted: Any) -> None:  # noqa: FBT001, FBT002 - click passes flags by name
    """What is not closed, most urgent first."""
    if face.output.as_json:
        face.output.write(porcelain.listing_json(face.app, all=all_, **wanted))
    else:
        rows = porcelain.listing(face.app, all=all_, **wanted, fields=SHOWN)
        face.output.show(rows, lambda rows: _rows(face, rows))


@tasks.command()
@click.argument("id_", metavar="ID")
@click.pass_obj
def show(face: Face, /, id_: str) -> None:
    """One task with its body, comments and runs."""
    face.output.show(porcelain.show(face.app, id_), lambda t: _page(face, t))


@tasks.command()
@click.argument("id_", metavar="ID")
@click.option("--title", help="A new title.")
@click.option("--status", help="A new status.")
@click.option("--body", "-b", help="A new work order; `-` reads it from stdin.")
@_key_options
@click.pass_obj
def edit(face: Face, /, id_: str, title: str | None, status: str | None, body: str | None, **options: Any) -> None:
    """Change a task; with no option, in your editor. An empty value removes a key."""
    from ravi.porcelain import task_changes

    words = {key: word for key, word in (("title", title), ("status", status)) if word is not None}
    changes = {**_keys(**options), **words}
    if not changes and body is None:
        face.output.show(_in_editor(face, id_), _one)
        return
    face.output.show(task_changes.edit(face.app, id_, changes, body=_text(body) if body is not None else None), _one)


def _in_editor(face: Face, id_: str) -> dict[str, Any]:
    from ravi.porcelain import task_changes

    if not sys.stdin.isatty():
        raise UsageError(
            "nothing to change, and no terminal for an editor",
            hint=f"name what shall be: `ravi tasks edit {id_} --priority 5`",
        )
    path = porcelain.file_of(face.app, id_)
    click.edit(filename=path)
    return task_changes.taken(face.app, id_)


@tasks.command()
@click.argument("id_", metavar="ID")
@click.argument("text")
@click.pass_obj
def comment(face: Face, /, id_: str, text: str) -> None:
    """Say something about a task; `-` reads it from stdin."""
    from ravi.porcelain import task_changes

    face.output.show(task_changes.comment(face.app, id_, _text(text)), lambda c: c["path"])


@tasks.command()
@click.argument("id_", metavar="ID")
@click.argument("text")
@click.pass_obj
def progress(face: Face, /, id_: str, text: str) -> None:
    """Tell how far a task is."""
    from ravi.porcelain import task_changes

    face.output.show(task_changes.progress(face.app, id_, text), _one)


@tasks.command()
@click.argument("id_", metavar="ID")
@click.option("--summary", "-m", default="", help="What came of it.")
@click.pass_obj
def done(face: Face, /, id_: str, summary: str) -> None:
    """Close a task as done."""
    from ravi.porcelain import task_changes

    face.output.show(task_changes.done(face.app, id_, summary), _one)


@tasks.command()
@click.argument("id_", metavar="ID")
@click.argument("reason")
@click.pass_obj
def block(face: Face, /, id_: str, reason: str) -> None:
    """Say that a task needs a person, and why."""
    from ravi.porcelain import task_changes

    face.output.show(task_changes.block(face.app, id_, reason), _one)


@tasks.command()
@click.argument("id_", metavar="ID")
@click.option("--reason", "-m", default="", help="Why.")
@click.pass_obj
def cancel(face: Face, /, id_: str, reason: str) -> None:
    """Close a task that shall not be done; its run is stopped."""
    from ravi.porcelain import task_changes

    face.output.show(task_changes.cancel(face.app, id_, reason), _one)


@tasks.command()
@click.argument("id_", metavar="ID")
@click.pass_obj
def retry(face: Face, /, id_: str) -> None:
    """Open a task again; its attempts count from one."""
    from ravi.porcelain import task_changes

    face.output.show(task_changes.retry(face.app, id_), _one)


@tasks.command()
@click.argument("id_", metavar="[ID]", required=False, default="")
@click.pass_obj
def tree(face: Face, /, id_: str) -> None:
    """Tasks, their children and the runs of each."""
    from ravi.cli.history import drawn

    face.output.show(porcelain.tree(face.app, id_), lambda roots: drawn(face, roots))


def _one(task: Mapping[str, Any]) -> str:
    return f"{task['id']}  {task['status']}  {task['title']}"


def _rows(face: Face, rows: list[dict[str, Any]]) -> str:
    return face.output.table([[row[key] or "-" for key in SHOWN] for row in rows])


def _page(face: Face, task: Mapping[str, Any]) -> str:
    texts = ("status", "assignee", "parent", "summary", "blocker", "progress", "problem", "why_not_running", "path")
    lists = ("depends_on", "waiting_on", "labels", "runs")
    head = [(key.replace("_", " "), str(task[key])) for key in texts if task.get(key)]
    head += [(key.replace("_", " "), ", ".join(map(str, task[key]))) for key in lists if task.get(key)]
    parts = [face.output.paint(f"{task['id']}: {task['title']}", "bold"), face.output.table(head)]
    if task["body"].strip():
        parts.append(task["body"].strip())
    parts += [f"{face.output.paint(c['author'] + ', ' + c['created'], 'dim')}\n{c['text']}" for c in task["comments"]]
    return "\n\n".join(parts)
